"""Write samples to a folder that `datasets.load_from_disk` maps into memory.

The folder has the format of `Dataset.save_to_disk` (Arrow IPC streams, `dataset_info.json`, `state.json`), but is
written directly from arrays, by chunks.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from palate.store.artifacts import write_json
from palate.tokens.fragments import Ints, Longs

Chunk = tuple[Ints, Ints, Longs]
"""`input_ids` and `labels` (t,) int32, and `offsets` (n + 1,) int64: sample i is `[offsets[i] : offsets[i + 1]]`."""

TYPES = {"input_ids": "int32", "attention_mask": "int8", "labels": "int32"}
"""The smallest types for the trainers' columns; collators convert all three to int64 tensors."""
TOKEN_BYTES = 9
SHARD_BYTES = 500 << 20
STATE = "state.json"


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
    a shard ends before the first batch that would exceed `shard_bytes`. The fingerprint depends on the samples, not on
    the chunks. `state.json` is written last, because a folder without it is not a dataset.
    """
    folder.mkdir(parents=True, exist_ok=True)
    features = {column: _list_of(type_) for column, type_ in TYPES.items()}
    fields = [(column, pa.list_(pa.type_for_alias(type_))) for column, type_ in TYPES.items()]
    schema = pa.schema(fields, {"huggingface": json.dumps({"info": {"features": features}})})
    content = [hashlib.sha256() for _ in range(3)]
    rows, shards = 0, 0
    writer, room = None, 0
    try:
        for ids, labels, lengths in _batches(chunks, max(1, min(shard_bytes // TOKEN_BYTES, np.iinfo(np.int32).max))):
            size = TOKEN_BYTES * ids.size
            if writer is None or size > room:
                if writer is not None:
                    writer.close()
                writer, room = pa.ipc.new_stream(str(folder / _partial(shards)), schema), shard_bytes
                shards += 1
            writer.write_batch(_record_batch(ids, labels, lengths, schema))
            room -= size
            rows += lengths.size
            for digest, array in zip(content, (ids, labels, lengths), strict=True):
                digest.update(np.ascontiguousarray(array).data)
        if writer is None:  # `datasets` cannot read a dataset without files
            writer, shards = pa.ipc.new_stream(str(folder / _partial(0)), schema), 1
    finally:
        if writer is not None:
            writer.close()
    names = [f"data-{n:05d}-of-{shards:05d}.arrow" for n in range(shards)]
    for n, final in enumerate(names):
        (folder / _partial(n)).rename(folder / final)
    naming = {"dataset_name": name} if name else {}
    info = {"citation": "", "description": description, "features": features, "homepage": "", "license": "", **naming}
    write_json(folder / "dataset_info.json", info)
    state: dict[str, Any] = {
        "_data_files": [{"filename": final} for final in names],
        "_fingerprint": hashlib.sha256(b"".join(digest.digest() for digest in content)).hexdigest()[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": split,
    }
    write_json(folder / STATE, state)
    return rows


def _list_of(type_: str) -> dict[str, Any]:
    # All versions of `datasets` read this name; since 4.0 they convert it to `List`.
    return {"feature": {"dtype": type_, "_type": "Value"}, "_type": "Sequence"}


def _partial(shard: int) -> str:
    """A shard's name while the number of shards is unknown."""
    return f".data-{shard:05d}.arrow"


def _batches(chunks: Iterable[Chunk], most: int) -> Iterator[tuple[Ints, Ints, Ints]]:
    """Ids, labels and lengths in batches of at most `most` tokens; a longer sample is a batch of its own."""
    for ids, labels, offsets in chunks:
        first = 0
        while first < offsets.size - 1:
            last = int(np.searchsorted(offsets, offsets[first] + most, side="right")) - 1
            last = max(last, first + 1)
            a, b = int(offsets[first]), int(offsets[last])
            yield ids[a:b], labels[a:b], np.diff(offsets[first : last + 1]).astype(np.int32)
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
