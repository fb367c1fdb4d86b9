"""Proof that a prompt may be cut: no token of the tokenizer spans a cut."""
