"""The cache: each entry's name is the hash of everything that its content depends on.

An entry is a folder `KIND/KEY` with the files of a builder and `entry.json`, which has the key's parts and the size and
SHA-256 of each file. One rename makes the entry appear, and nothing changes it later. A lookup is a hit if all hashes
match.
"""

import contextlib
import errno
import json
import logging
import os
import platform
import re
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from palate import __version__
from palate.errors import PalateError, WorkError
from palate.store.artifacts import DAY, files_of, sha256_file, sha256_of, statuses, sync
from palate.store.hub import cache_dir
from palate.store.keys import Key, as_recorded, changed, damage_in, recorded, worded
from palate.store.lock import locked, remove_left

log = logging.getLogger(__name__)

ENTRY = "entry.json"
KNOWN = ("datasets", "digests", "lengths", "models", "plain", "preprocessed", "tables", "vectors")
"""Folders that belong to Palate with any content. Any other folder must have an entry, since others may use it."""
_KEY = re.compile(r"[0-9a-f]{24}")
_PARTIAL = re.compile(r"\.(?P<key>\w+)\.partial-(?P<host>.+)-[0-9a-f]{8}")
_LOCK = re.compile(r"\.\w+\.lock")
_UNWRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)

State = Literal["whole", "damaged", "unfinished", "being made", "unchecked"]


@dataclass(frozen=True)
class Cache:
    """A folder of entries, shared by any number of threads, processes and machines."""

    folder: Path = field(default_factory=cache_dir)

    def entry(
        self,
        kind: str,
        parts: Key,
        build: Callable[[Path], None],
        *,
        name: str = "",
        note: Mapping[str, str] | None = None,
    ) -> Path:
        """The folder of the entry for `parts`; `build` makes it on a miss. The log has the hit or the miss's reason.

        `parts` maps names for the log to JSON values; `name` names the data of the entry. `build` writes into an empty
        folder; if it raises, no entry appears. If another process builds the same entry, this one waits and takes it.
        `note` maps a part to a remark for the log if only that part differs from the most similar entry. Callers must
        not write into an entry.

        Raises `WorkError` if the cache cannot be written, and whatever `build` raises.
        """
        parts = as_recorded(parts)
        place = self.folder / kind / sha256_of(parts)[:24]
        what = f"{kind} of {name}" if name else kind
        if _is_hit(place, what, parts):
            remove_left(place)
            return place
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with locked(place) as got:
                if not _is_hit(place, what, parts):
                    log.debug("%s: cache miss, %s", what, _reason(place, parts, name, note or {}))
                    _make(place, {"kind": kind, "name": name}, parts, build, got)
        except PalateError:
            raise
        except Exception as error:
            failure = _failure_to_write(error, place.parent)
            if failure is None:
                raise
            raise WorkError(
                f"{place.parent}: cannot be written: {failure.strerror or failure}; "
                "`palate cache` shows what the cache holds, $PALATE_CACHE_DIR names another place"
            ) from error
        return place

    def items(self, *, hashes: bool = False) -> list["CacheItem"]:
        """The cache's contents by kind, last used first; `hashes` reads every byte to check the state."""
        found: list[CacheItem] = []
        for folder in sorted(self.folder.glob("*/")):
            # The names are listed once and classified by name alone. A file that another process adds or removes
            # meanwhile is then never classified wrongly and removed.
            paths = sorted(path for path in folder.iterdir() if not _LOCK.fullmatch(path.name))
            entries = [p for p in paths if _KEY.fullmatch(p.name)]
            partials = [p for p in paths if _PARTIAL.fullmatch(p.name)]
            if folder.name not in KNOWN and not partials and not any((p / ENTRY).is_file() for p in entries):
                continue
            found += sorted((_item(p, hashes) for p in entries if p.exists()), key=lambda item: -(item.used or 0))
            found += [_unfinished(p) for p in partials if p.exists()]
            others = tuple(p for p in paths if p not in {*entries, *partials} and not _may_be_written(p))
            if others:
                names, size = ", ".join(p.name for p in others), sum(map(_size, others))
                found.append(CacheItem(folder.name, folder, "", names, size, None, None, "unchecked", others=others))
        return found

    def remove(self, item: "CacheItem") -> bool:
        """Remove an item of `items`; False if a process builds it, or has used or rebuilt it since the listing.

        A rename removes it, so no process sees half of it. A process that has mapped its files can still read them.
        """
        place = item.path.with_name(item.key) if item.key else item.path / "others"
        try:
            with locked(place, wait=False) as got:
                if item.state in ("unfinished", "being made"):
                    stays = not _is_abandoned(item.path, got)
                else:
                    stays = got is False or bool(item.key and _used(item.path) != item.used)
                if stays:
                    return False
                _discard(place, item.others or (item.path,))
        except FileNotFoundError:  # another process removes the same item
            return False
        except OSError as error:
            raise WorkError(f"{item.path}: cannot be removed: {error.strerror or error}") from error
        return True


