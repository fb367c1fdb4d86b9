"""Find the ratings whose user rated the same item at the same time before."""

from itertools import pairwise

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate.ratings.blocks import BLOCK, bounds_of
from palate.ratings.order import lengths_of
from palate.store.scratch import Scratch, blocks_of, empty

_FACTORS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0xD6E8FEB86659FD93)
"""Factors of `_hashes`: odd random numbers of 64 bits."""


def duplicates_in(keys: pl.DataFrame, scratch: Scratch | None = None) -> pl.DataFrame:
    """The rows whose user rated the item at that time before: `row`, the columns of `keys`, and the `first` such row.

    Sorted 64-bit hashes find the candidates: 8 bytes for each row, and block by block if users ascend. Only rows with
    equal hashes are compared.
    """
    bounds, users = np.array([0, keys.height]), keys["user_id"]
    if _ascends(users, keys["item_id"]) or _ascends(users, keys["timestamp"]):  # as most published logs are sorted
        return keys.head(0).with_columns(pl.lit(0).alias("row"), pl.lit(0).alias("first"))
    if users.is_sorted():
        bounds = bounds_of(lengths_of(users))
    candidates = []
    for begin, end in pairwise(bounds.tolist()):
        hashes = _hashes(keys.slice(begin, end - begin), scratch if users.len() == end - begin else None)
        ordered = empty(scratch if users.len() == end - begin else None, hashes.size, np.uint64)
        ordered[:] = hashes
        ordered.sort()
        same = [ordered[1:][b][ordered[1:][b] == ordered[:-1][b]] for b in blocks_of(hashes.size - 1)]
        if any(part.size for part in same):
            again = np.concatenate(same)
            candidates += [begin + b.start + np.flatnonzero(np.isin(hashes[b], again)) for b in blocks_of(hashes.size)]
    rows = keys.with_row_index("row")[np.concatenate(candidates) if candidates else []]
    rows = rows.with_columns(pl.col("row").min().over("user_id", "item_id", "timestamp").alias("first"))
    return rows.filter(pl.col("row") > pl.col("first")).sort("row")


def _ascends(first: pl.Series, second: pl.Series) -> bool:
    """Whether each row of two Int64 columns is greater than the one before; False for other columns."""
    if {first.dtype, second.dtype} != {pl.Int64}:
        return False
    for begin in range(0, first.len(), BLOCK):  # a block of a column in chunks is read without a copy of the column
        a, b = first.slice(begin, BLOCK + 1).to_numpy(), second.slice(begin, BLOCK + 1).to_numpy()
        if not ((a[1:] > a[:-1]) | ((a[1:] == a[:-1]) & (b[1:] > b[:-1]))).all():
            return False
    return True


def _hashes(keys: pl.DataFrame, scratch: Scratch | None = None) -> NDArray[np.uint64]:
    """A hash of each row: the sum of the columns' values, each times its factor of `_FACTORS`, modulo 2^64."""
    total = empty(scratch, keys.height, np.uint64)
    total[:] = 0
    for begin in range(0, keys.height, BLOCK):
        part = total[begin : begin + BLOCK]
        for column, factor in zip(keys.slice(begin, BLOCK), _FACTORS, strict=True):
            values = column if column.dtype == pl.Int64 else column.hash()
            part += values.to_numpy().view(np.uint64) * factor
    return total
