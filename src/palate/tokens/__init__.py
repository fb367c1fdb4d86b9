"""Tokens: from text to ids, attention mask and labels."""
