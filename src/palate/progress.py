"""Progress of long work: a live bar in a terminal, a few log lines elsewhere."""

import logging
import os
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Self, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from palate.console import about, err

log = logging.getLogger(__name__)

Batch = TypeVar("Batch", bound=Sized)

LINES = 10
"""Log lines of the whole work for `--verbose`."""
SHORTEST, LONGEST = 5.0, 60.0
"""Seconds between two such lines, and between two that are always shown."""


class Meter:
    """A context manager that counts `unit`s up to `total` and shows the rate, the time left and a note.

    An earlier run finished `done` units; the rate leaves them out. Without a terminal the meter logs a line every
    `LONGEST` seconds, and for `--verbose` after each tenth of the work, at most one in `SHORTEST` seconds.
    """

    def __init__(
        self, what: str, total: int, unit: str = "samples", *, done: int = 0, console: Console | None = None
    ) -> None:
        self.what, self.total, self.unit, self.count = what, total, unit, done
        self._first = done
        self._started = self._logged_at = self._shown_at = time.monotonic()
        self._logged = done
        console = console or err
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(unit),
                TimeRemainingColumn(compact=True),
                TextColumn("{task.fields[note]}"),
                console=console,
            )
            self._task = self._bar.add_task(what, total=total, completed=done, note="")

    def __enter__(self) -> Self:
        self._started = self._logged_at = self._shown_at = time.monotonic()
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    @property
    def rate(self) -> float:
        """Units per second in this run."""
        return (self.count - self._first) / max(time.monotonic() - self._started, 1e-9)

    def advance(self, n: int, note: str = "") -> None:
        """Count `n` more units."""
        self.count += n
        text = f"{_short(self.rate)} {self.unit}/s" + (f", {note}" if note else "")
        if self._bar is not None:
            self._bar.update(self._task, completed=self.count, note=text)
            return
        now = time.monotonic()
        tenth = self.count * LINES // self.total > self._logged * LINES // self.total if self.total else False
        shown = now - self._shown_at > LONGEST
        if shown or (tenth and now - self._logged_at > SHORTEST):
            left = (self.total - self.count) / max(self.rate, 1e-9)
            done = f"{self.count:,} of {self.total:,} {self.unit}"
            level = logging.INFO if shown else logging.DEBUG
            fields = {"work": self.what, "done": self.count, "total": self.total, "unit": self.unit}
            fields |= {"rate": float(f"{self.rate:.3g}"), "left": round(left, 1)}
            log.log(level, "%s: %s, %s, %s left", self.what, done, text, clock(left), extra={"fields": fields})
            self._logged, self._logged_at = self.count, now
            self._shown_at = now if shown else self._shown_at


def _short(rate: float) -> str:
    """A rate with three significant digits, or all digits of its integer part from 100 on."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def clock(seconds: float) -> str:
    """A duration as `48 s`, `3 min 20 s` or `2 h 05 min`."""
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@contextmanager
def stage(place: str, name: str) -> Iterator[list[str]]:
    """A stage of a run; logs its place, its name, what the block adds to the list, and the time, at its end.

    A terminal shows place and name at its beginning, too. An error in the block leaves the stage named in the log.
    """
    began = time.monotonic()
    about["stage"] = name
    level = logging.INFO if err.is_terminal else logging.DEBUG
    log.log(level, "%s %s", place, name, extra={"style": "bold"})
    made: list[str] = []
    yield made
    seconds = time.monotonic() - began
    parts = [*made, clock(seconds)] if seconds >= 0.5 or not made else made
    log.info("%s %s: %s", place, name, ", ".join(parts), extra={"fields": {"seconds": round(seconds, 3)}})
    about.pop("stage", None)


def track(batches: Iterable[Batch], total: int, what: str, unit: str = "samples") -> Iterator[Batch]:
    """Yield the batches and count their items."""
    with Meter(what, total, unit) as meter:
        for batch in batches:
            yield batch
            meter.advance(len(batch))


@contextmanager
def working(what: str, console: Console | None = None) -> Iterator[None]:
    """On a terminal, show what one long call does and its time so far; the line goes when the call ends.

    Of several processes only the first shows it.
    """
    console = console or err
    if not console.is_terminal or os.environ.get("LOCAL_RANK", "0") != "0":
        yield
        return
    console.file = console.file  # else the spinner stands still where a library's stderr is dropped
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as line:
        line.add_task(what, total=None)
        yield


def download_bar(*, shown: bool = True) -> Progress:
    """A bar of bytes with speed and time left, for a terminal alone."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=err, disable=not (shown and err.is_terminal))


@contextmanager
def quiet_bars() -> Iterator[None]:
    """Disable the progress bars of the `datasets` library for short steps."""
    from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    were_disabled = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not were_disabled:
            enable_progress_bars()
