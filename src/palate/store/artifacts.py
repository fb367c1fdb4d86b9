"""Atomic files and folders (temporary name, fsync, rename), and the manifest that lists a folder's files.

`manifest.json` is written last, so a folder that has one has every file that it lists.
"""

import hashlib
import json
import os
import platform
import re
import shutil
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NoReturn

from palate import __version__
from palate.errors import InputError, PalateError, WorkError, unwritable
from palate.store.lock import locked

DAMAGED = (OSError, ValueError, EOFError, TypeError, AttributeError, KeyError, zipfile.BadZipFile, zlib.error)
"""What `np.load` raises for a file that is missing, damaged, or none of its own."""
DAY = 86_400.0
"""Seconds without a write after which what another machine was writing counts as abandoned."""
MANIFEST = "manifest.json"
HALF = f".{MANIFEST}"
"""The manifest of a folder while its files are being replaced; it stays if the process is killed meanwhile."""
_ERROR_NUMBER = re.compile(r"(\(os error |unable to .* file .*\()(?P<n>\d+)\)")
_REPLACED = "replaced"
_HIDDEN = re.compile(rf"\.(.+)\.(partial|{_REPLACED})-(.+)-(\d+)")
"""A name of `hidden`: the name beside it, the use, the machine and the process."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an `OSError`, also one of Rust's in a message, into the `WorkError` that `path` cannot be written."""
    try:
        yield
    except Exception as error:
        failed = _of_system(error)
        if failed is None:
            raise
        raise unwritable(path, failed) from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Name `path` in an `OSError`, also one of Rust's in a message, that names no file, as of a read that fails."""
    try:
        yield
    except Exception as error:
        failed = _of_system(error)
        if failed is None or failed.filename is not None:
            raise
        raise WorkError(f"{path}: cannot be read: {failed.strerror or failed}") from error


def _of_system(error: Exception) -> OSError | None:
    """The error of the system; Rust's libraries and PyTorch have its number in the message of an error of their own."""
    if isinstance(error, OSError):
        return error
    number = None if isinstance(error, PalateError) else _ERROR_NUMBER.search(str(error))
    return None if number is None else OSError(int(number["n"]), os.strerror(int(number["n"])))


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a binary file that appears at `path` only if the block ends without an exception.

    Raises `InputError` for a device or a pipe, which the rename would replace.
    """
    partial = hidden(path, "partial")
    with writing(path):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise InputError("is a device or a pipe, expected the name of a file", path)
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path)
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
    """Yield a temporary folder; its files replace those of `path`, manifest last, if the block raises nothing.

    Files of `path` that the block did not write stay. From the first to the last rename the folder is inconsistent, and
    has `HALF` instead of a manifest. With `whole` two renames replace the entire folder.
    """
    partial = hidden(path, "partial")
    with writing(path):
        remove_abandoned(path)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            yield partial
            names = [name for name in files_of(partial) if name != MANIFEST]
            names += [MANIFEST] if (partial / MANIFEST).exists() else []
            for name in names:
                # safetensors makes files that only their owner can read; the folder's mode follows the umask.
                (partial / name).chmod(partial.stat().st_mode & 0o666)
                sync(partial / name)
            with locked(path):  # two processes would mix their files
                if whole and path.exists():
                    _exchange(partial, path)
                elif path.exists():
                    # One of the two is there at each moment, even if a rename removes its target first.
                    replaced, half = path / MANIFEST, path / HALF
                    manifest = replaced if replaced.exists() else partial / MANIFEST
                    if manifest.exists() and (replaced.exists() or not half.exists()):
                        shutil.copyfile(manifest, partial / HALF)
                        sync(partial / HALF)
                        (partial / HALF).replace(half)
                    replaced.unlink(missing_ok=True)
                    for name in names:
                        (path / name).parent.mkdir(parents=True, exist_ok=True)
                        (partial / name).replace(path / name)
                    half.unlink(missing_ok=True)
                else:
                    partial.rename(path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def files_of(folder: Path) -> dict[str, Path]:
    """All files below a folder by their relative names, sorted; raises `OSError` if some cannot be listed."""
    paths = sorted(Path(top, name) for top, _, names in os.walk(folder, onerror=_raise) for name in names)
    return {path.relative_to(folder).as_posix(): path for path in paths if path.is_file()}


def _raise(error: OSError) -> NoReturn:  # `Path.rglob` leaves out a folder that it may not list
    raise error


def _exchange(new: Path, path: Path) -> None:
    """Replace the folder `path` by `new`; if that fails, the old folder stays."""
    old = hidden(path, _REPLACED)
    try:
        path.rename(old)
        new.rename(path)
    finally:
        if not path.exists():
            old.rename(path)
        shutil.rmtree(old, ignore_errors=True)


def hidden(path: Path, use: str) -> Path:
    """A hidden name of this process beside `path`; containers may share a folder, but not their process ids."""
    return path.with_name(f".{path.name}.{use}-{platform.node()}-{os.getpid()}")


def remove_abandoned(path: Path) -> None:
    """Remove what killed processes left beside `path`; a folder that one was replacing is restored.

    A process of another machine, or of an earlier container, counts as killed if it wrote nothing for a day.
    """
    for name in os.listdir(path.parent) if path.parent.is_dir() else ():
        left = _HIDDEN.fullmatch(name)
        if left is None or left[1] != path.name or not is_abandoned(path.with_name(name), left[3], int(left[4])):
            continue
        if left[2] == _REPLACED and not path.exists():
            path.with_name(name).rename(path)
        with suppress(OSError):
            path.with_name(name).unlink()
        shutil.rmtree(path.with_name(name), ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what killed processes left beside finished files anywhere below a folder, as `remove_abandoned` does.

    These are not written again, so that nobody else looks beside them.
    """
    for top, folders, files in os.walk(folder):
        for name in {left[1] for each in (*folders, *files) if (left := _HIDDEN.fullmatch(each))}:
            if Path(top, name).exists():
                remove_abandoned(Path(top, name))


