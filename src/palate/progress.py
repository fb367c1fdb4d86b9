"""Progress of long work: a bar in a terminal, a line now and then elsewhere."""

import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Protocol, TypeVar

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from palate.console import err, log

Batch = TypeVar("Batch", bound=Sized)


class Advance(Protocol):
    """Says that `done` more are done, with a note to show beside the bar."""

    def __call__(self, done: int = 1, note: str = "") -> None:
        """Go on by `done`."""


@contextmanager
def progress(what: str, total: int, *, done: int = 0, line_every: float = 15.0) -> Iterator[Advance]:
    """Show the progress of `total` things, `done` of them already; give a function to call as it goes on.

    Where stderr is no terminal, a log line appears at most every `line_every` seconds, with the time left.
    """
    if err.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", style="dim"),
        )
        with Progress(*columns, console=err) as bar:
            task = bar.add_task(what, total=total, completed=done, note="")

            def advance(done: int = 1, note: str = "") -> None:
                bar.update(task, advance=done, **({"note": note} if note else {}))

            yield advance
        return
    began = shown = time.monotonic()
    start, now = done, done

    def advance_in_lines(done: int = 1, note: str = "") -> None:
        nonlocal shown, now
        now += done
        clock = time.monotonic()
        if clock - shown >= line_every and now < total:
            shown = clock
            left = (clock - began) / max(1, now - start) * (total - now)
            log.info(
                "%s: %s of %s, about %.0f s left%s", what, f"{now:,}", f"{total:,}", left, f", {note}" if note else ""
            )

    yield advance_in_lines
    log.info("%s: %s in %.1f s", what, f"{now:,}", time.monotonic() - began)


def track_batches(batches: Iterable[Batch], total: int, what: str) -> Iterator[Batch]:
    """Pass batches on, counting their items."""
    with progress(what, total) as advance:
        for batch in batches:
            yield batch
            advance(len(batch))


@contextmanager
def quiet_bars() -> Iterator[None]:
    """No progress bars from the `datasets` library, where they would show nothing worth knowing."""
    from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    were_disabled = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not were_disabled:
            enable_progress_bars()
