"""Compare table: runs side by side for a terminal of 100 columns."""

from typing import TYPE_CHECKING, Any

from palate.measure.figures import bounds
from palate.report.side_by_side import Run, SideBySide
from palate.report.table import COLUMNS, cell, floor_note
from palate.report.templates import plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

LONG = 40
"""Characters of a config's value that a table shows."""


def show(found: SideBySide, console: "Console") -> None:
    """Print what differs, how each run was trained and measured, and what that comes to."""
    console.print()
    if found.differences:
        console.print(
            _table("config", found.runs, {key: [*map(_short, row)] for key, row in found.differences.items()})
        )
    trained = training_rows(found)
    if trained:
        console.print(_table("training", found.runs, trained))
    console.print(_measured(found))
    console.print()
    for sentence in (*found.remarks, *found.verdict):
        console.print(f"• {sentence}", highlight=False, markup=False)


def training_rows(found: SideBySide) -> dict[str, list[str]]:
    """What any run tells of its training, by name, in the order of the runs."""
    keys = dict.fromkeys(key for run in found.runs for key in run.training)
    return {key.replace("_", " "): [_trained(key, run.training.get(key)) for run in found.runs] for key in keys}


def _trained(key: str, value: Any) -> str:
    from palate.progress import clock

    if value is None:
        return "–"
    return clock(value) if key == "seconds" else f"{value:.4f}" if isinstance(value, float) else plain(value)


def _short(value: Any) -> str:
    text = "–" if value is None else str(value)
    return text if len(text) <= LONG else f"{text[: LONG - 1]}…"


def _table(title: str, runs: list[Run], rows: dict[str, list[str]]) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(title)
    for run in runs:
        table.add_column(Text(run.name), overflow="fold")
    for key, values in rows.items():
        table.add_row(key, *(Text(value) for value in values))
    return table


def _measured(found: SideBySide) -> "Table":
    """Metrics on the shared rows where there are any, else as each run was measured."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    shared = found.shared
    caption = (
        "each on its own rows"
        if shared is None
        else f"{shared.n:,} rows of {shared.users:,} users that all of them scored"
    )
    of_runs = shared.metrics.values() if shared else (run.main.metrics for run in found.runs if run.main)
    caption += floor_note(of_runs)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, caption=caption, caption_justify="left")
    table.add_column("", overflow="fold", max_width=36)
    table.add_column("AUC", justify="right")
    table.add_column("95 %", style="dim", no_wrap=True)
    for column in COLUMNS[1:]:
        table.add_column(column.label, justify="right", no_wrap=True)
    for run in found.runs:
        entry = run.main
        metrics = shared.metrics[run.name] if shared else entry.metrics if entry else None
        intervals = shared.intervals[run.name] if shared else entry.intervals if entry else {}
        between = intervals.get("auc")
        values = [cell(None if metrics is None else getattr(metrics, column.key)) for column in COLUMNS]
        table.add_row(
            Text(f"{run.name}, {run.told_model}"), values[0], "" if between is None else bounds(between), *values[1:]
        )
    return table
