"""The guide's functions, by the guide's names."""

from palate.prompt.messages import to_chat_messages, to_generation_messages
from palate.tokens.cache import preprocess_datasets_parallel
from palate.tokens.plain import tokenize_func

__all__ = ["preprocess_datasets_parallel", "to_chat_messages", "to_generation_messages", "tokenize_func"]
