"""Models: base weights, adapters, merging, and export to other formats."""
