"""Content keys: the inputs and options that an artifact depends on, and the differences between two keys.

A key maps names to JSON values. An artifact (a cache entry, scores, parts of long work, checkpoints, the stages of a
run) is valid if its recorded key equals the current key.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from palate.errors import InputError
from palate.store.artifacts import read_json, sha256_file

Key = Mapping[str, Any]


def as_recorded(key: Key) -> dict[str, Any]:
    """The key after a round trip through JSON: tuples become lists, names become text."""
    found: dict[str, Any] = json.loads(json.dumps(dict(key)))
    return found


def changed(then: Key, now: Key) -> list[str]:
    """The entries in which two keys differ: those of `now` in its order, then those that only `then` has.

    A missing entry counts as null, so a new version may add an option with the default null and old keys stay equal.
    """
    then, now = as_recorded(then), as_recorded(now)
    return [name for name in {**now, **then} if then.get(name) != now.get(name)]


def reason(then: Key, now: Key) -> str:
    """Why an artifact with the key `then` is invalid for `now`, "prompt and cutoff changed"; empty if it is valid."""
    return worded(changed(then, now))


def worded(names: Sequence[str]) -> str:
    """A clause that names the changed entries; empty if there are none."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) + " changed" if names else ""


def recorded(path: Path) -> dict[str, Any]:
    """A JSON object that Palate wrote; empty if the file is missing or damaged.

    Raises `OSError` or `WorkError` for one that cannot be read just now: it may hold what is to be kept.
    """
    try:
        return dict(read_json(path))
    except (InputError, NotADirectoryError, IsADirectoryError):
        return {}


class Damage(NamedTuple):
    """A file that differs from its record, and the problem: "is missing", "was changed", "has 1 bytes, expected 3"."""

    file: str
    problem: str

    def __str__(self) -> str:
        return f"{self.file} {self.problem}"


def damage_in(folder: Path, files: Mapping[str, Any], *, hashes: bool = True) -> Damage | None:
    """The first file of a folder that differs from its record; None if none does.

    `files` maps a name to a SHA-256, to a size, or to `{"size": …, "sha256": …}`. Without `hashes` only sizes are
    compared.
    """
    for name, record in files.items():
        expected = record if isinstance(record, dict) else {"size" if isinstance(record, int) else "sha256": record}
        try:
            size = (folder / name).stat().st_size
            if expected.get("size", size) != size:
                return Damage(name, f"has {size:,} bytes, expected {expected['size']:,}")
            # Hashing reads every byte: 0.7 s per GB on a core with SHA instructions (measured: 1.5 GB/s), about 2 s
            # without, or as long as the disk needs. The stage reads the same pages next, then from memory.
            if hashes and "sha256" in expected and sha256_file(folder / name) != expected["sha256"]:
                return Damage(name, "was changed")
        except (FileNotFoundError, NotADirectoryError):
            return Damage(name, "is missing")
        except OSError:
            return Damage(name, "is not readable")
    return None
