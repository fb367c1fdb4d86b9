"""Content keys: what an artifact is made from, and in which entries two keys differ.

A key maps words to JSON values. Whatever Palate keeps (a cache entry, scores, parts of long work, checkpoints, the
stages of a run) is valid as long as the key it was recorded with equals the key of now.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from palate.errors import InputError
from palate.store.artifacts import read_json, sha256_file

Key = Mapping[str, Any]


def as_recorded(key: Key) -> dict[str, Any]:
    """The key as it comes back from a JSON file: tuples are lists, names are text."""
    found: dict[str, Any] = json.loads(json.dumps(dict(key)))
    return found


def changed(then: Key, now: Key) -> list[str]:
    """The entries in which two keys differ, in the order of `now`, then those that only `then` has.

    An entry that a key lacks counts as null: a version with a new option, null by default, finds older keys equal.
    """
    then, now = as_recorded(then), as_recorded(now)
    return [name for name in {**now, **then} if then.get(name) != now.get(name)]


def reason(then: Key, now: Key) -> str:
    """Why what was made from `then` is not valid for `now`: "prompt and cutoff changed"; empty if it is."""
    return worded(changed(then, now))


def worded(names: Sequence[str]) -> str:
    """The names of entries that changed as a clause; empty for none."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) + " changed" if names else ""


def recorded(path: Path) -> dict[str, Any]:
    """A JSON object that Palate wrote for itself; an empty one if the file is missing or damaged."""
    try:
        return dict(read_json(path))
    except (InputError, OSError):
        return {}


class Damage(NamedTuple):
    """A file that is not as recorded, and how it differs: "is missing", "was changed", "has 1 bytes, expected 3"."""

    file: str
    problem: str

    def __str__(self) -> str:
        return f"{self.file} {self.problem}"


def damage_in(folder: Path, files: Mapping[str, Any], *, hashes: bool = True) -> Damage | None:
    """The first file of a folder that is not as recorded; None if all are.

    `files` maps a name to the SHA-256, to the size, or to `{"size": …, "sha256": …}`. Without `hashes` only sizes are
    compared.
    """
    for name, record in files.items():
        known = record if isinstance(record, dict) else {"size" if isinstance(record, int) else "sha256": record}
        try:
            size = (folder / name).stat().st_size
            if known.get("size", size) != size:
                return Damage(name, f"has {size:,} bytes, expected {known['size']:,}")
            # This reads every byte: 0.7 s a GB on a core with SHA instructions (measured: 1.5 GB/s), some 2 s without,
            # or what the disk takes. The pages that it reads are those that are wanted next.
            if hashes and "sha256" in known and sha256_file(folder / name) != known["sha256"]:
                return Damage(name, "was changed")
        except (FileNotFoundError, NotADirectoryError):
            return Damage(name, "is missing")
        except OSError:
            return Damage(name, "is not readable")
    return None
