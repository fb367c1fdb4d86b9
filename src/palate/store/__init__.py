"""Store: files that are whole or absent, the cache, and where models and tokenizers are found."""
