"""numba's compiler: it compiles a function once per machine, caches the result, and runs it beside Python threads."""
# mypy: allow-untyped-defs, allow-untyped-calls

import os
from pathlib import Path

import numba
import numpy as np

from palate.store.hub import cache_dir

if not os.access(Path(__file__).parent, os.W_OK) and not numba.config.CACHE_DIR:
    numba.config.CACHE_DIR = str(cache_dir() / "numba")  # the installation is read-only

compiled = numba.njit(cache=True, nogil=True)
reassociated = numba.njit(cache=True, nogil=True, fastmath={"contract", "reassoc", "nsz"})
"""Also adds the terms of a sum in parallel, in an order that depends on their number alone."""


@reassociated
def dot(a, b, n):
    """The inner product of the first n values of two arrays."""
    total = a[0] * b[0] * 0
    for i in range(n):
        total += a[i] * b[i]
    return total


@compiled
def bits(x):
    """The number of ones in a uint64."""
    count = 0
    while x:
        x &= x - np.uint64(1)
        count += 1
    return count
