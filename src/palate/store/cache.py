"""What is kept so that nothing is made twice: entries under the hash of everything that decides their content.

An entry is a folder `KIND/KEY`: the files that a builder wrote, and `entry.json` with what they were made from and
the size and SHA-256 of each. It appears by one rename and is never changed; a hit is a match of all hashes.
"""

import contextlib
import errno
import fcntl
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
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from palate import __version__
from palate.errors import PalateError, WorkError
from palate.store.artifacts import sha256_file, sha256_of, sync
from palate.store.hub import cache_dir

log = logging.getLogger(__name__)

ENTRY = "entry.json"
KNOWN = ("datasets", "digests", "lengths", "models", "plain", "preprocessed", "tables")
"""Folders that are Palate's whatever they hold; any other must hold an entry, since the folder may be shared."""
DAY = 86_400.0
"""Seconds without a write after which a build that cannot be asked counts as given up."""

_KEY = re.compile(r"[0-9a-f]{24}")
_PARTIAL = re.compile(r"\.\w+\.partial-(?:(?P<host>.+)-)?[0-9a-f]{8}")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)

State = Literal["whole", "damaged", "unfinished", "being made", "unchecked"]


@dataclass(frozen=True)
class Cache:
    """A folder of entries, shared by any number of threads, processes and machines."""

    folder: Path = field(default_factory=cache_dir)

    def entry(
        self,
        kind: str,
        parts: Mapping[str, Any],
        build: Callable[[Path], None],
        *,
        name: str = "",
        note: Mapping[str, str] | None = None,
    ) -> Path:
        """Give the folder made from `parts`, from an earlier time or by `build`, and log the reason.

        `parts` holds JSON values under the words that the log uses for them; `name` says what the entry is of.
        `build` is given an empty folder to write into; if it raises, nothing stays. `note` maps a part to what is
        said when that part alone differs from the most similar entry. Nobody may write into an entry.

        Raises `WorkError` if the cache cannot be written, and whatever `build` raises.
        """
        parts = json.loads(json.dumps(dict(parts)))
        place = self.folder / kind / key_of(parts)
        what = f"{kind} of {name}" if name else kind
        old = _identity(place)
        damage = damage_of(place) if old else None
        if old and damage is None:
            # Pruning goes by this time. A cache that may only be read gives hits all the same.
            with contextlib.suppress(OSError):
                os.utime(place / ENTRY)
            log.info("%s: cache hit, same %s (%s)", what, ", ".join(parts), place)
            return place
        reason = f"the entry is damaged: {damage}" if old else _reason(place.parent, parts, name, note or {})
        log.info("%s: cache miss, %s", what, reason)
        try:
            _clear(place.parent)
            with _partial(place) as partial:
                build(partial)
                _seal(partial, kind, name, parts)
                _put(partial, place, old)
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
            paths = sorted(folder.iterdir())
            entries = [p for p in paths if _KEY.fullmatch(p.name)]
            partials = [p for p in paths if _PARTIAL.fullmatch(p.name)]
            if folder.name not in KNOWN and not partials and not any((p / ENTRY).is_file() for p in entries):
                continue
            found += sorted((_item(p, hashes) for p in entries if p.exists()), key=lambda item: -(item.used or 0))
            found += [_unfinished(p) for p in partials if p.exists()]
            others = [p for p in paths if p not in {*entries, *partials} and not _is_in_work(p)]
            if others:
                names = ", ".join(p.name for p in others)
                size = sum(map(_size, others))
                item = CacheItem(folder.name, folder, "", names, size, None, None, "unchecked", others=tuple(others))
                found.append(item)
        return found

    def remove(self, item: "CacheItem") -> bool:
        """Remove what `items` listed; False if it has been used, made again or taken up since, or is being made.

        It vanishes by a rename, so that nobody ever finds half of it; what a process has mapped stays readable to it.
        """
        try:
            if item.state in ("unfinished", "being made"):
                with _locked(item.path) as got:
                    if got is False or not _is_given_up(item.path, asked=got):
                        return False
                    _discard(item.path)
                return True
            trash = _hidden(item.path if item.key else item.path / "other")
            with _locked(trash.parent, wait=True):
                if item.key and _used(item.path) != item.used:
                    return False
                trash.mkdir()
                for path in item.others or (item.path,):
                    with contextlib.suppress(FileNotFoundError):
                        path.rename(trash / path.name)
            _discard(trash)
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


