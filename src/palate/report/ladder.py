"""The ladder as a table of 80 columns, and in sentences."""

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.table import Table

from palate.measure.figures import bounds, difference_text, number
from palate.measure.ladder import Ladder, Rung
from palate.progress import clock
from palate.report.costs import Cost
from palate.report.table import cell

REQUESTS = 1000


def ladder_table(ladder: Ladder, title: str) -> Table:
    """The rungs in order of cost; the one to use is bold.

    The table has a column of rows where the rungs were measured on different ones, and one of fits that were timed.
    """
    columns: dict[str, list[str]] = {
        "": [rung.label for rung in ladder.rungs],
        "AUC": [cell(rung.metrics.auc) for rung in ladder.rungs],
        "GAUC": [cell(rung.metrics.gauc) for rung in ladder.rungs],
        "gain in AUC": [gain_text(rung) for rung in ladder.rungs],
    }
    if any(rung.metrics.n != ladder.n for rung in ladder.rungs):
        columns["rows"] = [f"{rung.metrics.n:,}" for rung in ladder.rungs]
    if any(rung.fit_seconds is not None for rung in ladder.rungs):
        columns["fit"] = [_fit(rung) for rung in ladder.rungs]
    width = 26 if len(columns) < 6 else 18  # within 80 columns
    table = Table(title=title, title_justify="left", title_style="", box=SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(
            name,
            justify="right" if name else "left",
            max_width=None if name else width,
            overflow="fold",
            no_wrap=bool(name),
        )
    for rung, cells in zip(ladder.rungs, zip(*columns.values(), strict=True), strict=True):
        table.add_row(*cells, style="bold" if rung is ladder.used else "")
    return table


def _fit(rung: Rung) -> str:
    """The time of a fit; empty if it was fitted before."""
    seconds = rung.fit_seconds
    return "" if seconds is None else clock(seconds) if seconds >= 1 else "–"


def gain_text(rung: Rung) -> str:
    """A rung's gain in AUC with its interval; empty for the first rung."""
    gain = rung.gain
    if gain is None or gain.value is None:
        return ""
    text = number(gain.value, signed=True)
    return text if gain.interval is None else f"{text} {bounds(gain.interval, signed=True)}"


def use_sentence(ladder: Ladder) -> str:
    """Which rung to use, with its AUC and cost."""
    used = ladder.used
    sentence = f"Use {used.label}"
    if used.metrics.auc is not None:
        sentence += f": AUC {number(used.metrics.auc)} on {used.metrics.n:,} rows"
    if used.thousand_seconds is not None:
        sentence += f", {Cost(used.label, REQUESTS, used.thousand_seconds).thousand} for a thousand requests"
    return f"{sentence}."


def sentences(ladder: Ladder) -> Iterator[str]:
    """What to use, which rungs do not pay, and which were not tried and why."""
    yield use_sentence(ladder)
    for rung in ladder.rungs:
        if not rung.pays and rung.gain is not None:
            gain = difference_text(rung.gain.value, rung.gain.interval, prose=True)
            if rung.gain.interval is None:
                gain += ", without an interval: the rows are of one user"
            yield f"{rung.label} does not pay on {rung.metrics.n:,} rows: {gain}."
    for label, reason in ladder.skipped.items():
        yield f"{label}: {reason}."
