"""Open what a user names as a set of tables: each is a plain file on disk, and messages have the user's path.

A path may be a file, a pattern such as `logs/*.csv`, a folder, a zip or a tar; see also `palate.ratings.remote` and
`palate.ratings.sql`. Compressed files are unpacked into a scratch folder, and text in another encoding than UTF-8 is
rewritten there.
"""

import ast
import errno
import glob
import hashlib
import json
import lzma
import os
import platform
import posixpath
import re
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote

from palate.errors import InputError, first_line, unwritable
from palate.ratings import spreadsheet
from palate.ratings.encodings import encoding_of
from palate.ratings.survey import Survey, begins_respelled, blocks_of, survey_of_bytes, survey_of_folder, survey_of_text
from palate.ratings.tar import Member, Tar
from palate.store.artifacts import is_abandoned, reading

_BLOCK = 1 << 20
_APPLE = "._"
"""Prefix of the metadata files that macOS writes beside other files on foreign disks and in zips."""
LARGE, MOST_TIMES = 100_000_000, 100
"""A table may have more bytes than `LARGE` only if that is at most `MOST_TIMES` those of its file."""
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, NotImplementedError, ValueError,
           LookupError, OverflowError, struct.error, tarfile.TarError)  # fmt: skip
"""The exceptions of `zipfile`, `tarfile` and decompressors for damaged bytes."""
PACKED = {
    ".gz": (b"\x1f\x8b", "gzip"),
    ".bz2": (b"BZh", "bz2"),
    ".xz": (b"\xfd7zXZ", "xz"),
    ".zst": (b"\x28\xb5\x2f\xfd", "zstd"),
}
"""First bytes and name of each compression, by suffix."""
_ARCHIVES = (".zip", ".tar", ".tgz", ".tbz2", ".txz", *(f".tar{suffix}" for suffix in PACKED))
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_BINARY = (".parquet", ".pq", ".arrow", ".feather")
_JSON = (".json", ".jsonl", ".ndjson")
_SURVEYING = ThreadPoolExecutor(1, "survey")


@dataclass(frozen=True)
class SourceFile:
    """A file to read: `path` on disk, its bare `name` without a suffix of compression, its `place` in messages.

    Text is UTF-8; `encoding` is that of the user's file, if it is another.
    """

    path: Path
    name: str
    place: str
    survey: "Future[Survey]"
    """What a thread finds in the bytes while the file is read."""
    encoding: str = ""
    packed: str = ""
    """How the user's file is compressed."""

    @property
    def folders(self) -> dict[str, str]:
        """The columns in the names of folders, such as `rating=5`, with their values."""
        named = (folder.partition("=") for folder in self.place.split("/")[:-1] if "=" in folder)
        return {name: unquote(value) for name, _, value in named}

    @property
    def label(self) -> str:
        """The name behind those of the folders that hold columns, such as `rating=5/part-0.csv`."""
        folders = self.place.split("/")[:-1]
        first = next((n for n, folder in enumerate(folders) if "=" in folder), len(folders))
        return "/".join([*folders[first:], self.name])

    @property
    def sha256(self) -> str:
        """SHA-256 of the bytes, in hexadecimal; of a compressed file those that it holds."""
        return self.survey.result().sha256

    @property
    def has_respelled(self) -> bool:
        """Whether an integer of the text may have a sign or leading zeros, see `Survey`."""
        return self.seems_respelled or self.survey.result().respelled

    @property
    def has_zeros(self) -> bool:
        """Whether a character of the text is NUL."""
        return any(b"\0" in b for b in blocks_of(self.path)) if self.encoding else self.survey.result().has_zeros

    @property
    def seems_respelled(self) -> bool:
        """As `has_respelled`, from the first bytes alone."""
        return bool(self.encoding) or begins_respelled(self.path)


