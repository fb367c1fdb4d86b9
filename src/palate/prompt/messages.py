"""From an Alpaca example to chat messages, as every trainer and server understands them."""

from collections.abc import Mapping
from typing import Any

Message = dict[str, str]


def to_generation_messages(example: Mapping[str, Any]) -> list[Message]:
    """The conversation up to the question: system, earlier turns, instruction and input.

    Earlier turns are read as `{"role", "content"}` or as LLaMA-Factory's `[user, assistant]` pairs.
    """
    messages: list[Message] = []
    if example.get("system"):
        messages.append({"role": "system", "content": example["system"]})
    for turn in example.get("history") or []:
        if isinstance(turn, Mapping):
            messages.append({"role": turn["role"], "content": turn["content"]})
        else:
            asked, answered = turn
            messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    question = example.get("instruction", "")
    if example.get("input"):
        question = f"{question}\n\n{example['input']}"
    messages.append({"role": "user", "content": question})
    return messages


def to_chat_messages(example: Mapping[str, Any]) -> list[Message]:
    """The whole conversation, the answer (`output`) being its last turn."""
    return [*to_generation_messages(example), {"role": "assistant", "content": example.get("output", "")}]
