"""Tables in an object store or on a server by URL: `s3://`, `gs://`, `hf://`, `https://`, whatever fsspec opens.

A file is copied into the cache once, and again when the store says that it has changed.
"""

import fnmatch
import hashlib
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from palate.errors import InputError, WorkError, first_line
from palate.progress import Meter
from palate.ratings.source import Source, archive_stem, open_source, scratch_folder
from palate.store.artifacts import atomic_file
from palate.store.hub import cache_dir

_EXTRAS = {
    "s3": "palate[remote]",
    "s3a": "palate[remote]",
    "http": "palate[remote]",
    "https": "palate[remote]",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "abfs": "adlfs",
    "az": "adlfs",
}
"""The package that opens a scheme, where fsspec needs one."""
_BLOCK = 1 << 22


@contextmanager
def open_remote(url: str, encoding: str | None = None) -> Iterator[Source]:
    """The tables at a URL: a file, a pattern, or a folder.

    Raises `InputError` if nothing is there or a package is missing, `WorkError` if the store does not answer.
    """
    files, path = file_system(url)
    scheme = url.partition("://")[0]
    wild = any(character in path for character in "*?[")
    with answering(url):
        folder = path if not wild and files.isdir(path) else posixpath.dirname(path)
        if folder != path and not wild and not files.exists(path):
            raise InputError("no such file or folder", url)
        single = [] if folder == path else [posixpath.basename(path)]
        beside = single if scheme.startswith("http") else sorted(_names(files, folder))
    chosen = tuple(name for name in beside if any(fnmatch.fnmatch(name, pattern) for pattern in single))
    if wild and not chosen:
        raise InputError("matches no file, expected a pattern of files that exist", url)

    def fetch(name: str) -> Path:
        return _copied(files, posixpath.join(folder, name), f"{root}{name}")

    root = f"{(url if folder == path else url.rpartition('/')[0]).rstrip('/')}/"
    if single and not wild and archive_stem(path) is not None:
        with open_source(fetch(single[0]), encoding) as tables:
            yield replace(tables, root=url)
        return
    with scratch_folder() as scratch:
        yield Source(root, tuple(beside), scratch, chosen=chosen, encoding=encoding, fetch=fetch)


def file_system(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it."""
    from fsspec import available_protocols
    from fsspec.core import url_to_fs

    scheme = url.partition("://")[0]
    if scheme.rpartition("::")[2] not in available_protocols():
        known = "s3://, gs://, hf://, https://, sqlite:///, duckdb:/// or postgresql://"
        raise InputError(f"is of no known protocol, expected {known}; export other tables as CSV or Parquet", url)
    try:
        found: tuple[Any, str] = url_to_fs(url)
    except ImportError as error:
        package = _EXTRAS.get(scheme)
        problem = f"cannot be opened: {first_line(error)}"  # fsspec says what to install
        raise InputError(problem if package is None else f"needs {package}: pip install '{package}'", url) from None
    except Exception as error:  # each file system checks its arguments in its own way
        raise InputError(f"cannot be opened: {first_line(error)}", url) from None
    found[0].invalidate_cache()  # of what this process saw earlier
    return found


def _names(files: Any, folder: str) -> list[str]:
    """The files of a folder, and those of subfolders that a table is partitioned into, such as `year=2024/`."""
    names = []
    for entry in files.ls(folder, detail=True):
        name = posixpath.basename(entry["name"].rstrip("/"))
        if entry["type"] == "file":
            names.append(name)
        elif "=" in name:
            names += [f"{name}/{inner}" for inner in _names(files, posixpath.join(folder, name))]
    return names


@contextmanager
def answering(url: str, done: str = "read") -> Iterator[None]:
    """Turn a store's errors into `InputError` for what is not there, and `WorkError` otherwise."""
    try:
        yield
    except (InputError, WorkError):
        raise
    except FileNotFoundError:
        raise InputError("no such file or folder", url) from None
    except Exception as error:  # each store has errors of its own
        raise WorkError(f"{url}: cannot be {done}: {first_line(error)}") from None


def _copied(files: Any, path: str, shown: str) -> Path:
    """The copy of a file in the cache, made if it is missing or the store's file is another."""
    with answering(shown):
        version = hashlib.sha256(f"{shown}\0{files.ukey(path)}".encode()).hexdigest()[:16]
    target = cache_dir() / "remote" / version / posixpath.basename(path)
    if not target.is_file():
        download(files, path, shown, target)
    return target


def download(files: Any, path: str, shown: str, target: Path) -> None:
    """Copy a file of a store to a local path, atomically."""
    with answering(shown):
        size = int(files.info(path).get("size") or 0)
    with atomic_file(target) as copy, Meter(f"copying {shown}", size, "bytes") as meter:
        for block in _blocks(files, path, shown):
            copy.write(block)
            meter.advance(len(block))


def _blocks(files: Any, path: str, shown: str) -> Iterator[bytes]:
    with answering(shown), files.open(path, "rb") as source:
        while block := source.read(_BLOCK):
            yield block