@dataclass(frozen=True)
class Source:
    """Tables by name: `names` are relative to `root`, in alphabetical order.

    `chosen` are those that the user named: one file, or those of a pattern. `encoding` is that of their text; None:
    found from the bytes.
    """

    root: Path | str
    names: tuple[str, ...]
    scratch: Path
    archive: zipfile.ZipFile | Tar | None = None
    chosen: tuple[str, ...] = ()
    encoding: str | None = None
    sheet: str | None = None
    """The sheet of the chosen spreadsheet; None: the first."""
    fetch: Callable[[str], Path] | None = field(default=None, repr=False)
    """Writes a table of a place that is no folder to disk, for example one of a database; the path."""

    @property
    def is_database(self) -> bool:
        """Whether the tables are those of a database."""
        return isinstance(self.root, str) and self.root.endswith("?table=")

    def open_all(self, names: Sequence[str]) -> list[SourceFile]:
        """The tables of some names; a folder among them is the parts in it. Of several, empty texts are left out."""
        found = []
        for name in names:
            folder = Path(self.root) / name
            if self.fetch is None and folder.is_dir() and not is_saved(folder):
                parts = parts_of(_names(folder))
                if not parts:
                    raise InputError("is a folder, expected one with the parts of a table", folder)
                found += [self.open(f"{name}/{part}") for part in parts]
            else:
                found.append(self.open(name))
        return [file for file in found if _is_binary(file) or file.path.stat().st_size] or found[:1]

    def open(self, name: str) -> SourceFile:
        """A table of this source as a plain file on disk; raises `InputError` if it cannot be read."""
        place = self._place(name)
        try:
            if self.archive is not None:
                file = self._of_archive(self.archive, name, place)
                file = self._readable(file, self.archive.getinfo(name).compress_size)
                return (
                    replace(file, packed=f"{file.packed}, tar".lstrip(", ")) if isinstance(self.archive, Tar) else file
                )
            path = Path(self.root) / name if self.fetch is None else self.fetch(name)
            _refuse_device(path, place)
            if path.is_dir():
                return SourceFile(path, posixpath.basename(name), place, _SURVEYING.submit(survey_of_folder, path))
            return self._readable(_file(path, name, place))
        except OSError as error:
            if error.errno in _FULL:  # of the scratch folder
                raise unwritable(self.scratch, error) from None
            raise InputError(f"cannot be read: {error.strerror or error}", place) from None
        except UnicodeEncodeError:  # the readers take paths as UTF-8
            raise InputError("has bytes in its path that are not UTF-8, expected another name", place) from None

    def _place(self, name: str) -> str:
        """A table's name for messages."""
        if self.archive is not None:
            return f"{self.root}/{name}"
        if isinstance(self.root, Path):
            return str(self.root / name)
        return f"{self.root}{name.replace('/', '.') if self.is_database else name}"

    def _of_archive(self, archive: zipfile.ZipFile | Tar, name: str, place: str) -> SourceFile:
        path, kind = self.copy_path(name), _kind(archive)
        try:
            _refuse_bomb(archive.getinfo(name), place)
            with archive.open(name) as member, path.open("wb") as file:
                _copy(member, file)
        except _DAMAGE as error:
            raise InputError(f"cannot be read from the {kind}, fetch it again: {error}", place) from None
        except OSError as error:  # damage in bz2 is an OSError without errno, or EINVAL
            if error.errno is not None and error.errno != errno.EINVAL:
                raise
            raise InputError(f"cannot be read from the {kind}, fetch it again: {error}", place) from None
        return _file(path, name, place)

    def _readable(self, file: SourceFile, size: int | None = None) -> SourceFile:
        """The file, unpacked and as UTF-8; `size` are the bytes that it has in the user's own file."""
        stem, suffix = posixpath.splitext(file.name)
        kind = _packing(file.path)
        if kind is not None:
            name = stem if suffix.lower() in PACKED else file.name
            file.survey.cancel()
            file = replace(_file(self._unpacked(file.path, file.place, kind, size), name, file.place), packed=kind)
        elif suffix.lower() in PACKED:
            raise InputError(f"is not a {PACKED[suffix.lower()][1]} file, expected one or another suffix", file.place)
        if file.name.lower().endswith(spreadsheet.SUFFIXES):
            copy, sheet = self.copy_path(f"{file.place} as a table"), self.sheet if file.name in self.chosen else None
            place = spreadsheet.convert(file.path, file.place, sheet, copy, _refuse_bomb)
            return replace(file, path=copy, place=place)
        if self.sheet is not None and file.name in self.chosen:
            raise InputError(f"has no sheets, expected no {spreadsheet.SHEET}{self.sheet}", file.place)
        if _is_binary(file):
            return file
        encoding = encoding_of(file.path, file.place, self.encoding)
        if encoding:
            file = replace(file, path=self._as_utf8(file, encoding), encoding=encoding)
        if file.name.lower().endswith(_JSON):
            with file.path.open("rb") as content:
                is_python = content.read(2) == b"{'"
            return replace(file, path=self._as_json(file)) if is_python else file
        return file

    def _unpacked(self, packed_path: Path, place: str, kind: str, size: int | None = None) -> Path:
        """Unpack a compressed file; raises `InputError` if it is damaged, or much larger than it may be."""
        path, most = self.copy_path(place), max(LARGE, MOST_TIMES * (size or packed_path.stat().st_size))
        try:
            with _decompressing(packed_path, kind) as packed, path.open("wb") as plain:
                if _copy(packed, plain, most) > most:
                    raise InputError(f"unpacks to more than {most / 1e6:,.0f} MB, expected a table", place)
        except (*_DAMAGE, OSError) as error:
            if isinstance(error, OSError) and error.errno in _FULL:
                raise
            raise InputError(f"is not a whole {kind} file, fetch it again: {first_line(error)}", place) from None
        return path

    def _as_utf8(self, file: SourceFile, encoding: str) -> Path:
        path = self.copy_path(file.place + encoding)
        try:
            with (
                file.path.open(encoding=encoding, newline="") as text,
                path.open("w", encoding="utf-8", newline="") as out,
            ):
                _copy(text, out)
        except UnicodeError as error:
            raise InputError(
                f"is not {encoding} text: {first_line(error)}; ratings.encoding names another", file.place
            ) from None
        return path

    def _as_json(self, file: SourceFile) -> Path:
        """Rewrite lines of Python's dictionaries, as some old data sets have them, as JSON."""
        path = self.copy_path(f"{file.place} as JSON")
        with file.path.open(encoding="utf-8", errors="replace") as lines, path.open("w", encoding="utf-8") as out:
            for line in lines:
                try:
                    out.write(json.dumps(ast.literal_eval(line)) + "\n" if line.strip() else "\n")
                except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
                    out.write(line)  # the reader names it, or leaves it out
        return path

    def copy_path(self, name: str) -> Path:
        """A path in the scratch folder; `name` itself may be too long for a file."""
        self.scratch.mkdir(exist_ok=True)
        return self.scratch / hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def digests(files: Sequence[SourceFile], inputs: Mapping[str, str] = {}) -> dict[str, str]:
    """`inputs`, and the SHA-256 of each file by its label; files of one label have the folders that tell them apart."""
    found, places = dict(inputs), dict.fromkeys(inputs, "")
    for file in files:
        folders = file.place.split("/")
        names = [file.label, *("/".join(folders[-n:]) for n in range(1, len(folders) + 1))]
        name = next(
            (n for n in names if places.setdefault(n, file.place) == file.place or inputs.get(n) == file.sha256),
            file.place,
        )
        found[name] = file.sha256
    return found


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for copies of files, removed when the block ends; those that killed processes left are removed first."""
    for left in Path(tempfile.gettempdir()).glob("palate-scratch-*"):
        owner = re.fullmatch(r"palate-scratch-(.+)-(\d+)-\w{8}", left.name)
        if owner and int(owner[2]) != os.getpid() and is_abandoned(left, owner[1], int(owner[2])):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"palate-scratch-{platform.node()}-{os.getpid()}-") as scratch:
        yield Path(scratch)


@contextmanager
def open_source(path: Path, encoding: str | None = None) -> Iterator[Source]:
    """Open a file, a pattern, a folder or an archive; unpacked files are removed when the block ends.

    Raises `InputError` if it cannot be read, is not a whole archive, or has member names that point outside of it.
    """
    with scratch_folder() as scratch, reading(path):
        opened = partial(Source, scratch=scratch, encoding=encoding)
        if archive_stem(path.name) is not None and not path.is_dir():
            with _archive(path, opened(path, ())) as archive:
                yield opened(path, _members(archive, path), archive=archive)
            return
        matched = [] if path.exists() else sorted(map(Path, glob.glob(str(path), recursive=True)))
        if is_saved(path):
            path = path.resolve()
            yield opened(path.parent, _names(path.parent), chosen=(path.name,))
        elif path.is_dir():
            yield opened(path, _names(path))
        elif not matched:
            yield opened(path.parent, _names(path.parent), chosen=(path.name,))
        else:
            root = Path(posixpath.commonpath([m.parent for m in matched]))
            names = tuple(str(m.relative_to(root)) for m in matched if not m.name.startswith(_APPLE))
            yield opened(root, tuple(sorted({*_names(root), *names})), chosen=names)


def is_saved(folder: Path) -> bool:
    """Whether a folder is a dataset that `datasets` saved."""
    return (folder / "state.json").is_file()


def parts_of(names: Sequence[str]) -> tuple[str, ...]:
    """The files that are parts of one table: their names differ in nothing but numbers and identifiers.

    Empty if other files are beside them, apart from hidden ones and marks such as `_SUCCESS`.
    """
    files = [name for name in names if not posixpath.basename(name).startswith(("_", "."))]
    alike = {
        re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d+", "0", posixpath.basename(n).lower()) for n in files
    }
    return tuple(files) if len(alike) == 1 and (len(files) > 1 or next(iter(alike)).startswith("part-")) else ()


def _names(folder: Path) -> tuple[str, ...]:
    """The files of a folder, saved datasets, and files of subfolders that a table is partitioned into: `year=2024/`."""
    try:
        found = [p for p in folder.iterdir() if not p.name.startswith(_APPLE)]
        files = [p.name for p in found if p.is_file()]
        parts = [f for p in found if "=" in p.name and p.is_dir() for f in p.rglob("*") if f.is_file()]
        tables = [
            p.name for p in found if is_saved(p) or (p.is_dir() and p.suffix.lower() in (".parquet", ".csv", ".json"))
        ]
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", folder) from None
    return tuple(sorted([*files, *(f.relative_to(folder).as_posix() for f in parts), *tables]))


def _refuse_device(path: Path, place: str) -> None:
    """Raise `InputError` for a pipe or a device, which may never end and cannot be read twice; `OSError` for none.

    Raises `UnicodeEncodeError` for a path that is not UTF-8.
    """
    str(path).encode()
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputError("is a pipe or a device, expected a file: `cat` writes it into one", place)


def archive_stem(name: str) -> str | None:
    """The name of an archive without its suffix; None for another file."""
    suffix = next((suffix for suffix in _ARCHIVES if name.lower().endswith(suffix)), None)
    return None if suffix is None else name[: -len(suffix)]


def _kind(archive: zipfile.ZipFile | Tar) -> str:
    return "tar" if isinstance(archive, Tar) else "zip"


def _packing(path: Path) -> str | None:
    """How a file is compressed, by its first bytes."""
    with path.open("rb") as content:
        begin = content.read(6)
    return next((kind for mark, kind in PACKED.values() if begin.startswith(mark)), None)


def _archive(path: Path, source: Source) -> zipfile.ZipFile | Tar:
    """The open archive; a compressed tar is unpacked into the scratch folder of `source` first."""
    is_zip = path.suffix.lower() == ".zip"
    try:
        _refuse_device(path, str(path))
        if is_zip:
            return zipfile.ZipFile(path)
        kind = _packing(path)
        return Tar(path if kind is None else source._unpacked(path, str(path), kind))
    except OSError as error:
        if error.errno in _FULL:
            raise unwritable(source.scratch, error) from None
        raise InputError(f"cannot be read: {error.strerror or error}", path) from None
    except _DAMAGE:
        raise InputError(f"is not a whole {'zip' if is_zip else 'tar'} file, fetch it again", path) from None


def _members(archive: zipfile.ZipFile | Tar, path: Path) -> tuple[str, ...]:
    """The names of an archive's files; raises `InputError` if one points outside of it."""
    names = archive.namelist()
    unsafe = next((n for n in names if _leads_out(n)), None)
    if unsafe is not None:
        raise InputError(
            f"has the member {unsafe!r}, expected only names below the {_kind(archive)}'s own folder", path
        )
    return tuple(sorted(n for n in names if not n.endswith("/") and not posixpath.basename(n).startswith(_APPLE)))