@dataclass(frozen=True)
class CacheItem:
    """An item of the cache; `key` is empty for files that `Cache.entry` did not make, and `others` has their paths."""

    kind: str
    path: Path
    key: str
    name: str
    size: int
    """Bytes."""
    made: float | None
    """Seconds since 1970."""
    used: float | None
    """Time of the last use, in seconds since 1970."""
    state: State
    damage: str = ""
    others: tuple[Path, ...] = ()


def damage_of(entry: Path, *, hashes: bool = True) -> str | None:
    """The name of an entry's first damaged file and its problem; None if the entry is whole.

    Without `hashes` only sizes are compared. Files that `entry.json` does not list are ignored.
    """
    if not os.path.exists(entry / ENTRY):
        return f"{ENTRY} is missing"
    record = recorded(entry / ENTRY)
    files = record.get("files")
    if not isinstance(files, dict):
        return f"{ENTRY} is not readable"
    if sha256_of(record.get("parts"))[:24] != entry.name:
        return f"{ENTRY} belongs to another entry"
    damage = damage_in(entry, files, hashes=hashes)
    return str(damage) if damage else None


def _is_hit(place: Path, what: str, parts: Key) -> bool:
    """Whether `place` is a whole entry; if so, mark it as used now."""
    if damage_of(place) is not None:
        return False
    # Pruning reads this time. The write fails in a read-only cache, whose hits count all the same.
    with contextlib.suppress(OSError):
        os.utime(place / ENTRY)
    log.debug("%s: cache hit, same %s (%s)", what, ", ".join(parts), place)
    return True


def _reason(place: Path, parts: Key, name: str, note: Mapping[str, str]) -> str:
    """Why the lookup missed: the entry is damaged, or some parts differ from the most similar entry of this name."""
    if os.path.lexists(place):
        return f"the entry is damaged: {damage_of(place)}"
    best: tuple[int, float, list[str]] | None = None
    for path in place.parent.glob(f"*/{ENTRY}"):
        with contextlib.suppress(OSError, ValueError, TypeError):
            record = recorded(path)
            names = changed(record["parts"], parts) if "parts" in record else []
            # An entry of another name is for another split or other data, so its differences explain nothing.
            if names and record.get("name") == name and _KEY.fullmatch(path.parent.name):
                rank = (len(names), -path.stat().st_mtime, names)
                best = rank if best is None else min(best, rank)
    if best is None:
        return "no earlier entry"
    remark = note.get(best[2][0], "") if len(best[2]) == 1 else ""
    return worded(best[2]) + (f": {remark}" if remark else "")


