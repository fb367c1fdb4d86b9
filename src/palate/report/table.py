"""Tables: an evaluation, its ablations, or runs side by side as rows of text, from 80 columns on."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from palate.baselines.registry import RANKERS
from palate.measure.ablations import Ablations, table
from palate.measure.evaluation import Entry, Evaluation
from palate.measure.figures import bounds, percent
from palate.measure.metrics import Metric, Metrics, metrics_in
from palate.progress import clock
from palate.report.side_by_side import SideBySide

COLUMNS = metrics_in("terminal")
"""The metrics of the tables, in order; `metrics.json` has more."""
NARROW = ("auc", "gauc", "log_loss")
"""Those in a terminal of less than `WIDE` columns."""
WIDE = 100
LONG = 40
"""Maximum number of characters of a config value in a table."""
_MEANS = frozenset(baseline.key for baseline in RANKERS.values() if baseline.quick)


def cell(value: float | None) -> str:
    """A metric with three decimals; a dash if it is undefined."""
    return "–" if value is None else f"{value:.3f}"


def plain(value: Any) -> str:
    """A number with thousands separators and four significant digits; any other value as text."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def ece_text(metrics: Metrics) -> str:
    """ECE with its floor, `0.050 (0.049 from noise alone)`; files of earlier versions have no floor."""
    floor = "" if metrics.ece_floor is None else f" ({cell(metrics.ece_floor)} from noise alone)"
    return f"{cell(metrics.ece)}{floor}"


def floor_note(metrics: Iterable[Metrics]) -> str:
    """The highest ECE floor for a table's caption, with `; ` before it; empty without one."""
    floors = [each.ece_floor for each in metrics if each.ece_floor is not None]
    return f"; ECE from noise alone up to {cell(max(floors))}" if floors else ""


def groups(evaluation: Evaluation) -> list[tuple[str, list[Entry]]]:
    """The groups of rows, from means to language models: titles and entries."""
    baselines = [entry for entry in evaluation.entries if entry.kind == "baseline"]
    found = [
        ("Means: what costs nothing", [entry for entry in baselines if entry.key in _MEANS]),
        ("Classical models", [entry for entry in baselines if entry.key not in _MEANS]),
        ("The language model", evaluation.models),
    ]
    return [(title, entries) for title, entries in found if entries]


def caption(evaluation: Evaluation) -> str:
    """The rows, users and resamples behind the numbers, in one line."""
    rows = f"{evaluation.n:,} {evaluation.split} rows"
    if evaluation.unit == "users":
        both = evaluation.entries[0].metrics.gauc_users
        rows += f" of {evaluation.users:,} users, {both:,} with both classes"
    rate = "" if evaluation.base_rate is None else f", {percent(evaluation.base_rate, 1)} liked"
    rate += floor_note(entry.metrics for entry in evaluation.entries)
    rate += "" if evaluation.negatives is None else f"; AUC and GAUC {evaluation.negatives}"
    if not evaluation.resamples:
        return f"{rows}{rate}; no intervals"
    return f"{rows}{rate}; {evaluation.resamples:,} resamples of {evaluation.unit}"


def columns_in(width: int, *, sampled: bool = False) -> list[Metric]:
    """The metrics of a table in a terminal of `width` columns; with `sampled` those against sampled negatives."""
    return [c for c in COLUMNS if (width >= WIDE or c.key in NARROW) and (c.sampled or not sampled)]


def evaluation_table(evaluation: Evaluation, width: int = WIDE) -> Table:
    """Models and baselines in groups, in `width` columns; the best of each metric in bold green."""
    columns = columns_in(width, sampled=evaluation.negatives is not None)
    table = _metric_table(caption(evaluation), columns)
    best = {column.key: evaluation.best(column.key) for column in columns}
    for title, entries in groups(evaluation):
        table.add_row(Text(title, "italic"))
        for n, entry in enumerate(entries, start=1):
            values = ((cell(getattr(entry.metrics, c.key)), entry.key in best[c.key]) for c in columns)
            first, *others = (Text(value, "bold green" if is_best else "") for value, is_best in values)
            label = Text(entry.label, "bold" if entry.kind == "model" and not entry.aside else "")
            between = entry.intervals.get("auc")
            table.add_row(
                label, first, "" if between is None else bounds(between), *others, end_section=n == len(entries)
            )
    return table


def ablation_table(ablations: Ablations) -> Table:
    """The ablation table."""
    found = _table(f"{ablations.n:,} rows; Δ is against the unchanged prompts")
    for head in (ablations.model, "AUC [95 %]", "Δ AUC [95 %]", "mean |Δ P|"):
        found.add_column(head, justify="left" if head == ablations.model else "right")
    for cells in table(ablations):
        found.add_row(*cells)
    return found


def show_runs(found: SideBySide, console: Console) -> None:
    """Print the differences of configs and trainings, the metrics of each run, and the verdict."""
    differences = {key: [*map(_short, row)] for key, row in found.differences.items()}
    console.print()
    for title, rows in (("config", differences), ("training", training_rows(found))):
        if rows:
            console.print(_runs_table(title, [run.name for run in found.runs], rows))
    shared = found.shared
    note = (
        "each on its own rows"
        if shared is None
        else (f"{shared.n:,} rows of {shared.users:,} users that all of them scored")
    )
    measured = [(run, *found.measured(run)) for run in found.runs]
    columns = columns_in(console.width)
    table = _metric_table(note + floor_note(metrics for _, metrics, _ in measured if metrics is not None), columns)
    for run, metrics, between in measured:
        values = [cell(None if metrics is None else getattr(metrics, column.key)) for column in columns]
        interval = "" if between is None else bounds(between)
        table.add_row(Text(f"{run.name}, {run.model_in_words}"), values[0], interval, *values[1:])
    console.print(table)
    console.print()
    for sentence in (*found.remarks, *found.verdict):
        console.print(f"• {sentence}")


def training_rows(found: SideBySide) -> dict[str, list[str]]:
    """The training records of all runs: by name, values in the order of the runs."""
    keys = dict.fromkeys(key for run in found.runs for key in run.training)
    return {key.replace("_", " "): [_trained(key, run.training.get(key)) for run in found.runs] for key in keys}


def _trained(key: str, value: Any) -> str:
    if value is None:
        return "–"
    return clock(value) if key == "seconds" else f"{value:.4f}" if isinstance(value, float) else plain(value)


def _short(value: Any) -> str:
    text = "–" if value is None else str(value)
    return text if len(text) <= LONG else f"{text[: LONG - 1]}…"


def _runs_table(title: str, names: Sequence[str], rows: Mapping[str, Sequence[str]]) -> Table:
    table = _table()
    table.add_column(title)
    for name in names:
        table.add_column(Text(name), overflow="fold")
    for key, values in rows.items():
        table.add_row(key, *map(Text, values))
    return table


def _metric_table(note: str, columns: Sequence[Metric]) -> Table:
    table = _table(note)
    table.add_column("", overflow="fold", max_width=36)
    table.add_column("AUC", justify="right")
    table.add_column("95 %", style="dim", no_wrap=True)
    for column in columns[1:]:
        table.add_column(column.label, justify="right", no_wrap=True)
    return table


def _table(note: str | None = None) -> Table:
    return Table(box=SIMPLE_HEAD, pad_edge=False, caption=note, caption_justify="left")
