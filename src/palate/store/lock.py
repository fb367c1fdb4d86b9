"""A lock that one process, or one thread of it, holds at a time."""

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool | None]:
    """Hold the lock of `path`; gives False if another has it, unless it waits, None where the file system has no locks.

    The lock is a file `.NAME.lock` beside `path`, which goes when the lock is released. The system releases the lock of
    a process that dies, however it dies. Raises `OSError` if the file cannot be written.
    """
    file = path.with_name(f".{path.name}.lock")
    lock = FileLock(file)
    got: bool | None = True
    try:
        lock.acquire(timeout=0)
    except Timeout:
        got = wait
        if wait:
            log.info("waiting for another process that makes %s", path)
            lock.acquire()
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        got = None
    try:
        yield got
    finally:
        if got is not False:
            # Before it is released: whoever waits for this file then sees that it is gone, or finds the work done.
            file.unlink(missing_ok=True)
            lock.release()