def _decompressing(path: Path, kind: str) -> Any:
    """The unpacked bytes of a file."""
    import bz2
    import gzip

    if kind == "zstd":
        import pyarrow as pa

        return pa.input_stream(str(path), compression="zstd")
    opened: Any = {"gzip": gzip.open, "bz2": bz2.open, "xz": lzma.open}[kind]
    return opened(path, "rb")


def _copy(source: Any, target: IO[Any], most: float = float("inf")) -> int:
    """Copy in blocks, until a little more than `most` are written; the number of characters or bytes."""
    written = 0
    while written <= most and (block := source.read(_BLOCK)):
        target.write(block)
        written += len(block)
    return written


def _is_binary(file: SourceFile) -> bool:
    """Whether a file is a folder, or has a name of a binary format."""
    return file.path.is_dir() or file.name.lower().endswith(_BINARY) or file.path.suffix in _BINARY


def _file(path: Path, name: str, place: str) -> SourceFile:
    binary = (*_BINARY, *spreadsheet.SUFFIXES)
    survey = survey_of_bytes if name.lower().endswith(binary) else survey_of_text
    return SourceFile(path, posixpath.basename(name), place, _SURVEYING.submit(survey, path))


def _refuse_bomb(member: zipfile.ZipInfo | Member, place: str) -> None:
    """Raise `InputError` for a zip bomb: a table of ratings compresses to a fifth, not to a hundredth."""
    size = member.file_size
    if size > LARGE and size > MOST_TIMES * member.compress_size:
        packed = f"{max(member.compress_size // 1000, 1):,} kB"
        raise InputError(f"unpacks to {size / 1e6:,.0f} MB from {packed}, expected a table of ratings or items", place)


def _leads_out(name: str) -> bool:
    """Whether a member's name points outside of the folder that the archive is unpacked in."""
    parts = name.replace("\\", "/").split("/")
    return ".." in parts or parts[0] == "" or parts[0].endswith(":")
