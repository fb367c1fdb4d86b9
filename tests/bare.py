"""Runs `palate` as on a machine that lacks what preparing needs: `python tests/bare.py WORD … [then WORD …]`.

Packages are hidden, not forbidden: libraries that would take one if it were there do without it too.
"""

import importlib.machinery
import sys
from itertools import groupby
from typing import Any

HIDDEN = ("polars", "datasets", "trl", "numba", "llvmlite", "sklearn", "pyarrow", "matplotlib", "pandas", "scipy")


class Hiding:
    """Finds what `PathFinder` does, but for the hidden packages."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.machinery.PathFinder, name)

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> Any:
        if name.partition(".")[0] in HIDDEN:
            return None
        return importlib.machinery.PathFinder.find_spec(name, path, target)


def hide() -> None:
    """Make imports of the hidden packages fail from now on."""
    loaded = [name for name in HIDDEN if name in sys.modules]
    assert not loaded, f"too late to hide {loaded}"
    sys.meta_path[:] = [Hiding() if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]


if __name__ == "__main__":
    hide()
    from palate.cli import main

    commands = [list(words) for last, words in groupby(sys.argv[1:], lambda word: word == "then") if not last]
    sys.exit(next((code for code in map(main, commands) if code), 0))
