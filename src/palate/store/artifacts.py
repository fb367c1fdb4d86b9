"""Files that are either whole or absent: temporary name, fsync, rename; and the manifest that says what they are.

A reader that finds `manifest.json` may believe every file that it names: it is written last.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from palate import __version__
from palate.errors import InputError, unwritable

MANIFEST = "manifest.json"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an `OSError` into a `WorkError`: `path` cannot be written."""
    try:
        yield
    except OSError as error:
        raise unwritable(path, error) from error


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a binary file that appears under `path` only if the block ends without an exception."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            with suppress(OSError):
                partial.unlink()


@contextmanager
def atomic_folder(path: Path, *, whole: bool = False) -> Iterator[Path]:
    """Give a temporary folder whose files replace those of `path`, manifest last, if the block ends well.

    Files of `path` that the block did not write stay, but an old manifest is removed first: between the
    first and the last rename the folder is not to be believed. With `whole` nothing of the old folder stays: it
    is moved away by one rename, and the new one put in its place by another.
    """
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    with writing(path):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            yield partial
            names = [name for name in files_of(partial) if name != MANIFEST]
            names += [MANIFEST] if (partial / MANIFEST).exists() else []
            for name in names:
                # safetensors writes for its owner's eyes only; the folder has what umask allows.
                (partial / name).chmod(partial.stat().st_mode & 0o666)
                sync(partial / name)
            if whole and path.exists():
                _exchange(partial, path)
            elif path.exists():
                (path / MANIFEST).unlink(missing_ok=True)
                for name in names:
                    (path / name).parent.mkdir(parents=True, exist_ok=True)
                    (partial / name).replace(path / name)
            else:
                partial.rename(path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def files_of(folder: Path) -> dict[str, Path]:
    """All files in a folder and the folders within it, by their relative names in order."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path for path in paths}


def _exchange(new: Path, path: Path) -> None:
    """Put a folder in another's place; the other comes back unless that is done."""
    old = path.with_name(f".{path.name}.replaced-{os.getpid()}")
    try:
        path.rename(old)
        new.rename(path)
    finally:
        if not path.exists():
            old.rename(path)
        shutil.rmtree(old, ignore_errors=True)


def sync(path: Path) -> None:
    """Have a file's bytes, or the names in a folder, on the disk before this returns."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented UTF-8 JSON, atomically; equal values give equal bytes."""
    with atomic_file(path) as file:
        file.write((json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file that holds an object; a missing or broken one, or another value, is an `InputError`."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("not found", path) from None
    except json.JSONDecodeError as error:
        raise InputError(f"is not JSON: {error.msg}", path, error.lineno) from None
    except (UnicodeDecodeError, RecursionError):
        raise InputError("is not JSON: not UTF-8, or nested too deeply", path) from None
    if not isinstance(value, dict):
        raise InputError("holds another JSON value, expected an object", path)
    return value


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(value: Any) -> str:
    """SHA-256 of a value's canonical JSON (sorted keys, no spaces), in hexadecimal."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def write_manifest(
    folder: Path,
    stage: str,
    *,
    inputs: Mapping[str, str],
    options: Mapping[str, Any],
    stats: Mapping[str, Any],
) -> dict[str, Any]:
    """Write `manifest.json` for all files in `folder`: what went in, with which options, what came out.

    `inputs` maps a name to a SHA-256. Nothing in it depends on when or where the stage ran, so equal
    inputs and options give an equal manifest.
    """
    manifest = {
        "palate": __version__,
        "stage": stage,
        "inputs": dict(inputs),
        "options": dict(options),
        "stats": dict(stats),
        "outputs": {
            name: sha256_file(path)
            for name, path in files_of(folder).items()
            if path.name != MANIFEST and not path.name.startswith(".")
        },
    }
    write_json(folder / MANIFEST, manifest)
    return manifest
