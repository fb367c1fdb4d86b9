"""Recommend: the items that a user would most likely like, out of the candidates that are worth asking about."""