def _make(place: Path, about: Key, parts: Key, build: Callable[[Path], None], got: bool | None) -> None:
    """Build an entry under its lock in a hidden folder beside `place`, then move it to `place`."""
    for left in place.parent.glob(f".{place.name}.partial-*"):
        if _is_abandoned(left, got):
            log.debug("removed the unfinished files of a killed process: %s", left)
            _discard(place, (left,))
    partial = _hidden(place)
    partial.mkdir()
    try:
        build(partial)
        _seal(partial, about, parts)
        _put(partial, place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _seal(partial: Path, about: Key, parts: Key) -> None:
    """Write `entry.json` and flush all files to the disk."""
    paths = sorted(partial.rglob("*"))
    files = {
        name: {"size": path.stat().st_size, "sha256": sha256_file(path)} for name, path in files_of(partial).items()
    }
    created = datetime.now(UTC).isoformat(timespec="seconds")
    entry = {"palate": __version__, **about, "created": created, "parts": parts, "files": files}
    (partial / ENTRY).write_text(json.dumps(entry, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    for path in [*paths, partial / ENTRY, partial]:
        sync(path)


def _put(partial: Path, place: Path) -> None:
    """Rename a finished entry to `place`, and remove a damaged entry there.

    Without locks another process may have been first. Its entry stays if it is whole, since others may already read it.
    """
    while damage_of(place) is not None:
        if os.path.lexists(place):
            _discard(place, (place,))
        try:
            partial.rename(place)
        except OSError:
            if not os.path.lexists(place):
                raise
        else:
            sync(place.parent)
            return


def _is_abandoned(partial: Path, got: bool | None) -> bool:
    """Whether no process writes into a partial folder any more; `got` is the result of `locked` for its entry.

    Some network file systems keep locks separate for each machine. So a free lock proves this only for a writer on this
    machine; for other writers, and without locks, the folder's age decides.
    """
    match = _PARTIAL.fullmatch(partial.name)
    here = match is not None and match["host"] == platform.node()
    return got is not False and (bool(got and here) or _is_old(partial))


def _is_old(partial: Path) -> bool:
    return time.time() - _newest(partial) > DAY


def _may_be_written(path: Path) -> bool:
    """Whether other code, which takes no lock, may be writing this file."""
    return path.name.startswith(".") and ".partial-" in path.name and not _is_old(path)


def _item(entry: Path, hashes: bool) -> CacheItem:
    damage = damage_of(entry, hashes=hashes)
    record, made = recorded(entry / ENTRY), None
    with contextlib.suppress(ValueError):
        made = datetime.fromisoformat(str(record.get("created"))).timestamp()
    name = str(record.get("name", ""))
    state: State = "whole" if damage is None else "damaged"
    return CacheItem(entry.parent.name, entry, entry.name, name, _size(entry), made, _used(entry), state, damage or "")


def _unfinished(partial: Path) -> CacheItem:
    key = partial.name.split(".")[1]
    abandoned = False
    with contextlib.suppress(OSError), locked(partial.with_name(key), wait=False) as got:
        abandoned = _is_abandoned(partial, got)
    state: State = "unfinished" if abandoned else "being made"
    return CacheItem(partial.parent.name, partial, key, "", _size(partial), None, _newest(partial), state)


def _hidden(place: Path) -> Path:
    """A new hidden name beside `place` that has the writer's machine in it."""
    return place.with_name(f".{place.name}.partial-{platform.node()}-{uuid.uuid4().hex[:8]}")


def _used(entry: Path) -> float | None:
    try:
        return (entry / ENTRY).stat().st_mtime
    except OSError:
        return None


def _size(path: Path) -> int:
    return sum(found.st_size for found in statuses(path) if not stat.S_ISDIR(found.st_mode))


def _newest(path: Path) -> float:
    return max((found.st_mtime for found in statuses(path)), default=time.time())


def _discard(place: Path, paths: tuple[Path, ...]) -> None:
    """Rename files or folders of one file system into a hidden folder beside `place`, then remove that folder."""
    trash = _hidden(place)
    trash.mkdir()
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            path.rename(trash / path.name)
    shutil.rmtree(trash, ignore_errors=True)


def _failure_to_write(error: BaseException, folder: Path) -> OSError | None:
    """The `OSError` that caused `error` if `folder` cannot be written; None for others, such as a missing input."""
    while not isinstance(error, OSError):
        if error.__cause__ is None:
            return None
        error = error.__cause__
    if not isinstance(error.filename, str | bytes | os.PathLike):
        return error if error.errno in _UNWRITTEN else None
    place, folder = Path(os.fsdecode(error.filename)).absolute(), folder.absolute()
    return error if place.is_relative_to(folder) or folder.is_relative_to(place) else None
