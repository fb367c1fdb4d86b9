"""numba's compiler: it compiles a function once per machine, caches the result, and runs it beside Python threads."""

import os
from pathlib import Path

import numba

from palate.store.hub import cache_dir

if not os.access(Path(__file__).parent, os.W_OK) and not numba.config.CACHE_DIR:
    numba.config.CACHE_DIR = str(cache_dir() / "numba")  # the installation is read-only

compiled = numba.njit(cache=True, nogil=True)
reassociated = numba.njit(cache=True, nogil=True, fastmath={"contract", "reassoc", "nsz"})
"""Also adds the terms of a sum in parallel, in an order that depends on their number alone."""
