"""An input of a reader, and what may become of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

from palate.errors import PalateError

Outcome = Literal["read", "refused"]


class Fault(Exception):  # noqa: N818
    """Palate read an input in a wrong way, or refused it in another way than in a line."""


@dataclass(frozen=True)
class Case:
    """An input: a file or a folder."""

    path: Path
    size: int
    """Bytes."""
    truth: bytes | None = None
    """The text that a packed file holds; None: the input is text, or it may be anything."""


@dataclass(frozen=True)
class Reader:
    """`make` writes the input of a seed into a folder, `check` reads it and raises `Fault`."""

    make: Callable[[Random, Path], Case]
    check: Callable[[Case, int], Outcome]


def refusal(error: PalateError, folder: Path) -> Outcome:
    """Check that an error is one line that begins with the place."""
    line = str(error)
    if "\n" in line or "\r" in line or (not line.isprintable() and any(ord(c) < 32 for c in line)):
        raise Fault(f"the error is not one line: {line!r}")
    if not line.startswith((str(folder), "ratings.", "sqlite:")):
        raise Fault(f"the error begins with no place: {line!r}")
    if "panic" in line.lower() or "Traceback" in line or "Error(" in line:
        raise Fault(f"the error is one of a library: {line!r}")
    line.encode()
    return "refused"
