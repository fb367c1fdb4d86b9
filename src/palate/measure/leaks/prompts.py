"""Prompts: numbers beside an item that contain the answer."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate.measure.leaks.findings import Finding, Severity
from palate.measure.leaks.rows import TRAIN, Flags, Longs, TimelineRows
from palate.prompt.spec import PromptSpec, split_template
from palate.samples.context import STEPS, WEIGHT, Context
from palate.samples.items import shown_items
from palate.samples.lines import renderer

MOMENTS = 20
"""Number of times at which the check recomputes the prompt's context."""
NEAR = 0.05 + 1e-9
"""Tolerance within which a number equals an item's mean: half a tenth, the rounding error."""
FEWEST_ITEMS = 10
"""Minimum number of items whose means with and without held-out rows differ by more than twice `NEAR`."""
MOST = 0.9
"""Share of these items whose number must equal the mean; other columns match a mean now and then."""

Floats = NDArray[np.float64]


def prompts(rows: TimelineRows, prompt: PromptSpec) -> Iterator[Finding]:
    """Findings on the numbers that the prompt's lines show for an item.

    `candidate_line` cannot name the candidate's own rating: `PromptSpec` refuses it.
    """
    rendered = renderer(rows.samples, prompt)
    item = rendered.item.to_numpy().astype(np.int64)
    item, candidate = item[: rows.time.size], item[rendered.target]
    yield from _columns(rows, prompt, item, candidate)
    if rendered.samples.context is not None and prompt.names_context:
        yield _context(rows, rendered.samples.context, item)


def _columns(rows: TimelineRows, prompt: PromptSpec, item: Longs, candidate: Longs) -> Iterator[Finding]:
    """Columns of the item table that are means of held-out or training ratings."""
    items = shown_items(rows.samples.items)
    named = {p.field for line in (prompt.history_line, prompt.candidate_line) for p in split_template(line)}
    # An item table read from text may have numbers as text.
    columns = {name: items[name].cast(pl.Float64, strict=False).to_numpy() for name in items.columns if name in named}
    position = rows.samples.position
    ratings = rows.samples.timeline["rating"].to_numpy()
    learned = rows.role <= TRAIN
    means = [
        _means(item, ratings, learned, items.height),
        _means(candidate, rows.samples.label.astype(np.float64), learned[position], items.height),
    ]
    yield _made_of(
        "fatal",
        {name: any(_is(column, every, known) for every, known in means) for name, column in columns.items()},
        check="item-column",
        text="is the items' mean rating or share of likes with the held-out rows among them: it knows the answers",
        clean="no column that the prompt names is a mean of ratings that hold the test's",
    )
    yield _made_of(
        "stated",
        {name: any(_is(column, known, every) for every, known in means) for name, column in columns.items()},
        check="training-column",
        text="is the items' mean rating or share of likes in training, so that a training prompt holds its own answer "
        "and a test prompt does not; {item_mean} is made of earlier ratings alone",
        clean="no column that the prompt names is a mean of the training ratings",
    )


def _made_of(severity: Severity, found: Mapping[str, bool], *, check: str, text: str, clean: str) -> Finding:
    """The finding of a check of the prompt's columns."""
    hits = [f"{{{name}}}" for name, hit in found.items() if hit]
    unit = "column named" if len(found) == 1 else "columns named"
    if not hits:
        return Finding(check, "clean", 0, len(found), unit, clean)
    return Finding(check, severity, len(hits), len(found), unit, f"{' and '.join(hits)} {text}")


def _means(item: Longs, values: Floats, learned: Flags, items: int) -> tuple[Floats, Floats]:
    """Each item's mean of all values, and of the training values; NaN without any."""

    def mean(of: Any) -> Floats:
        count = np.bincount(item[of], minlength=items)
        total = np.bincount(item[of], values[of], items)
        found: Floats = np.full(items, np.nan)
        return np.divide(total, count, out=found, where=count > 0)

    return mean(slice(None)), mean(learned)


def _is(figure: Floats, mean: Floats, other: Floats) -> bool:
    """Whether a column equals `mean` and not `other`, judged by the items whose means differ."""
    differs = np.abs(mean - other) > 2 * NEAR
    return int(differs.sum()) >= FEWEST_ITEMS and float((np.abs(figure - mean)[differs] <= NEAR).mean()) >= MOST


def _context(rows: TimelineRows, context: Context, item: Longs) -> Finding:
    """Whether the context of rows uses earlier training ratings only.

    The check recomputes it from its definition (`palate.samples.context`) for all rows of `MOMENTS` times, evenly
    spaced among those of the samples.
    """
    time, rating = rows.time, rows.samples.timeline["rating"].to_numpy()
    learned = rows.role <= TRAIN
    times = np.sort(time[rows.samples.position])
    wrong, looked = [], 0
    for moment in np.unique(times[np.linspace(0, times.size - 1, MOMENTS).astype(np.int64)]).tolist():
        before, now = np.flatnonzero(learned & (time < moment)), np.flatnonzero(time == moment)
        counts = np.bincount(item[before])
        count, total = (
            np.pad(values, (0, int(item.max()) + 1 - values.size))[item[now]]
            for values in (counts, np.bincount(item[before], rating[before]))
        )
        prior = float(rating[before].mean()) if before.size else 0.0
        mean = (total + WEIGHT * prior) / (count + WEIGHT)
        step = STEPS[np.searchsorted(STEPS, count, side="right") - 1]
        shown = context.values[context.code[now]]
        right = (np.abs(shown["item_mean"].to_numpy() - mean) <= NEAR) & (shown["item_count"].to_numpy() == step)
        wrong.append(now[~right])
        looked += now.size
    return rows.finding(
        *("item-context", "fatal", np.concatenate(wrong), looked, "rows looked at"),
        text="{item_mean} or {item_count} is not that of earlier training ratings: it may hold the answer",
        clean="{item_mean} and {item_count} are those of earlier training ratings",
    )
