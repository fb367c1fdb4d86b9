"""The two ways in which Palate stops: the input is wrong (exit 2), or the work failed (exit 1)."""

import difflib
import errno
import re
from collections.abc import Iterable
from pathlib import Path

_LONG = 2000
"""Characters of a message of which no part is left out."""


UNSEEN = r"\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
"""In a regular expression, characters from U+007F on that act on a terminal, end or turn a line, or are no text."""


def visible(text: str) -> str:
    """The text with control characters, and bytes of names that are not UTF-8, as Python escapes, such as `\\x1b`."""
    return re.sub(rf"[\x00-\x1f\ufeff{UNSEEN}]", lambda found: repr(found[0])[1:-1], text)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the error's class if the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """A question with the name that is closest to the word, or nothing."""
    near = difflib.get_close_matches(word, list(names), n=1)
    return f", did you mean {near[0]!r}?" if near else ""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out; PyTorch has a class of its own for a GPU's, and only a text for a processor's.

    A file that the system has no memory to open is named by its own error.
    """
    if isinstance(error, PalateError) or (isinstance(error, OSError) and error.filename is not None):
        return False
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or any(text in str(error) for text in ("allocate memory", "bad_alloc"))


class PalateError(Exception):
    """An error that the command line prints as one line, without a traceback."""

    exit_code = 1


class WorkError(PalateError):
    """The input is right, but the work failed: a download broke off, the disk is full, a loss is not finite."""


def unwritable(path: str | Path, error: OSError) -> WorkError:
    """The error for a failed write: exit code 2 if no file can have this path, 1 otherwise, as for a full disk."""
    wrong = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)
    failed = WorkError(f"{path}: cannot be written: {error.strerror or error}")
    failed.exit_code = 2 if error.errno in wrong else 1
    return failed


class InterruptedWorkError(WorkError):
    """A signal stopped the work at a point from which a later run resumes it."""

    exit_code = 130


class InputError(PalateError):
    """Wrong input or usage: `PLACE:LINE: problem, expectation`.

    `place` is a file, an option or a config key. `line` counts from 1; None omits it.
    """

    exit_code = 2

    def __init__(self, message: str, place: str | Path | None = None, line: int | None = None) -> None:
        if len(message) > _LONG:  # a field or a header may be of any length
            message = f"{message[: _LONG // 2]} […] {message[-_LONG // 2 :]}"
        self.message, self.place, self.line = message, place, line
        where = "" if place is None else f"{place}:{line}: " if line is not None else f"{place}: "
        super().__init__(visible(where + message))
