"""Alpaca files of other origin: read, their answers named, and baselines from their text."""
