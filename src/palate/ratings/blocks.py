"""Long tables in blocks that fit a processor's cache, no user in two of them."""

import numpy as np
from numpy.typing import NDArray

BLOCK = 1 << 16
"""Rows: eight bytes of each are half a megabyte."""


def bounds_of(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where blocks of about `BLOCK` rows begin, and where the last one ends, in rows that are grouped by user.

    `counts` (u,) int64 are the users' numbers of rows, none of them 0; a user of more rows has a block that holds them.
    """
    ends = np.cumsum(counts)
    rows = int(ends[-1]) if ends.size else 0
    return np.unique(np.append(ends[np.searchsorted(ends, np.arange(BLOCK, rows, BLOCK))], [0, rows]))
