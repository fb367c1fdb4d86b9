"""Table: an evaluation as rows of text, for the terminal and as Markdown."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from palate.measure.evaluation import Entry, Evaluation
from palate.measure.figures import bounds, percent
from palate.measure.metrics import Metrics, metrics_in

if TYPE_CHECKING:
    from rich.table import Table

    from palate.measure.ablations import Ablations


COLUMNS = metrics_in("terminal")
"""What the tables show, in their order; the JSON holds more."""

UNDEFINED = "–"


def cell(value: float | None) -> str:
    """A metric with three decimals, a dash where it is undefined."""
    return UNDEFINED if value is None else f"{value:.3f}"


def ece_text(metrics: Metrics) -> str:
    """ECE with its floor, `0.050 (0.049 from noise alone)`; without it in files of earlier versions."""
    floor = "" if metrics.ece_floor is None else f" ({cell(metrics.ece_floor)} from noise alone)"
    return f"{cell(metrics.ece)}{floor}"


def floor_note(metrics: Iterable[Metrics]) -> str:
    """The highest floor of ECE for a table's caption, with `; ` before it; empty where none is known."""
    floors = [each.ece_floor for each in metrics if each.ece_floor is not None]
    return f"; ECE from noise alone up to {cell(max(floors))}" if floors else ""


def rich_table(evaluation: Evaluation) -> "Table":
    """The comparison for a terminal of 100 columns, grouped; the best of each column in bold green."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from palate.report.groups import groups

    table = Table(box=SIMPLE_HEAD, pad_edge=False, caption=caption(evaluation), caption_justify="left")
    table.add_column("", overflow="fold", max_width=36)
    table.add_column("AUC", justify="right")
    table.add_column("95 %", justify="left", style="dim", no_wrap=True)
    for column in COLUMNS[1:]:
        table.add_column(column.label, justify="right", no_wrap=True)
    best = {column.key: evaluation.best(column.key) for column in COLUMNS}
    for group in groups(evaluation):
        table.add_row(Text(group.title, "italic"))
        for n, entry in enumerate(group.entries, start=1):
            cells = [Text(cell(getattr(entry.metrics, c.key)), _style(entry, best[c.key])) for c in COLUMNS]
            label = Text(entry.label, "bold" if entry.kind == "model" and not entry.aside else "")
            table.add_row(label, cells[0], _auc_bounds(entry), *cells[1:], end_section=n == len(group.entries))
    return table


def ablation_table(ablations: "Ablations") -> "Table":
    """What the model reaches with less in the prompt, for a terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from palate.measure.ablations import table

    found = Table(box=SIMPLE_HEAD, pad_edge=False, caption=f"{ablations.n:,} rows; Δ is against the unchanged prompts",
                  caption_justify="left")  # fmt: skip
    for head in (ablations.model, "AUC [95 %]", "Δ AUC [95 %]", "mean |Δ P|"):
        found.add_column(head, justify="left" if head == ablations.model else "right")
    for line in table(ablations):
        found.add_row(*line)
    return found


def markdown(evaluation: Evaluation) -> str:
    """The comparison as a Markdown table with its caption below; the best of each column is bold."""
    heads = ["", "AUC [95 %]", *(column.label for column in COLUMNS[1:])]
    lines = [heads, ["---", *("---:" for _ in heads[1:])]]
    best = {column.key: evaluation.best(column.key) for column in COLUMNS}
    for entry in evaluation.entries:
        texts = [cell(getattr(entry.metrics, c.key)) for c in COLUMNS]
        texts = [f"**{t}**" if entry.key in best[c.key] else t for t, c in zip(texts, COLUMNS, strict=True)]
        label = entry.label.replace("|", r"\|")
        first = f"{texts[0]} {_auc_bounds(entry)}".strip()
        lines.append([f"**{label}**" if entry.kind == "model" and not entry.aside else label, first, *texts[1:]])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{table}\n\n{caption(evaluation)}\n"


def caption(evaluation: Evaluation) -> str:
    """How the numbers came about, in one line."""
    both = evaluation.entries[0].metrics.gauc_users
    rows = f"{evaluation.n:,} {evaluation.split} rows"
    if evaluation.unit == "users":
        rows += f" of {evaluation.users:,} users, {both:,} with both classes"
    rate = "" if evaluation.base_rate is None else f", {percent(evaluation.base_rate, 1)} liked"
    rate += floor_note(entry.metrics for entry in evaluation.entries)
    if not evaluation.resamples:
        return f"{rows}{rate}; no intervals"
    return f"{rows}{rate}; {evaluation.resamples:,} resamples of {evaluation.unit}"


def _auc_bounds(entry: Entry) -> str:
    found = entry.intervals.get("auc")
    return "" if found is None else bounds(found)


def _style(entry: Entry, best: frozenset[str]) -> str:
    return "bold green" if entry.key in best else ""
