"""A fitted baseline is read as it was written, or not at all."""

from pathlib import Path

import numpy as np
import pytest

from palate.baselines.kept import Kept, read_state, write_state

STATE = {"mean": np.arange(3.0), "trees 0": np.frombuffer(b"tree", np.uint8)}


def test_a_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    kept = Kept(tmp_path, {"seed": 1})
    kept.write("key", STATE)
    found = kept.read("key")
    assert found is not None
    assert found.keys() == STATE.keys()
    assert all((found[name] == STATE[name]).all() for name in STATE)
    assert Kept(tmp_path, {"seed": 2}).read("key") is None
    (tmp_path / "key.npz").rename(tmp_path / "other.npz")
    assert kept.read("other") is None


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    for at in range(len(content) // 3, len(content) // 3 + 60):
        content[at] ^= 0xFF
    file.write_bytes(content)


def without_trees(file: Path) -> None:
    with np.load(file) as stored:
        rest = {name: stored[name] for name in stored.files if name != "trees 0"}
    np.savez(file, **rest)


def with_nan(file: Path) -> None:
    with np.load(file) as stored:
        values = {name: stored[name] for name in stored.files}
    np.savez(file, **values | {"mean": values["mean"] * np.nan})


@pytest.mark.parametrize(
    "damage",
    [
        flipped,
        without_trees,
        with_nan,
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(file.read_bytes()[:100]),
        lambda file: np.save(file.open("wb"), np.arange(3)),
    ],
    ids=["flipped", "without trees", "NaN", "empty", "cut", "an array"],
)
def test_a_damaged_state_is_none(tmp_path: Path, damage) -> None:
    file = tmp_path / "baseline.npz"
    write_state(file, STATE)
    assert read_state(file) is not None
    damage(file)
    assert read_state(file) is None
