"""The terminal: results go to stdout, log lines and progress to stderr."""

import logging
import os
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, RenderableType
from rich.segment import Segment

_CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


class Console(RichConsole):
    """A Rich console that prints text literally: it reads no markup such as `[/b]` or `:smile:`, and replaces
    control characters by U+FFFD."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False} | options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Rich's segments without control characters in their text; Rich's own control codes stay."""
        for segment in super().render(renderable, options):
            if segment.control or not _CONTROLS.search(segment.text):
                yield segment
            else:
                yield Segment(_CONTROLS.sub("\ufffd", segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        """Raise, as `print` does, so that `palate.cli.main` sets the exit code; Rich would exit with 1."""
        raise BrokenPipeError


WIDTH = 80
"""Columns of a table if the output is no terminal."""
out = Console()
err = Console(stderr=True)
for each in (out, err):
    if not each.is_terminal:
        each.width = WIDTH

log = logging.getLogger("palate")


class _Lines(logging.Handler):
    """Prints each record as a line, above the progress bar if one is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        style = "yellow" if record.levelno >= logging.WARNING else ""
        err.print(self.format(record), style=style, markup=False, highlight=False, soft_wrap=True)


class _File(logging.FileHandler):
    """A log file; where it cannot be written, as on a full disk, stderr says so once, without a traceback a record."""

    told = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        if not self.told:
            self.told = True
            err.print(f"{self.baseFilename}: cannot be written: {sys.exc_info()[1]}", style="yellow", soft_wrap=True)

    def close(self) -> None:
        with suppress(OSError):  # of the line that could not be written
            super().close()


def start_logging(file: Path | None = None, *, verbose: bool = False) -> None:
    """Send the log to stderr, and to `file` with times; `file` starts with the records logged before this call.

    `verbose`, in the first call, shows the cache and the progress of long work on stderr, too; `file` has all.
    """
    log.setLevel(logging.DEBUG)
    log.propagate = False
    if "WORLD_SIZE" in os.environ and os.environ.get("RANK", "0") != "0":  # only the first process logs
        log.addHandler(logging.NullHandler())
        out.quiet = err.quiet = True
        return
    if not log.handlers:
        log.addHandler(_Lines(logging.DEBUG if verbose else logging.INFO))
        log.addHandler(MemoryHandler(capacity=1000, flushLevel=logging.CRITICAL + 1))
    if file is None:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    to_file = _File(file, encoding="utf-8")
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for old in [h for h in log.handlers if isinstance(h, (logging.FileHandler, MemoryHandler))]:
        if isinstance(old, MemoryHandler):
            old.setTarget(to_file)
        log.removeHandler(old)
        old.close()
    log.addHandler(to_file)