def is_abandoned(path: Path, machine: str, pid: int) -> bool:
    """Whether the process that wrote a hidden file or folder has ended, or seems to have on another machine."""
    if machine == platform.node():
        return pid == os.getpid() or not is_running(pid)  # a new container may reuse the id of the killed process
    # The inode's own time, as a rename keeps the time of the last write.
    return time.time() - max((found.st_ctime for found in statuses(path)), default=time.time()) > DAY


def statuses(path: Path) -> Iterator[os.stat_result]:
    """The status of a file, or of everything below a folder, without files that vanish meanwhile."""
    paths = [str(path)]
    paths += [os.path.join(top, name) for top, folders, files in os.walk(path) for name in (*folders, *files)]
    for each in paths:
        with suppress(OSError):
            yield os.lstat(each)


def is_running(pid: int) -> bool:
    """Whether a process of this machine has this id."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # of another user
        pass
    return True


def sync(path: Path) -> None:
    """Flush a file's bytes, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write `value` atomically as indented UTF-8 JSON; equal values give equal bytes."""
    with atomic_file(path) as file:
        file.write((json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON object; raises `InputError` if the file is missing, is not JSON or has another value."""
    try:
        with reading(path):
            value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("not found, expected a file that Palate wrote", path) from None
    except json.JSONDecodeError as error:
        raise InputError(f"is not JSON, expected a whole file: {error.msg}", path, error.lineno) from None
    except (UnicodeDecodeError, RecursionError):
        raise InputError("is not JSON, expected a whole file: not UTF-8, or nested too deeply", path) from None
    if not isinstance(value, dict):
        raise InputError("has another JSON value, expected an object", path)
    return value


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with reading(path), path.open("rb") as file:
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
    """Write `manifest.json` for all files in `folder`: inputs, options, statistics and the outputs' hashes.

    `inputs` maps a name to a SHA-256. The manifest has neither time nor machine, so equal inputs and options give an
    equal manifest.
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