def key_of(parts: Mapping[str, Any]) -> str:
    """The name of the entry made from `parts`."""
    return sha256_of(parts)[:24]


def damage_of(entry: Path, *, hashes: bool = True) -> str | None:
    """What is wrong with an entry, beginning with the file's name; None if it is whole.

    Without `hashes` only sizes are compared. A file that `entry.json` does not name is nobody's business.
    """
    try:
        known = json.loads((entry / ENTRY).read_text(encoding="utf-8"))
        files = {name: (file["size"], file["sha256"]) for name, file in known["files"].items()}
        if key_of(known["parts"]) != entry.name:
            return f"{ENTRY} belongs to another entry"
    except (FileNotFoundError, NotADirectoryError):
        return f"{ENTRY} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{ENTRY} is not readable"
    for name, (size, sha256) in files.items():
        try:
            found = (entry / name).stat().st_size
            if found != size:
                return f"{name} has {found:,} bytes, expected {size:,}"
            # This reads every byte at every hit: 0.7 s a GB on a core with SHA instructions (measured: 1.5 GB/s),
            # some 2 s without, or what the disk takes. That is little beside what is done with a GB of tokens, and
            # the pages that it reads are those that are wanted next.
            if hashes and sha256_file(entry / name) != sha256:
                return f"{name} was changed"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError:
            return f"{name} is not readable"
    return None


def _reason(folder: Path, parts: Mapping[str, Any], name: str, note: Mapping[str, str]) -> str:
    """Why there is no entry: what differs from the most similar one of the same name."""
    best: tuple[int, float] | None = None
    changed: list[str] = []
    for path in folder.glob(f"*/{ENTRY}"):
        if not _KEY.fullmatch(path.parent.name):
            continue
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            then = known["parts"]
            differing = [key for key in {**parts, **then} if key not in then or then[key] != parts.get(key)]
            if known.get("name", "") != name:
                continue  # another split, or other data: that it differs says nothing
            rank = (len(differing), -path.stat().st_mtime)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        if differing and (best is None or rank < best):
            best, changed = rank, differing
    if best is None:
        return "nothing kept yet"
    words = " and ".join(filter(None, [", ".join(changed[:-1]), changed[-1]]))
    remark = note.get(changed[0], "") if len(changed) == 1 else ""
    return f"{words} changed" + (f": {remark}" if remark else "")


