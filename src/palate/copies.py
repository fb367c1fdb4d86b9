"""Working copies of what lies in an object store: runs, prepared data and results that a command names by a URL.

A command works on a copy in the cache, as on any folder: what it reads is copied before it begins, and what it changed
is sent when it has ended well, a folder's manifest last. An interrupted command sends nothing; the same command goes on
with its copy. A file of the store that another process changed meanwhile is not replaced.
"""

import hashlib
import logging
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from palate.errors import InputError, WorkError
from palate.store.artifacts import MANIFEST, read_json, sha256_file, write_json
from palate.store.hub import cache_dir
from palate.validation import shown

log = logging.getLogger(__name__)


@dataclass
class Copies:
    """The working copies of a command, by their URLs."""

    paths: dict[str, Path] = field(default_factory=dict)

    def path(self, url: str) -> Path:
        """Where the copy of `url` lies, or will lie once `fetch` has been called."""
        url = url.rstrip("/")
        folder = cache_dir().resolve() / "stores" / hashlib.sha256(url.encode()).hexdigest()[:16]
        name = posixpath.basename(url)
        return self.paths.setdefault(url, folder / ("copy" if name in ("", ".", "..") else name))

    def check(self, logs: Iterable[str]) -> None:
        """Raise `InputError` for a URL at or above a table of the log, which a command could replace."""
        for url in self.paths:
            for given in logs:
                if f"{given}/".startswith(f"{url}/"):
                    raise InputError(f"is a place of the log {given}, expected another place", url)

    def fetch(self) -> None:
        """Copy what the stores have and the copies lack; what has gone from a store is removed from its copy.

        Raises `InputError` for a URL that cannot be opened, and `WorkError` if a store does not answer, or if a file
        has changed both there and in the copy.
        """
        if not self.paths:
            return
        from palate.ratings.remote import download, file_system

        for url, path in self.paths.items():
            files, root = file_system(url)
            known, there = _known(path), _there(files, root, url)
            for name in sorted(there, key=_last_manifest):
                own = path / name
                if _version(known, name) != there[name] or not own.is_file():
                    place = posixpath.join(url, name)
                    download(files, posixpath.join(root, name).rstrip("/"), place, path.parent / "arriving")
                    found = sha256_file(path.parent / "arriving")
                    unsent = own.is_file() and (name not in known or known[name][1] != sha256_file(own))
                    if unsent and sha256_file(own) != found:
                        what = f"{place} has changed, and so has the copy {own}, which was not sent"
                        raise WorkError(f"{what}; delete or move {path.parent} to go on")
                    own.parent.mkdir(parents=True, exist_ok=True)
                    (path.parent / "arriving").replace(own)
                    known[name] = there[name], found
                    _keep(path, known)
            for name in [name for name in known if name not in there]:
                if (path / name).is_file() and known[name][1] == sha256_file(path / name):
                    (path / name).unlink()
                del known[name]
            _keep(path, known)

    def send(self) -> None:
        """Send the files that have changed, and remove those that the command removed.

        Raises `WorkError` if a store does not answer, or if another process has changed such a file.
        """
        if not self.paths:
            return
        from palate.progress import Meter
        from palate.ratings.remote import answering, file_system

        for url, path in self.paths.items():
            known, own = _known(path), _files(path)
            changed = [name for name in own if name not in known or known[name][1] != sha256_file(path / name)]
            gone = [name for name in known if name not in own]
            if not changed and not gone:
                continue
            files, root = file_system(url)
            there = _there(files, root, url)
            for name in changed + gone:
                if there.get(name) != _version(known, name):
                    raise WorkError(f"{posixpath.join(url, name)} has changed meanwhile; the result is in {path}")
            size = sum((path / name).stat().st_size for name in changed)
            with Meter(f"sending {url}", size, "bytes") as meter:
                for name in sorted(changed, key=_last_manifest):
                    target = posixpath.join(root, name).rstrip("/")
                    with answering(url, "written"):
                        files.put_file(str(path / name), target)
                        files.invalidate_cache()
                        known[name] = files.ukey(target), sha256_file(path / name)
                    _keep(path, known)
                    meter.advance((path / name).stat().st_size)
            for name in gone:
                if name in there:
                    with answering(url, "written"):
                        files.rm_file(posixpath.join(root, name).rstrip("/"))
                del known[name]
            _keep(path, known)
            log.info("sent %s to %s", f"{len(changed):,} files" if len(changed) != 1 else "a file", url)


COPIES = Copies()
"""Those of this process, which runs one command at a time."""


def _there(files: Any, root: str, url: str) -> dict[str, str]:
    """What identifies the present content of each file in a store, by its path in the folder; "" is a single file."""
    from palate.ratings.remote import answering

    with answering(url):
        if files.isfile(root):
            return {"": str(files.ukey(root))}
        found = {path[len(root) :].lstrip("/"): str(files.ukey(path)) for path in files.find(root)}
    for name in found:
        if ".." in name.split("/"):
            raise InputError(f"has a file {shown(name)}, expected names within the folder", url)
    return {name: version for name, version in found.items() if not _is_hidden(name)}


def _files(path: Path) -> list[str]:
    """The files of a copy, without hidden ones."""
    if path.is_file():
        return [""]
    names = [each.relative_to(path).as_posix() for each in path.rglob("*") if each.is_file()]
    return sorted(name for name in names if not _is_hidden(name))


def _is_hidden(name: str) -> bool:
    """Whether a file belongs to nobody's results; it is neither fetched nor sent nor removed."""
    return any(part.startswith(".") for part in name.split("/"))


def _version(known: Mapping[str, Sequence[str]], name: str) -> str | None:
    return known[name][0] if name in known else None


def _last_manifest(name: str) -> tuple[bool, str]:
    return posixpath.basename(name) == MANIFEST, name


def _record(path: Path) -> Path:
    return path.parent / "copy.json"


def _known(path: Path) -> dict[str, Sequence[str]]:
    """Of each file as it was fetched or sent: what identified it in the store, and the hash of the copy."""
    return dict(read_json(_record(path))) if _record(path).is_file() else {}


def _keep(path: Path, known: Mapping[str, Sequence[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(_record(path), known)
