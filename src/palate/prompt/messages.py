"""Convert an Alpaca example into chat messages, the form that trainers and servers read."""

from collections.abc import Mapping
from typing import Any

Message = dict[str, str]


def to_generation_messages(example: Mapping[str, Any]) -> list[Message]:
    """The conversation up to the question: system, earlier turns, instruction and input.

    An earlier turn is a message `{"role", "content"}` or LLaMA-Factory's pair `[user, assistant]`.
    """
    messages: list[Message] = []
    if example.get("system"):
        messages.append({"role": "system", "content": example["system"]})
    for turn in example.get("history") or []:
        if isinstance(turn, Mapping):
            messages.append({"role": turn["role"], "content": turn["content"]})
        else:
            user, assistant = turn
            messages += [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    question = example.get("instruction", "")
    if example.get("input"):
        question = f"{question}\n\n{example['input']}"
    messages.append({"role": "user", "content": question})
    return messages


def to_chat_messages(example: Mapping[str, Any]) -> list[Message]:
    """The whole conversation; its last turn is the answer (`output`)."""
    return [*to_generation_messages(example), {"role": "assistant", "content": example.get("output", "")}]
