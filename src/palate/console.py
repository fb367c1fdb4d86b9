"""The terminal: results go to stdout, log lines and progress to stderr."""

import json
import logging
import os
import re
import secrets
import sys
import time
import traceback
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, RenderableType
from rich.segment import Segment

from palate.errors import UNSEEN, first_line, visible

CONTROLS = re.compile(rf"[\x00-\x09\x0b-\x1f{UNSEEN}]")


class Console(RichConsole):
    """A Rich console that prints text literally: without markup such as `[/b]` or `:smile:`, without colours for
    numbers, and with U+FFFD for control characters."""

    plain = False
    """Whether it shows no bars, on a terminal either."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, "highlight": False} | options)

    @property
    def is_terminal(self) -> bool:
        """Whether bars and spinners are shown."""
        return not self.plain and super().is_terminal

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Rich's segments without control characters in their text; Rich's own control codes stay."""
        for segment in super().render(renderable, options):
            if segment.control or not CONTROLS.search(segment.text):
                yield segment
            else:
                yield Segment(CONTROLS.sub("\ufffd", segment.text), segment.style)

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


def print_json(value: Any) -> None:
    """Print a result as indented JSON; control characters and those that turn text around are escaped."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    print(CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


RUN = "PALATE_RUN_ID"
"""Environment variable with the run's id, for the processes that it starts."""
_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
FRAMES = 12
"""Places of an error's traceback that the log names."""
EARLIER = 1000
"""Records that are kept until a file is opened for them."""
about: dict[str, str] = {}
"""What each JSON line says beside its record: run, command and stage."""


class _Lines(logging.Handler):
    """Prints each record as a line, above the progress bar if one is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        level = {logging.WARNING: "yellow", logging.ERROR: "red", logging.CRITICAL: "red"}.get(record.levelno, "")
        style = getattr(record, "style", level)
        err.print(self.format(record), style=style, soft_wrap=True)


class _JsonLines(logging.Handler):
    """Prints each record as a JSON object on a line of ASCII; `extra={"fields": {…}}` of a record adds to it."""

    def emit(self, record: logging.LogRecord) -> None:
        fields = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            **about,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            fields["traceback"] = logging.Formatter().formatException(record.exc_info)
        sys.stderr.write(json.dumps(fields, default=str) + "\n")
        sys.stderr.flush()


class _File(logging.FileHandler):
    """A run's log; where it cannot be written, as on a full disk, a warning says so once, without a traceback.

    An error that ends the command stays the last line.
    """

    warned = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        if not self.warned and record.levelno < logging.ERROR:
            self.warned = True  # this handler gets the warning, too
            log.warning("%s: cannot be written: %s", self.baseFilename, sys.exc_info()[1])

    def close(self) -> None:
        with suppress(OSError):
            super().close()


class _Earlier(logging.Handler):
    """Keeps the newest records for a file that is opened later."""

    def __init__(self) -> None:
        super().__init__()
        self.records: deque[logging.LogRecord] = deque(maxlen=EARLIER)

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def begin_log(*, verbose: bool = False, quiet: bool = False, as_json: bool = False, command: str | None = None) -> None:
    """Send the log to stderr, in place of where it went before: as lines, or `as_json` as objects.

    `verbose` shows the cache and the progress of long work too, `quiet` only warnings and errors. JSON and `quiet`
    show no bars. Of several processes only the first logs; the others tell why they end.
    """
    end_log()
    follows = "WORLD_SIZE" in os.environ and os.environ.get("RANK", "0") != "0"
    if follows:
        out.quiet = True
    err.plain = follows or quiet or as_json
    given = os.environ.get(RUN, "")
    about.clear()
    about["run"] = given if _ID.fullmatch(given) else secrets.token_hex(4)
    if command is not None:
        about["command"] = command
    lines: logging.Handler = _JsonLines() if as_json else _Lines()
    lines.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)
    if as_json:  # what libraries write would be no JSON
        logging.captureWarnings(True)
        logging.getLogger().addHandler(lines)
    log.setLevel(logging.DEBUG)
    log.propagate = False
    log.addHandler(lines)
    if follows:
        lines.setLevel(logging.ERROR)
    else:
        log.addHandler(_Earlier())


def end_log() -> None:
    """Close where the log goes."""
    for logger in (log, logging.getLogger()):
        for handler in [h for h in logger.handlers if logger is log or isinstance(h, _JsonLines)]:
            logger.removeHandler(handler)
            handler.close()
    logging.captureWarnings(False)
    log.propagate = True
    log.setLevel(logging.NOTSET)
    out.quiet = err.plain = False


def logs_json() -> bool:
    """Whether stderr gets JSON."""
    return any(isinstance(handler, _JsonLines) for handler in log.handlers)


def start_logging(file: Path | None = None) -> None:
    """Log to stderr in the form that `begin_log` chose, and to `file` with times and the run's id.

    `file` has all, and starts with the records that were logged before this call.
    """
    if not log.handlers:
        begin_log()
    before = [h for h in log.handlers if isinstance(h, (_Earlier, _File))]
    if file is None or not before:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    to_file = _File(file, encoding="utf-8")
    to_file.setFormatter(logging.Formatter(f"%(asctime)s {about['run']} %(levelname)s %(name)s: %(message)s"))
    for old in before:
        # A copy, as a file that cannot be written is logged, too.
        for record in list(old.records) if isinstance(old, _Earlier) else ():
            to_file.handle(record)
        log.removeHandler(old)
        old.close()
    log.addHandler(to_file)


def origin(error: BaseException) -> str:
    """The class of an error, and the modules, lines and functions that raised it, innermost first."""
    frames = []
    for frame, line in traceback.walk_tb(error.__traceback__):
        frames.append(f"{frame.f_globals.get('__name__', '?')}:{line} in {frame.f_code.co_name}")
    return f"raised {type(error).__name__} at {'; '.join(frames[: -FRAMES - 1 : -1])}"


def crash(error: BaseException) -> None:
    """Report an error that nobody expected, with its traceback and what to do."""
    what = f"{type(error).__name__}: {first_line(error)}"
    hint = "a fault of Palate: please report it with what `palate doctor --report` prints"
    start_logging()
    log.debug("%s", origin(error))
    log.critical("%s", visible(f"error: {what}; {hint}"), exc_info=error, extra={"fields": {"exit_code": 1}})
