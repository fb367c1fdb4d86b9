"""Tokenize Alpaca datasets, with a cache entry for each dataset, tokenizer and cutoff."""

import hashlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from palate.errors import InputError
from palate.prompt.chat import Chat
from palate.prompt.tokenizer import tokenizer_key
from palate.store.cache import Cache
from palate.tokens.arrow import Chunk, write_dataset
from palate.tokens.plain import IGNORED, STAGE, chat_of, encode_examples

if TYPE_CHECKING:
    from datasets import Dataset


def preprocess_datasets_parallel(
    datasets: Mapping[str, "Dataset"],
    tokenizer: Any,
    cutoff_len: int,
    num_proc: int | None = None,
) -> dict[str, "Dataset"]:
    """Tokenize Alpaca datasets, or take them from the cache.

    Returns for each name a dataset of `input_ids` (int32), `attention_mask` (int8) and `labels` (int32) in the order of
    the input; each row equals the result of `tokenize_func`. `num_proc` has no effect, since texts are tokenized on all
    cores.

    Raises `InputError` if a response alone exceeds `cutoff_len`.
    """
    from datasets import load_from_disk

    tokenized = {}
    for name, dataset in datasets.items():
        chat = chat_of(tokenizer)
        parts = {
            "data": content_hash(dataset),
            **tokenizer_key(tokenizer),
            "cutoff_len": cutoff_len,
            "stage": STAGE,
        }
        build = partial(_build, dataset, chat, cutoff_len, name)
        note = {"data": "these samples are new"}
        tokenized[name] = load_from_disk(str(Cache().entry("preprocessed", parts, build, name=name, note=note)))
    return tokenized


def content_hash(dataset: "Dataset") -> str:
    """SHA-256 of a dataset's rows, independent of their file and of indices such as a shuffle's."""
    import pyarrow as pa

    digest = hashlib.sha256()
    # With batches of one size and without metadata, the bytes depend on the rows alone.
    for table in dataset.with_format("arrow").iter(batch_size=10_000):
        table = table.replace_schema_metadata(None).combine_chunks()
        stream = pa.BufferOutputStream()
        with pa.ipc.new_stream(stream, table.schema) as writer:
            writer.write_table(table)
        digest.update(stream.getvalue())
    return digest.hexdigest()


def _build(dataset: "Dataset", chat: Chat, cutoff_len: int, name: str, folder: Path) -> None:
    write_dataset(folder, _chunks(dataset, chat, cutoff_len, name))


def _chunks(dataset: "Dataset", chat: Chat, cutoff_len: int, name: str) -> Iterator[Chunk]:
    """Ids and labels, cut on the left; the whole response is kept."""
    for batch in encode_examples(dataset, chat, name):
        total, prompt = np.array([(len(each.ids), each.prompt_len) for each in batch]).T
        response = total - prompt
        if response.max() > cutoff_len:
            too_long = response[response > cutoff_len][0]
            raise InputError(
                f"{cutoff_len}, expected at least the {too_long} tokens of a response", "tokens.cutoff_len"
            )
        kept = np.minimum(total, cutoff_len)
        ids = np.concatenate([each.ids[-n:] for each, n in zip(batch, kept.tolist(), strict=True)], dtype=np.int32)
        offsets = np.concatenate([[0], np.cumsum(kept)])
        trained = np.arange(ids.size) >= np.repeat(offsets[1:] - response, kept)
        yield ids, np.where(trained, ids, np.int32(IGNORED)), offsets
