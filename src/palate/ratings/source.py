"""Open a folder or a zip as a set of named files; each is readable from disk, and messages have the user's path."""

import errno
import hashlib
import lzma
import posixpath
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from palate.errors import InputError
from palate.store.artifacts import sha256_file

_BLOCK = 1 << 20
_APPLE = "._"
"""Prefix of the metadata files that macOS writes beside other files on foreign disks and in zips."""
_LARGE, _MOST_TIMES = 100_000_000, 100
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, NotImplementedError, ValueError,
           LookupError, OverflowError, struct.error)  # fmt: skip
"""The exceptions of `zipfile` and its decompressors for damaged bytes."""


@dataclass(frozen=True)
class SourceFile:
    """A file to read: `path` on disk, its bare `name`, its `place` in messages, its SHA-256."""

    path: Path
    name: str
    place: str
    sha256: str


@dataclass(frozen=True)
class Source:
    """The files of a folder or a zip; `names` are relative to `root`, in alphabetical order."""

    root: Path
    names: tuple[str, ...]
    archive: zipfile.ZipFile | None = None
    scratch: Path | None = None

    def open(self, name: str) -> SourceFile:
        """A file of this source, unpacked to disk if it is in a zip; raises `InputError` if it cannot be read."""
        base = posixpath.basename(name)
        if self.archive is None or self.scratch is None:
            path = self.root / name
            try:
                return SourceFile(path, base, str(path), sha256_file(path))
            except OSError as error:
                raise InputError(f"cannot be read: {error.strerror}", path) from None
        place = f"{self.root}/{name}"
        path = self.scratch / str(self.names.index(name))  # the name itself may be too long for a file
        digest = hashlib.sha256()
        try:
            _refuse_bomb(self.archive.getinfo(name), place)
            with self.archive.open(name) as member, path.open("wb") as file:
                while block := member.read(_BLOCK):
                    digest.update(block)
                    file.write(block)
        except _DAMAGE as error:
            raise InputError(f"cannot be read from the zip: {error}", place) from None
        except OSError as error:  # damage in bz2 is an OSError without errno, or EINVAL
            if error.errno is not None and error.errno != errno.EINVAL:
                raise
            raise InputError(f"cannot be read from the zip: {error}", place) from None
        return SourceFile(path, base, place, digest.hexdigest())


@contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """Open a folder or a zip; the unpacked files of a zip are removed when the block ends.

    Raises `InputError` if it cannot be read, is not a zip, or has member names that point outside of it.
    """
    if path.is_dir():
        try:
            found = (p.name for p in path.iterdir() if p.is_file() and not p.name.startswith(_APPLE))
            yield Source(path, tuple(sorted(found)))
        except PermissionError as error:
            raise InputError(f"cannot be read: {error.strerror}", path) from None
        return
    try:
        archive = zipfile.ZipFile(path)
    except _DAMAGE:
        raise InputError("is not a whole zip file", path) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", path) from None
    with archive, tempfile.TemporaryDirectory(prefix="palate-") as scratch:
        names = archive.namelist()
        unsafe = next((n for n in names if _leads_out(n)), None)
        if unsafe is not None:
            raise InputError(f"has the member {unsafe!r}, expected only names below the zip's own folder", path)
        files = (n for n in names if not n.endswith("/") and not posixpath.basename(n).startswith(_APPLE))
        yield Source(path, tuple(sorted(files)), archive, Path(scratch))


def _refuse_bomb(member: zipfile.ZipInfo, place: str) -> None:
    """Raise `InputError` for a zip bomb: a table of ratings compresses to a fifth, not to a hundredth."""
    size = member.file_size
    if size > _LARGE and size > _MOST_TIMES * member.compress_size:
        packed = f"{max(member.compress_size // 1000, 1):,} kB"
        raise InputError(f"unpacks to {size / 1e6:,.0f} MB from {packed}, expected a table of ratings or items", place)


def _leads_out(name: str) -> bool:
    """Whether a member's name points outside of the folder that the zip is unpacked in."""
    parts = name.replace("\\", "/").split("/")
    return ".." in parts or parts[0] == "" or parts[0].endswith(":")
