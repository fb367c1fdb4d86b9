"""Alpaca files that Palate did not write: the reader, the two answers, and baselines from the text."""
