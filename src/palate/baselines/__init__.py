"""Baselines: classical models that answer the same questions as the language model."""
