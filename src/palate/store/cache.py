"""The cache: entries under the hash of everything that decides their content.

An entry is a folder `KIND/KEY`: the files that a builder wrote, and `entry.json` with what they were made from and
the size and SHA-256 of each. It appears by one rename and is never changed; a hit is a match of all hashes.
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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from palate import __version__
from palate.errors import PalateError, WorkError
from palate.store.artifacts import files_of, sha256_file, sha256_of, sync
from palate.store.hub import cache_dir
from palate.store.keys import Key, as_recorded, changed, damage_in, recorded, worded
from palate.store.lock import locked

log = logging.getLogger(__name__)

ENTRY = "entry.json"
KNOWN = ("datasets", "digests", "lengths", "models", "plain", "preprocessed", "tables")
"""Folders that are Palate's whatever they hold; any other must hold an entry, since the folder may be shared."""
DAY = 86_400.0
"""Seconds without a write after which a build on another machine counts as given up."""

_KEY = re.compile(r"[0-9a-f]{24}")
_PARTIAL = re.compile(r"\.(?P<key>\w+)\.partial-(?P<host>.+)-[0-9a-f]{8}")
_LOCK = re.compile(r"\.\w+\.lock")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)

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
        """Give the folder made from `parts`, from an earlier time or by `build`, and log the reason.

        `parts` holds JSON values under the words that the log uses for them; `name` says what the entry is of.
        `build` is given an empty folder to write into; if it raises, nothing stays. A process that another one is
        ahead of waits and takes its entry. `note` maps a part to what is said when that part alone differs from the
        most similar entry. Nobody may write into an entry.

        Raises `WorkError` if the cache cannot be written, and whatever `build` raises.
        """
        parts = as_recorded(parts)
        place = self.folder / kind / sha256_of(parts)[:24]
        what = f"{kind} of {name}" if name else kind
        if _is_hit(place, what, parts):
            return place
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with locked(place) as got:
                if not _is_hit(place, what, parts):
                    log.info("%s: cache miss, %s", what, _reason(place, parts, name, note or {}))
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
        """Everything that is kept, by kind, last used first; `hashes` reads every byte to tell the state."""
        found: list[CacheItem] = []
        for folder in sorted(self.folder.glob("*/")):
            # One look at the names, and nothing but the names tells what is whose: what appears or vanishes
            # meanwhile must not pass for something else and be removed as such.
            paths = sorted(path for path in folder.iterdir() if not _LOCK.fullmatch(path.name))
            entries = [p for p in paths if _KEY.fullmatch(p.name)]
            partials = [p for p in paths if _PARTIAL.fullmatch(p.name)]
            if folder.name not in KNOWN and not partials and not any((p / ENTRY).is_file() for p in entries):
                continue
            found += sorted((_item(p, hashes) for p in entries if p.exists()), key=lambda item: -(item.used or 0))
            found += [_unfinished(p) for p in partials if p.exists()]
            others = tuple(p for p in paths if p not in {*entries, *partials} and not _is_in_work(p))
            if others:
                names, size = ", ".join(p.name for p in others), sum(map(_size, others))
                found.append(CacheItem(folder.name, folder, "", names, size, None, None, "unchecked", others=others))
        return found

    def remove(self, item: "CacheItem") -> bool:
        """Remove what `items` listed; False if it has been used, made again or taken up since, or is being made.

        It vanishes by a rename, so that nobody ever finds half of it; what a process has mapped stays readable to it.
        """
        place = item.path.with_name(item.key) if item.key else item.path / "others"
        try:
            with locked(place, wait=False) as got:
                if item.state in ("unfinished", "being made"):
                    stays = not _is_given_up(item.path, got)
                else:
                    stays = got is False or bool(item.key and _used(item.path) != item.used)
                if stays:
                    return False
                _discard(place, item.others or (item.path,))
        except FileNotFoundError:  # another process removes the same
            return False
        except OSError as error:
            raise WorkError(f"{item.path}: cannot be removed: {error.strerror or error}") from error
        return True


@dataclass(frozen=True)
class CacheItem:
    """Something in the cache; `key` is empty for what `Cache.entry` did not make, `others` are then its paths."""

    kind: str
    path: Path
    key: str
    name: str
    size: int
    """Bytes."""
    made: float | None
    """Seconds since 1970, as `used`."""
    used: float | None
    state: State
    damage: str = ""
    others: tuple[Path, ...] = ()


def damage_of(entry: Path, *, hashes: bool = True) -> str | None:
    """What is wrong with an entry, beginning with the file's name; None if it is whole.

    Without `hashes` only sizes are compared. A file that `entry.json` does not name is nobody's business.
    """
    if not os.path.exists(entry / ENTRY):
        return f"{ENTRY} is missing"
    known = recorded(entry / ENTRY)
    files = known.get("files")
    if not isinstance(files, dict):
        return f"{ENTRY} is not readable"
    if sha256_of(known.get("parts"))[:24] != entry.name:
        return f"{ENTRY} belongs to another entry"
    damage = damage_in(entry, files, hashes=hashes)
    return str(damage) if damage else None


