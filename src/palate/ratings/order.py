"""Order ratings by user, then time, then file order, in memory or on the disk."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate.ratings.blocks import bounds_of
from palate.store.scratch import BLOCK, Columns, Scratch

_SAMPLED = 100_000
"""Rows from which the parts of a sort on the disk are estimated."""


def in_order(frame: pl.DataFrame, scratch: Scratch | None = None) -> tuple[pl.DataFrame, NDArray[np.int64]]:
    """The ratings by user, then time, then file order; and the users' numbers of ratings, (u,) int64.

    If users ascend already, as in MovieLens's files, each block of users is sorted by itself in the processor's cache.
    """
    users = frame["user_id"]
    numeric = all(dtype.is_numeric() for dtype in frame.dtypes)
    if not (users.is_sorted() and (numeric or scratch is not None)):
        if scratch is None:
            frame = frame.sort("user_id", "timestamp", maintain_order=True)
        else:
            frame = scratch.table(_sorted_parts(frame, scratch))
        return frame, lengths_of(frame["user_id"])
    counts = lengths_of(users)
    others = [name for name in frame.columns if name != "user_id"]
    blocks = _sorted_blocks(frame.select(others), counts)
    if scratch is not None:
        return scratch.table(blocks).with_columns(users).select(frame.columns), counts
    columns = {"user_id": users.to_numpy()}
    columns |= {name: np.empty(frame.height, frame[name].head(0).to_numpy().dtype) for name in others}
    begin = 0
    for block in blocks:
        for name in others:
            columns[name][begin : begin + block.height] = block[name].to_numpy()
        begin += block.height
    return pl.DataFrame({name: columns[name] for name in frame.columns}), counts


def lengths_of(users: pl.Series) -> NDArray[np.int64]:
    """The lengths of the runs of equal values."""
    return users.rle().struct.field("len").to_numpy().astype(np.int64)


def _sorted_blocks(frame: pl.DataFrame, counts: NDArray[np.int64]) -> Iterator[pl.DataFrame]:
    """Blocks of a table that is grouped by user, each sorted; `counts` are the groups' sizes."""
    ends = np.cumsum(counts)
    for begin, end in pairwise(bounds_of(counts).tolist()):
        block = frame.slice(begin, end - begin)
        first, last = np.searchsorted(ends, [begin, end - 1], side="right")
        yield block[_order(block["timestamp"].to_numpy(), counts[first : last + 1])]


def _sorted_parts(frame: pl.DataFrame, scratch: Scratch) -> Iterator[pl.DataFrame]:
    """The table in parts by ranges of users, each sorted in memory; a user's rows are in one part."""
    users = frame["user_id"]
    sample = users.gather_every(max(1, users.len() // _SAMPLED)).sort()
    begins = sample.gather(np.arange(1, scratch.parts) * sample.len() // scratch.parts).unique().sort()
    parts = [Columns(scratch) for _ in range(begins.len() + 1)]
    for block in frame.iter_slices(BLOCK):
        part = begins.search_sorted(block["user_id"], side="right").to_numpy()
        grouped = block[np.argsort(part, kind="stable")]
        sizes = np.bincount(part, minlength=len(parts))
        for number in np.flatnonzero(sizes).tolist():
            parts[number].append(grouped.slice(int(sizes[:number].sum()), int(sizes[number])))
    while parts:
        rows = parts.pop(0)
        if rows.rows:
            yield rows.table().sort("user_id", "timestamp", maintain_order=True)


def _order(times: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The stable order by user and time of ratings that are grouped by user; `counts` are the groups' sizes.

    If user, time and row fit into one integer, that integer is sorted instead, which is faster.
    """
    user = np.repeat(np.arange(counts.size), counts)
    early = int(times.min())
    time_bits, row_bits = (int(times.max()) - early).bit_length(), (times.size - 1).bit_length()
    if (counts.size - 1).bit_length() + time_bits + row_bits > 63:
        return np.lexsort((times, user))
    key = (user << time_bits | times - early) << row_bits | np.arange(times.size)
    key.sort()
    return key & ((1 << row_bits) - 1)
