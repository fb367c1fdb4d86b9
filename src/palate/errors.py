"""The two ways in which Palate stops: the input is wrong (exit 2), or the work failed (exit 1)."""

import errno
import re
from pathlib import Path


def visible(text: str) -> str:
    """Text with its line breaks and other control characters written as Python writes them, such as `\\x1b`."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff]", lambda found: repr(found[0])[1:-1], text)


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its class where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class PalateError(Exception):
    """An error that is told to the user in one line, without a traceback."""

    exit_code = 1


class WorkError(PalateError):
    """Something failed while working: a download broke off, a disk is full, a loss is not finite."""


def unwritable(path: str | Path, error: OSError) -> WorkError:
    """Why a file cannot be written; a path that can never be one is wrong input, a full disk is not."""
    wrong = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)
    failed = WorkError(f"{path}: cannot be written: {error.strerror or error}")
    failed.exit_code = 2 if error.errno in wrong else 1
    return failed


class InterruptedWorkError(WorkError):
    """Someone asked the work to stop, and it stopped where it can be taken up again."""

    exit_code = 130


class InputError(PalateError):
    """Wrong input or usage: `PLACE:LINE: what is wrong, what was expected`.

    `place` is a file, an option or a config; `line` counts from 1 and is left out where there is none.
    """

    exit_code = 2

    def __init__(self, message: str, place: str | Path | None = None, line: int | None = None) -> None:
        self.message, self.place, self.line = message, place, line
        where = "" if place is None else f"{place}:{line}: " if line is not None else f"{place}: "
        super().__init__(visible(where + message))
