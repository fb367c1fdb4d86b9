"""Split long tables into blocks that fit a processor's cache; a user's rows are in one block."""

import numpy as np
from numpy.typing import NDArray

BLOCK = 1 << 16
"""Rows of a block: eight bytes for each row are half a megabyte."""


def bounds_of(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first row of each block of about `BLOCK` rows, and the end of the last block; rows are grouped by user.

    `counts` (u,) int64 are the users' numbers of rows, all positive. A block is larger if one user has more rows.
    """
    ends = np.cumsum(counts)
    rows = int(ends[-1]) if ends.size else 0
    return np.unique(np.append(ends[np.searchsorted(ends, np.arange(BLOCK, rows, BLOCK))], [0, rows]))
