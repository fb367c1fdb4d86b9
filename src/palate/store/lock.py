"""A lock that one process, or one thread of it, holds at a time."""

import errno
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

log = logging.getLogger(__name__)

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool | None]:
    """Hold the lock of `path` and yield True; yield None if the file system has no locks.

    If another process or thread has the lock, wait for it, or yield False without `wait`. The lock is a file
    `.NAME.lock` beside `path`, removed with the lock's release. The system releases the lock of a process that dies.
    Raises `OSError` if the file cannot be written.
    """
    from filelock import FileLock, Timeout  # imports asyncio

    file = path.with_name(f".{path.name}.lock")
    lock = FileLock(file)
    got: bool | None = True
    try:
        lock.acquire(timeout=0)
    except Timeout:
        got = wait
        if wait:
            if not file.exists():  # released meanwhile, or a folder such as /proc, where filelock would try for good
                file.touch()
            log.info("waiting for another process that writes %s", path)
            lock.acquire()
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        got = None
    try:
        yield got
    finally:
        if got is not False:
            # Remove the file before the release: a process that waits for it then sees that the file is gone, or finds
            # the finished work.
            file.unlink(missing_ok=True)
            lock.release()


def remove_left(path: Path, parts: Path | None = None) -> None:
    """Remove the lock file, and the folder `parts`, that a process left which was killed when `path` was finished."""
    if path.with_name(f".{path.name}.lock").exists() or (parts is not None and parts.exists()):
        with suppress(OSError), locked(path, wait=False) as got:
            if got and parts is not None:
                shutil.rmtree(parts, ignore_errors=True)
