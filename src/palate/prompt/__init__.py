"""Prompt: the text and the token ids of a sample, from one renderer for training and inference."""

from palate.prompt.messages import Message, to_chat_messages, to_generation_messages
from palate.prompt.spec import PromptSpec

__all__ = ["Message", "PromptSpec", "to_chat_messages", "to_generation_messages"]
