"""Baselines: classical models that predict the same samples as the language model."""