@contextmanager
def _partial(place: Path) -> Iterator[Path]:
    """An empty hidden folder beside `place`, locked as long as its builder lives, removed at the end if still there."""
    place.parent.mkdir(parents=True, exist_ok=True)
    while True:
        partial = _hidden(place)
        partial.mkdir()
        try:
            # Whoever prunes may have come between the folder and its lock: then it is gone, or about to be.
            with contextlib.ExitStack() as stack:
                try:
                    got = stack.enter_context(_locked(partial))
                except FileNotFoundError:
                    continue
                if got is not False and partial.exists():
                    yield partial
                    return
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _seal(partial: Path, kind: str, name: str, parts: Mapping[str, Any]) -> None:
    """Write `entry.json` and have everything on the disk."""
    paths = sorted(partial.rglob("*"))
    files = {
        path.relative_to(partial).as_posix(): {"size": path.stat().st_size, "sha256": sha256_file(path)}
        for path in paths
        if path.is_file()
    }
    entry = {
        "palate": __version__,
        "kind": kind,
        "name": name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "parts": parts,
        "files": files,
    }
    (partial / ENTRY).write_text(json.dumps(entry, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    for path in [*paths, partial / ENTRY, partial]:
        sync(path)


def _put(partial: Path, place: Path, old: tuple[int, ...] | None) -> None:
    """Let an entry appear under its name, instead of the damaged one that `old` identifies.

    Another process may have been first; its entry stays if it is whole, since it may be read already.
    """
    while True:
        aside = None
        # Between looking at the entry and moving it aside nobody else may put theirs.
        with _locked(place.parent, wait=True):
            if old is not None and _identity(place) == old:
                aside = _hidden(place)
                place.rename(aside)
            found = _identity(place)
            if found is None:
                try:
                    partial.rename(place)
                except OSError:  # where there are no locks, another may have come between
                    found = _identity(place)
                    if found is None:
                        raise
        if aside is not None:
            _discard(aside)
        if found is None:
            sync(place.parent)
            return
        if damage_of(place) is None:
            return
        old = found


def _clear(folder: Path) -> None:
    """Remove what killed processes left a day ago or earlier."""
    for path in [p for p in folder.glob(".*.partial-*") if _PARTIAL.fullmatch(p.name)]:
        with contextlib.suppress(OSError), _locked(path) as got:
            if got is not False and _is_old(path):
                log.info("removed what a process left that was killed: %s", path)
                _discard(path)


def _is_given_up(partial: Path, *, asked: bool | None) -> bool:
    """Whether nobody writes into a partial folder any more; `asked` is whether its lock was to be had.

    A lock that could be taken proves that only for processes of this machine, since some network file systems keep
    locks to each machine; for others, and where there are no locks, time tells.
    """
    match = _PARTIAL.fullmatch(partial.name)
    if asked and match and match["host"] == platform.node():
        return True
    return asked is not False and _is_old(partial)


def _is_old(partial: Path) -> bool:
    return time.time() - _newest(partial) > DAY


def _is_in_work(path: Path) -> bool:
    """Whether other code may be writing this: it has no lock that could be asked."""
    return path.name.startswith(".") and ".partial-" in path.name and not _is_old(path)


@contextmanager
def _locked(folder: Path, *, wait: bool = False, shared: bool = False) -> Iterator[bool | None]:
    """Hold the lock of a folder; gives False if another has it, None where the file system knows no locks.

    The system releases the lock of a process that dies, however it dies.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        got: bool | None
        try:
            how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            fcntl.flock(descriptor, how | (0 if wait else fcntl.LOCK_NB))
            got = True
        except BlockingIOError:
            got = False
        except OSError:
            got = None
        try:
            yield got
        finally:
            if got:  # a process forked meanwhile has the descriptor too, and would keep the lock
                fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def _item(entry: Path, hashes: bool) -> CacheItem:
    damage = damage_of(entry, hashes=hashes)
    name, made = "", None
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        known = json.loads((entry / ENTRY).read_text(encoding="utf-8"))
        name, made = str(known["name"]), datetime.fromisoformat(known["created"]).timestamp()
    state: State = "whole" if damage is None else "damaged"
    return CacheItem(entry.parent.name, entry, entry.name, name, _size(entry), made, _used(entry), state, damage or "")


def _unfinished(partial: Path) -> CacheItem:
    state: State = "being made"
    with contextlib.suppress(OSError), _locked(partial, shared=True) as got:
        state = "unfinished" if _is_given_up(partial, asked=got) else "being made"
    key = partial.name.split(".")[1]
    return CacheItem(partial.parent.name, partial, key, "", _size(partial), None, _newest(partial), state)


def _hidden(place: Path) -> Path:
    """A new name beside `place` that tells on which machine its writer lives."""
    return place.with_name(f".{place.name}.partial-{platform.node()}-{uuid.uuid4().hex[:8]}")


def _identity(path: Path) -> tuple[int, ...] | None:
    """Tells a folder from another of the same name, even one that was given the same inode."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_ctime_ns


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


def _discard(path: Path) -> None:
    """Remove a file or folder that nobody looks for; another process may be doing the same."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    while path.is_dir():
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path)


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
