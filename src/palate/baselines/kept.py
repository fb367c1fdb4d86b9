"""The fitted baselines of a run: a file `KEY.npz` for each, of numbers and LightGBM's text, without pickles."""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from palate import __version__
from palate.baselines.platt import State
from palate.store.artifacts import atomic_file, sha256_of

KEY = "made from"


@dataclass(frozen=True)
class Kept:
    """A folder of fitted baselines; a file is valid while the data, options and seed of `made_from` are the same."""

    folder: Path
    made_from: Mapping[str, Any]
    writes: bool = True
    """Whether newly fitted baselines are kept."""

    @property
    def _hash(self) -> str:
        return sha256_of({"palate": __version__, **self.made_from})

    def read(self, key: str) -> State | None:
        """What was fitted before; None if there is no valid file."""
        state = read_state(self.folder / f"{key}.npz")
        return state if state is not None and str(state.pop(KEY, "")) == self._hash else None

    def write(self, key: str, state: State) -> None:
        """Keep what was fitted, if the folder is to be written."""
        if not self.writes:
            return
        write_state(self.folder / f"{key}.npz", {KEY: np.array(self._hash), **state})


def read_state(path: Path) -> State | None:
    """The numbers in a file; None if it is missing or damaged."""
    try:
        with np.load(path) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile):
        return None


def write_state(path: Path, state: State) -> None:
    """Write numbers to a file, atomically."""
    arrays: dict[str, Any] = dict(state)
    with atomic_file(path) as file:
        np.savez_compressed(file, **arrays)
