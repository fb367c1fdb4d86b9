"""What the terminal shows: results on stdout, the course of the work on stderr."""

import logging
import os
import re
from collections.abc import Iterable
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, RenderableType
from rich.segment import Segment

_CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


class Console(RichConsole):
    """Rich's, showing text as it stands: no markup such as `[/b]` or `:smile:`, and no control character acts."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False} | options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Segments as Rich makes them; its own control codes stay."""
        for segment in super().render(renderable, options):
            if segment.control or not _CONTROLS.search(segment.text):
                yield segment
            else:
                yield Segment(_CONTROLS.sub("\ufffd", segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        """End as after `print`, where Rich would exit with 1: see `palate.cli.main`."""
        raise BrokenPipeError


# Where there is no terminal to ask, tables get the width that they are made for.
WIDTH = 100
out = Console()
err = Console(stderr=True)
for each in (out, err):
    if not each.is_terminal:
        each.width = WIDTH

log = logging.getLogger("palate")


class _Lines(logging.Handler):
    """Prints each record as a line, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        style = "yellow" if record.levelno >= logging.WARNING else ""
        err.print(self.format(record), style=style, markup=False, highlight=False, soft_wrap=True)


def start_logging(file: Path | None = None) -> None:
    """Send the log to stderr, and to `file` with times; what was said before the file was known comes first in it."""
    log.setLevel(logging.INFO)
    log.propagate = False
    if "WORLD_SIZE" in os.environ and os.environ.get("RANK", "0") != "0":  # the first process speaks for all
        log.addHandler(logging.NullHandler())
        out.quiet = err.quiet = True
        return
    if not log.handlers:
        log.addHandler(_Lines())
        log.addHandler(MemoryHandler(capacity=1000, flushLevel=logging.CRITICAL + 1))
    if file is None:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    kept = logging.FileHandler(file, encoding="utf-8")
    kept.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for old in [h for h in log.handlers if isinstance(h, (logging.FileHandler, MemoryHandler))]:
        if isinstance(old, MemoryHandler):
            old.setTarget(kept)
        log.removeHandler(old)
        old.close()
    log.addHandler(kept)
