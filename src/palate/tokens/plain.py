"""Tokenize examples whole: render, tokenize, mask, truncate. Faster implementations are tested against this one."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from palate.errors import InputError
from palate.progress import track
from palate.prompt.chat import PROBE, Chat, Encoded
from palate.prompt.messages import to_chat_messages
from palate.tokens.cut import cut_ids, ends
from palate.tokens.fragments import IGNORED as IGNORED
from palate.tokens.lengths import Lengths

if TYPE_CHECKING:
    from datasets import Dataset

STAGE = 2
"""Version of the tokens in the cache's keys; increased if the same input would give other tokens."""
ROWS = 1024
"""Examples in a batch, which is tokenized on all cores."""


@lru_cache(maxsize=8)
def chat_of(tokenizer: Any) -> Chat:
    """The `Chat` of a tokenizer, cached."""
    return Chat(tokenizer)


def tokenize_func(example: Mapping[str, Any], tokenizer: Any, cutoff_len: int) -> dict[str, list[int]]:
    """Token ids, attention mask and labels of one example, each a list of equal length.

    The example has Alpaca's keys, `messages`, or only the rendered `text`. Labels are −100 before the last assistant
    turn's content. A sequence longer than `cutoff_len` loses tokens on the left. In a bare `text`, control text becomes
    control tokens, and the answer is the text after the last assistant header.

    Raises `InputError` if the text has no assistant turn, or if the response alone exceeds `cutoff_len`.
    """
    chat = chat_of(tokenizer)
    if "messages" in example or "output" in example:
        return label(chat.encode(conversation(example)), cutoff_len)
    text = example["text"]
    question, whole = chat.text(PROBE), chat.text(PROBE, add_generation_prompt=True)
    header = whole[len(question) :]
    before, found, _ = text.rpartition(header)
    if not header or not found:
        raise InputError(f"the text has no assistant turn, expected {header!r} in it")
    full = tokenizer(text, truncation=False, padding=False, add_special_tokens=False)["input_ids"]
    prompt = tokenizer(before + header, truncation=False, padding=False, add_special_tokens=False)["input_ids"]
    return label(Encoded(full, len(prompt)), cutoff_len)


def conversation(example: Mapping[str, Any]) -> list[dict[str, str]]:
    """The messages of an example: its `messages`, or those of its Alpaca keys."""
    return list(example["messages"]) if "messages" in example else to_chat_messages(example)


def label(encoded: Encoded, cutoff_len: int) -> dict[str, list[int]]:
    """Mask the prompt and cut on the left; the whole response is kept."""
    ids, prompt_len = encoded
    response = len(ids) - prompt_len
    if response > cutoff_len:
        raise InputError(f"{cutoff_len}, expected at least the {response} tokens of a response", "tokens.cutoff_len")
    kept = cut_ids(ids, *ends("left", cutoff_len))
    labels = cut_ids([IGNORED] * prompt_len + ids[prompt_len:], *ends("left", cutoff_len))
    return {"input_ids": kept, "attention_mask": [1] * len(kept), "labels": labels}


def encode_examples(dataset: "Dataset", chat: Chat, name: str = "") -> Iterator[list[Encoded]]:
    """Tokenize an Alpaca dataset in batches, in order and without truncation; `name` labels the progress bar."""
    batches = dataset.with_format("arrow").iter(batch_size=ROWS)
    for table in track(batches, len(dataset), f"tokenizing {name}".strip()):
        yield chat.encode_batch([conversation(row) for row in table.to_pylist()])


def measure_examples(dataset: "Dataset", chat: Chat, name: str = "") -> Lengths:
    """The lengths of an Alpaca dataset's examples before truncation."""
    ends = [(len(each.ids), each.prompt_len) for batch in encode_examples(dataset, chat, name) for each in batch]
    total, prompt = np.array(ends, np.int32).reshape(-1, 2).T
    return Lengths(total, total - prompt)
