"""Tokens: convert prompts to token ids, attention masks and labels."""
