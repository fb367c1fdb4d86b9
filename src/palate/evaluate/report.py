"""Report: an evaluation and what led to it, as one HTML page that needs nothing but itself."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from palate.artifacts import atomic_file
from palate.evaluate import plots
from palate.evaluate.ablations import Ablations
from palate.evaluate.ablations import table as ablation_lines
from palate.evaluate.curves import Labels
from palate.evaluate.evaluation import Entry, Evaluation
from palate.evaluate.table import caption, cell
from palate.evaluate.verdict import bounds, number

TEMPLATE = "report.html.jinja"
METRICS = ("auc", "gauc", "accuracy", "f1", "log_loss", "brier", "ece")
EXAMPLES_SHOWN = 4
"""Of each kind, most right and most wrong."""


@dataclass(frozen=True)
class ReportInputs:
    """What the report tells; a part that is None or empty is left out."""

    title: str
    evaluation: Evaluation
    ablations: Ablations | None = None
    run: Mapping[str, Any] = field(default_factory=dict)
    """What was run, in the order of the page: model, data, split, samples, seed, date."""
    lengths: Mapping[str, Any] | None = None
    """`lengths` (tokens: samples), `cutoff_len` and `stats` (name: number)."""
    training: Sequence[Mapping[str, Any]] | None = None
    """Records of `step`, and `loss` or `eval_loss` or both; with `decision_loss` where the answer is told apart."""
    examples: Sequence[Mapping[str, Any]] = ()
    """Rows with `history_titles` (text, one item a line, or a list), `candidate_title`, `label` and `p`."""
    yes: str = "Yes"
    """The label of a liked row in `examples`."""
    data_stats: Mapping[str, Any] = field(default_factory=dict)
    """The `stats` of the data's manifest; nested mappings are flattened."""
    prompt: str | None = None
    """One whole prompt as the model sees it."""
    config: str | None = None
    """The resolved config, as YAML."""
    commands: Sequence[str] = ()
    """What to run to see all this again."""


@dataclass(frozen=True)
class Example:
    """A test row as the page shows it."""

    history: list[str]
    candidate: str
    liked: bool
    p: float

    @property
    def error(self) -> float:
        """How far P(like) is from what happened."""
        return abs(self.p - self.liked)


def write_report(path: Path, inputs: ReportInputs) -> None:
    """Write the page atomically; `WorkError` where that fails. Equal inputs give equal bytes."""
    page = render_report(inputs)
    with atomic_file(path) as file:
        file.write(page.encode())


def render_report(inputs: ReportInputs) -> str:
    """The page as text. Whatever comes from outside is escaped: a title is never markup."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"cell": cell, "number": number, "bounds": bounds, "plain": _plain}
    found = inputs.evaluation
    baselines = [e for e in found.entries if e.kind == "baseline"]
    best = max(baselines, key=lambda e: e.metrics.auc or 0.0) if found.best("auc") else None
    examples = sorted(_examples(inputs), key=lambda example: -abs(example.p - 0.5))
    training = [
        r
        for r in map(_of_the_answer, inputs.training or ())
        if plots.loss_points([r], "loss") or plots.loss_points([r], "eval_loss")
    ]
    lengths = {int(length): int(count) for length, count in (inputs.lengths or {}).get("lengths", {}).items()}
    return environment.get_template(TEMPLATE).render(
        inputs=inputs,
        evaluation=found,
        caption=caption(found),
        baselines=baselines,
        best_baseline=best,
        headline=_headline(found, best),
        inks={e.key: plots.css_of(e.key, i) for i, e in enumerate(found.models)},
        best={metric: found.best(metric) for metric in METRICS},
        interval_scale=plots.interval_scale(e.intervals.get("auc") for e in found.entries),
        roc_grid=[(x, [_true_positives(e, x) for e in found.entries]) for x in np.linspace(0, 1, 11).tolist()],
        tallest=max((max(b.liked, b.disliked) for e in found.models for b in e.histogram), default=0) or 1,
        lengths=lengths,
        training=training,
        right=[e for e in examples if e.error <= 0.5][:EXAMPLES_SHOWN],
        wrong=[e for e in examples if e.error > 0.5][:EXAMPLES_SHOWN],
        ablations=[] if inputs.ablations is None else ablation_lines(inputs.ablations),
        data_stats=list(_flat(inputs.data_stats)),
        plots=plots,
    )


def extreme_rows(scores: pl.DataFrame, liked: Labels, count: int = EXAMPLES_SHOWN) -> list[int]:
    """The test rows of which a model is surest: up to `count` where it is right at 0.5, and as many where it is wrong.

    `scores` is a frame with `row` and `p`, as for `evaluate`; `liked` holds the labels of all test rows. Ascending.
    """
    rows, p = scores["row"].to_numpy(), scores["p"].to_numpy()
    surest = np.lexsort((rows, -np.abs(p - 0.5)))
    right = ((p >= 0.5) == liked[rows])[surest]
    return sorted({int(row) for kind in (right, ~right) for row in rows[surest][kind][:count]})


def _headline(found: Evaluation, best: Entry | None) -> list[tuple[str, str, Entry]]:
    """The three numbers that most readers came for: name, ink, entry."""
    shown = [(e.label, plots.css_of(e.key, i), e) for i, e in enumerate(found.models) if not e.aside]
    return [*shown, *([(f"best baseline: {best.label}", "base", best)] if best else [])]


def _of_the_answer(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record of training with the losses of the token that decides, where they are told."""
    found = dict(record)
    for name in ("loss", "eval_loss"):
        told = record.get(f"{name.removesuffix('loss')}decision_loss")
        if told is not None:
            found[name] = told
    return found


def _examples(inputs: ReportInputs) -> Iterator[Example]:
    for row in inputs.examples:
        history = row["history_titles"]
        lines = history.splitlines() if isinstance(history, str) else [str(line) for line in history]
        liked = row["label"] if isinstance(row["label"], bool) else row["label"] == inputs.yes
        yield Example(lines, str(row["candidate_title"]), liked, float(row["p"]))


def _true_positives(entry: Entry, false_positives: float) -> float | None:
    """The height of an ROC curve at one place."""
    if not entry.roc:
        return None
    x, y = zip(*entry.roc, strict=True)
    return float(np.interp(false_positives, x, y))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested statistics as (name, text), the names one behind the other."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name} · ")
        else:
            yield f"{prefix}{name}".replace("_", " "), _plain(value)


def _plain(value: Any) -> str:
    """A number as people write it, anything else as text."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
