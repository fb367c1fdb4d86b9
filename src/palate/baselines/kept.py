"""The fitted baselines of a run: a file `KEY.npz` for each, of numbers and LightGBM's text, without pickles."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from palate import __version__
from palate.baselines.platt import State
from palate.store.artifacts import DAMAGED, atomic_file, sha256_of

KEY = "made from"
CONTENT = "content"


@dataclass(frozen=True)
class Kept:
    """A folder of fitted baselines; a file is valid for its baseline while the data, options and seed of `made_from`
    are the same."""

    folder: Path
    made_from: Mapping[str, Any]
    writes: bool = True
    """Whether newly fitted baselines are kept."""

    def _hash(self, key: str) -> str:
        return sha256_of({"palate": __version__, "baseline": key, **self.made_from})

    def read(self, key: str) -> State | None:
        """What was fitted before; None if there is no valid file."""
        state = read_state(self.folder / f"{key}.npz")
        return state if state is not None and str(state.pop(KEY, "")) == self._hash(key) else None

    def write(self, key: str, state: State) -> None:
        """Keep what was fitted, if the folder is to be written."""
        if not self.writes:
            return
        write_state(self.folder / f"{key}.npz", {KEY: np.array(self._hash(key)), **state})


def read_state(path: Path) -> State | None:
    """The numbers in a file; None if it is missing, or if its content is not what `write_state` wrote."""
    try:
        with np.load(path) as file:
            state = {name: file[name] for name in file.files}
    except DAMAGED:
        return None
    return state if str(state.pop(CONTENT, "")) == _content(state) else None


def write_state(path: Path, state: State) -> None:
    """Write numbers to a file, atomically."""
    arrays: dict[str, Any] = {CONTENT: np.array(_content(state)), **state}
    with atomic_file(path) as file:
        np.savez_compressed(file, **arrays)


def _content(state: State) -> str:
    """A hash of all names, types, shapes and values."""
    found = hashlib.sha256()
    for name in sorted(state):
        array = np.ascontiguousarray(state[name])
        found.update(f"{name} {array.dtype} {array.shape} ".encode())
        found.update(array.tobytes())
    return found.hexdigest()
