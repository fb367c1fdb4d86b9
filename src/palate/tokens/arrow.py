"""Write samples to a folder that `datasets.load_from_disk` maps into memory.

The folder has the format of `Dataset.save_to_disk` (Arrow IPC streams, `dataset_info.json`, `state.json`), but is
written directly from arrays, by chunks.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa

from palate.store.artifacts import write_json
from palate.tokens.fragments import Ints, Longs

Chunk = tuple[Ints, Ints, Longs]
"""`input_ids` and `labels` (t,) int32, and `offsets` (n + 1,) int64: sample i is `[offsets[i] : offsets[i + 1]]`."""
Batch = tuple[Ints, Ints, Ints]
"""`input_ids` and `labels` (t,), and the lengths (n,) of samples that are written together."""

TYPES = {"input_ids": "int32", "attention_mask": "int8", "labels": "int32"}
"""The smallest types for the trainers' columns; collators convert all three to int64 tensors."""
TOKEN_BYTES = 9
SHARD_BYTES = 500 << 20
STATE = "state.json"
FEATURES = {
    # All versions of `datasets` read the name `Sequence`; since 4.0 they convert it to `List`.
    column: {"feature": {"dtype": type_, "_type": "Value"}, "_type": "Sequence"}
    for column, type_ in TYPES.items()
}


def write_dataset(
    folder: Path,
    chunks: Iterable[Chunk],
    *,
    split: str | None = None,
    name: str | None = None,
    description: str = "",
    shard_bytes: int = SHARD_BYTES,
) -> int:
    """Write samples into `folder`, which is empty or absent, and return their number.

    Columns: `input_ids` list<int32>, `attention_mask` list<int8> (ones), `labels` list<int32>. Memory use is one chunk;
    a shard ends before the first batch that would exceed `shard_bytes`. The fingerprint depends on the samples and the
    shards, not on the chunks. `state.json` is written last, because a folder without it is not a dataset.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shard, rows = _shards(shard_bytes), 0
    prints: list[str] = []

    def counted(batches: Iterable[Batch]) -> Iterator[Batch]:
        nonlocal rows
        for batch in batches:
            rows += batch[2].size
            yield batch

    for _, batches in groupby(_batches(chunks, shard_bytes), lambda batch: shard(batch[0].size)):
        with partial(folder, len(prints)).open("wb") as file:
            prints.append(write_shard(file, counted(batches)))
    describe(folder, prints, split=split, name=name, description=description)
    return rows


def write_shard(file: IO[bytes], batches: Iterable[Batch]) -> str:
    """Write a shard, and return the fingerprint of its samples."""
    fields = [(column, pa.list_(pa.type_for_alias(type_))) for column, type_ in TYPES.items()]
    schema = pa.schema(fields, {"huggingface": json.dumps({"info": {"features": FEATURES}})})
    content = [hashlib.sha256() for _ in range(3)]
    with pa.ipc.new_stream(file, schema) as writer:
        for batch in batches:
            writer.write_batch(_record_batch(*batch, schema))
            for digest, array in zip(content, batch, strict=True):
                digest.update(np.ascontiguousarray(array).data)
    return hashlib.sha256(b"".join(digest.digest() for digest in content)).hexdigest()


def shards_of(lengths: Ints, chunks: Iterable[range], shard_bytes: int = SHARD_BYTES) -> list[list[range]]:
    """The samples of each batch of each shard that `write_dataset` makes of these chunks of samples."""
    shard = _shards(shard_bytes)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    batches = (
        range(chunk.start + a, chunk.start + b)
        for chunk in chunks
        for a, b in _ranges(offsets[chunk.start : chunk.stop + 1], shard_bytes)
    )
    each = groupby(batches, lambda batch: shard(int(offsets[batch.stop] - offsets[batch.start])))
    return [list(batches) for _, batches in each]


def describe(
    folder: Path,
    prints: Sequence[str],
    *,
    split: str | None = None,
    name: str | None = None,
    description: str = "",
) -> None:
    """Give the shards of a folder their names, and describe the dataset; `prints` are their fingerprints."""
    if not prints:  # `datasets` cannot read a dataset without files
        with partial(folder, 0).open("wb") as file:
            prints = [write_shard(file, ())]
    names = [f"data-{n:05d}-of-{len(prints):05d}.arrow" for n in range(len(prints))]
    for n, final in enumerate(names):
        partial(folder, n).rename(folder / final)
    naming = {"dataset_name": name} if name else {}
    info = {"citation": "", "description": description, "features": FEATURES, "homepage": "", "license": "", **naming}
    write_json(folder / "dataset_info.json", info)
    state: dict[str, Any] = {
        "_data_files": [{"filename": final} for final in names],
        "_fingerprint": hashlib.sha256("".join(prints).encode()).hexdigest()[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": split,
    }
    write_json(folder / STATE, state)


def partial(folder: Path, shard: int) -> Path:
    """A shard's file while the number of shards is unknown."""
    return folder / f".data-{shard:05d}.arrow"


def _shards(shard_bytes: int) -> Callable[[int], int]:
    """A function that numbers the shard of each next batch, given its number of tokens."""
    shard, room = -1, -1

    def of(tokens: int) -> int:
        nonlocal shard, room
        size = TOKEN_BYTES * tokens
        if size > room:
            shard, room = shard + 1, shard_bytes
        room -= size
        return shard

    return of


def _batches(chunks: Iterable[Chunk], shard_bytes: int) -> Iterator[Batch]:
    """Chunks in batches that fit in a shard."""
    for ids, labels, offsets in chunks:
        for first, last in _ranges(offsets, shard_bytes):
            a, b = int(offsets[first]), int(offsets[last])
            yield ids[a:b], labels[a:b], np.diff(offsets[first : last + 1]).astype(np.int32)


def _ranges(offsets: Longs, shard_bytes: int) -> Iterator[tuple[int, int]]:
    """First and last sample, plus one, of batches that fit in a shard; a longer sample is a batch of its own."""
    most, first = max(1, min(shard_bytes // TOKEN_BYTES, np.iinfo(np.int32).max)), 0
    while first < offsets.size - 1:
        last = int(np.searchsorted(offsets, offsets[first] + most, side="right")) - 1
        last = max(last, first + 1)
        yield first, last
        first = last


def _record_batch(ids: Ints, labels: Ints, lengths: Ints, schema: pa.Schema) -> pa.RecordBatch:
    """A batch of lists over the arrays, without a copy of them."""
    offsets = np.zeros(lengths.size + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    starts = pa.array(offsets)
    columns = (ids, np.ones(ids.size, np.int8), labels)
    return pa.RecordBatch.from_arrays(
        [pa.ListArray.from_arrays(starts, pa.array(column)) for column in columns], schema=schema
    )