def _is_hit(place: Path, what: str, parts: Key) -> bool:
    """Whether a whole entry lies in its place; that counts as a use."""
    if damage_of(place) is not None:
        return False
    # Pruning goes by this time. A cache that may only be read gives hits all the same.
    with contextlib.suppress(OSError):
        os.utime(place / ENTRY)
    log.info("%s: cache hit, same %s (%s)", what, ", ".join(parts), place)
    return True


def _reason(place: Path, parts: Key, name: str, note: Mapping[str, str]) -> str:
    """Why there is no entry: it is damaged, or what differs from the most similar one of the same name."""
    if os.path.lexists(place):
        return f"the entry is damaged: {damage_of(place)}"
    best: tuple[int, float, list[str]] | None = None
    for path in place.parent.glob(f"*/{ENTRY}"):
        with contextlib.suppress(OSError, ValueError, TypeError):
            known = recorded(path)
            names = changed(known["parts"], parts) if "parts" in known else []
            # Of another name are another split, or other data: that these differ says nothing.
            if names and known.get("name") == name and _KEY.fullmatch(path.parent.name):
                rank = (len(names), -path.stat().st_mtime, names)
                best = rank if best is None else min(best, rank)
    if best is None:
        return "nothing kept yet"
    remark = note.get(best[2][0], "") if len(best[2]) == 1 else ""
    return worded(best[2]) + (f": {remark}" if remark else "")


def _make(place: Path, about: Key, parts: Key, build: Callable[[Path], None], got: bool | None) -> None:
    """Build an entry under its lock in a hidden folder beside its place, and put it there."""
    for left in place.parent.glob(f".{place.name}.partial-*"):
        if _is_given_up(left, got):
            log.info("removed what a process left that was killed: %s", left)
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
    """Write `entry.json` and have everything on the disk."""
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
    """Let an entry appear under its name, instead of a damaged one.

    Where there are no locks another process may have been first; its entry stays if it is whole, since it may be read
    already.
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


def _is_given_up(partial: Path, got: bool | None) -> bool:
    """Whether nobody writes into a partial folder any more; `got` is whether the lock of its entry was to be had.

    A lock that could be taken proves that only for processes of this machine, since some network file systems keep
    locks to each machine; for others, and where there are no locks, time tells.
    """
    match = _PARTIAL.fullmatch(partial.name)
    here = match is not None and match["host"] == platform.node()
    return got is not False and (bool(got and here) or _is_old(partial))


def _is_old(partial: Path) -> bool:
    return time.time() - _newest(partial) > DAY


def _is_in_work(path: Path) -> bool:
    """Whether other code may be writing this: it has no lock that could be asked."""
    return path.name.startswith(".") and ".partial-" in path.name and not _is_old(path)


def _item(entry: Path, hashes: bool) -> CacheItem:
    damage = damage_of(entry, hashes=hashes)
    known, made = recorded(entry / ENTRY), None
    with contextlib.suppress(ValueError):
        made = datetime.fromisoformat(str(known.get("created"))).timestamp()
    name = str(known.get("name", ""))
    state: State = "whole" if damage is None else "damaged"
    return CacheItem(entry.parent.name, entry, entry.name, name, _size(entry), made, _used(entry), state, damage or "")


def _unfinished(partial: Path) -> CacheItem:
    key = partial.name.split(".")[1]
    given_up = False
    with contextlib.suppress(OSError), locked(partial.with_name(key), wait=False) as got:
        given_up = _is_given_up(partial, got)
    state: State = "unfinished" if given_up else "being made"
    return CacheItem(partial.parent.name, partial, key, "", _size(partial), None, _newest(partial), state)


def _hidden(place: Path) -> Path:
    """A new name beside `place` that tells on which machine its writer lives."""
    return place.with_name(f".{place.name}.partial-{platform.node()}-{uuid.uuid4().hex[:8]}")


def _used(entry: Path) -> float | None:
    try:
        return (entry / ENTRY).stat().st_mtime
    except OSError:
        return None


def _files(path: Path) -> Iterator[os.stat_result]:
    """Of a file, or of everything in a folder; what vanishes meanwhile is left out."""
    paths = [str(path)]
    paths += [os.path.join(top, name) for top, folders, files in os.walk(path) for name in (*folders, *files)]
    for each in paths:
        with contextlib.suppress(OSError):
            yield os.lstat(each)


def _size(path: Path) -> int:
    return sum(found.st_size for found in _files(path) if not stat.S_ISDIR(found.st_mode))


def _newest(path: Path) -> float:
    return max((found.st_mtime for found in _files(path)), default=time.time())


def _discard(place: Path, paths: tuple[Path, ...]) -> None:
    """Remove files or folders of one folder, which vanish by a rename into a hidden folder beside `place`."""
    trash = _hidden(place)
    trash.mkdir()
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            path.rename(trash / path.name)
    shutil.rmtree(trash, ignore_errors=True)


def _failure_to_write(error: BaseException, folder: Path) -> OSError | None:
    """The error beneath `error` if it says that `folder` takes no files; an input that is missing does not."""
    while not isinstance(error, OSError):
        if error.__cause__ is None:
            return None
        error = error.__cause__
    if not isinstance(error.filename, str | bytes | os.PathLike):
        return error if error.errno in _NO_ROOM else None
    place, folder = Path(os.fsdecode(error.filename)).absolute(), folder.absolute()
    return error if place.is_relative_to(folder) or folder.is_relative_to(place) else None
