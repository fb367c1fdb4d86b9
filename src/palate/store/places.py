"""Places of outputs: what a command may replace, and what it must leave because the user may have no other copy."""

import glob
import os
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from palate.errors import InputError
from palate.store.artifacts import HALF, MANIFEST, read_json
from palate.store.keys import recorded

_BEGIN = b'{\n  "palate":'
"""The first characters of each manifest."""
LOG = "run.log"
"""The log of a folder of results, which is there before any other file."""


def check_folder(out: Path, command: str, stages: Collection[str]) -> None:
    """Raise `InputError` for a folder that cannot be replaced, or that holds what `command` did not write.

    What it wrote is what a manifest of one of the `stages` lists.
    """
    if _is_new(out):
        return
    if os.path.ismount(out):
        raise InputError("is a mount point and cannot be replaced, expected a folder inside of it", out)
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise InputError("this user may not write here, expected a folder with that permission", out.parent)
    manifest = read_json(out / MANIFEST) if (out / MANIFEST).is_file() else {}
    ours = manifest.get("stage") in stages
    known = {MANIFEST, *manifest["outputs"]} if ours else set()
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        # What `datasets` keeps of its own work on a dataset lies beside that dataset, and is of no use after it.
        if not path.is_dir() and name not in known and not (ours and path.match("cache-*.arrow")):
            raise foreign(out, name, command)


def check_files(out: Path, command: str, stage: str, files: Iterable[str]) -> None:
    """Raise `InputError` for a folder that cannot be written, or whose `files` `command` may not have written.

    What it wrote is what a manifest of this stage lists, or all of them if the process was killed as it replaced them.
    A folder without such a manifest must have no files or folders but hidden ones.
    """
    if _is_new(out):
        return
    if not os.access(out, os.W_OK | os.X_OK):
        raise InputError("this user may not write here, expected a folder with that permission", out)
    record = next((path for name in (MANIFEST, HALF) if (path := out / name).is_file()), None)
    manifest = {} if record is None else recorded(record) or _torn(record, stage)
    known = manifest.get("outputs")
    if manifest.get("stage") != stage:
        found = [path.name for path in out.iterdir() if not path.name.startswith(".")]
    elif record == out / HALF or not isinstance(known, dict):
        found = []
    else:
        found = [name for name in files if name not in known and os.path.lexists(out / name)]
    if found:
        raise foreign(out, min(found), command)


def check_results(out: Path, command: str, files: Iterable[str]) -> None:
    """Raise `InputError` for a folder with some of the `files` of others: it has no log, manifest or data of Palate."""
    manifests = (out / MANIFEST, out / "data" / MANIFEST)
    if not _is_new(out) and not (out / LOG).is_file() and not any("palate" in recorded(path) for path in manifests):
        found = [name for name in files if os.path.lexists(out / name)]
        if found:
            raise foreign(out, found[0], command)


def _torn(manifest: Path, stage: str) -> dict[str, Any]:
    """What is left of a manifest that is no whole JSON: it is of this stage if it begins as all manifests do."""
    return {"stage": stage} if manifest.read_bytes().startswith(_BEGIN) else {}


def check_apart(outputs: Iterable[Path], inputs: Iterable[str]) -> None:
    """Raise `InputError` if an output is at the place of an input, a path or a pattern; links are followed."""
    places = {path.expanduser().resolve(): path for path in outputs}
    for given in inputs:
        found = [given] if os.path.exists(given) else glob.glob(given)
        for place in map(Path.resolve, map(Path, found)):
            if place in places:
                raise InputError(f"would replace the input {given}, expected another place", places[place])


def has_scheme(text: str) -> bool:
    """Whether a text is a URL, of which `pathlib` would make a folder `s3:`."""
    return re.match(r"\w[\w+.-]+://", text) is not None


def _is_new(out: Path) -> bool:
    """Whether nothing is at a path where a folder can be made; raises `InputError` if none can."""
    place = next(path for path in (out, *out.parents) if path.exists())
    if not place.is_dir():
        raise InputError("is a file, expected a folder", place)
    if place != out and not os.access(place, os.W_OK | os.X_OK):
        raise InputError("this user may not write here, expected a folder with that permission", place)
    return place != out


def foreign(out: Path, name: str, command: str) -> InputError:
    """The error for a folder that holds a file of someone else."""
    expected = f"expected an empty folder or one that `{command}` wrote"
    return InputError(f"holds {name}, {expected}; name another folder", out)
