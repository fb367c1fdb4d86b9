"""Report: an evaluation and what led to it, as one HTML page that needs nothing but itself."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from palate.measure.ablations import Ablations
from palate.measure.ablations import table as ablation_lines
from palate.measure.bootstrap import Interval
from palate.measure.calibration import Calibration
from palate.measure.evaluation import Entry, Evaluation
from palate.measure.keys import ALONE, BESIDE, CALIBRATED, COMBINED, FINE_TUNED, MARK, MEAN, STACKED, in_words
from palate.measure.leaks import Audit
from palate.measure.metrics import metrics_in
from palate.measure.paired import Comparison
from palate.measure.ranking_table import RankingTable
from palate.measure.seeds import OverSeeds
from palate.measure.slices import Slices
from palate.report import forest, plots
from palate.report.groups import groups
from palate.report.table import caption
from palate.report.templates import flat, render
from palate.samples.queries import Labels
from palate.store.artifacts import atomic_file

EXAMPLES = 4
"""Shown of the rows that the model wins, and of those that it loses."""
SENTENCES = 5
"""Of the verdict, shown before one asks for more."""
CARDS = 4
ADAPTERS = f"{FINE_TUNED}{MARK}"
"""What the keys of several adapters begin with."""


@dataclass(frozen=True)
class ReportInputs:
    """What the report tells; a part that is None or empty is left out."""

    title: str
    evaluation: Evaluation
    comparison: Comparison | None = None
    calibrations: Mapping[str, Calibration] = field(default_factory=dict)
    """By the models' keys; the evaluation's rows KEY and KEY-calibrated are before and after."""
    slices: Slices | None = None
    histories: Mapping[int, Sequence[str]] = field(default_factory=dict)
    """Lines of the history of rows that `slices` has as examples."""
    examples: Sequence[Mapping[str, Any]] = ()
    """Where there are no slices: rows with `history_titles` (lines), `candidate_title`, `label` (bool) and `p`."""
    rankings: Sequence[RankingTable] = ()
    ablations: Ablations | None = None
    seeds: OverSeeds | None = None
    leaks: Audit | None = None
    run: Mapping[str, Any] = field(default_factory=dict)
    """What was run, in the order of the page: model, data, split, samples, seed, date."""
    lengths: Mapping[str, Any] | None = None
    """`lengths` (tokens: samples), `cutoff_len` and `stats` (name: number)."""
    training: Sequence[Mapping[str, Any]] | None = None
    """Records of `step`, and `loss` or `eval_loss` or both; with `decision_loss` where the answer is told apart."""
    data_stats: Mapping[str, Any] = field(default_factory=dict)
    """The `stats` of the data's manifest; nested mappings are flattened."""
    prompt: str | None = None
    """One whole prompt as the model sees it."""
    config: str | None = None
    """The resolved config, as YAML."""
    commands: Sequence[str] = ()
    """What to run to see all this again."""


@dataclass(frozen=True)
class ExtremeRow:
    """A test row as the page shows it."""

    history: list[str]
    candidate: str
    liked: bool
    p: float

    @property
    def right(self) -> bool:
        """Whether P(like) is on the side of what happened."""
        return abs(self.p - self.liked) <= 0.5


def write_report(path: Path, inputs: ReportInputs) -> None:
    """Write the page atomically; `WorkError` where that fails. Equal inputs give equal bytes."""
    page = render_report(inputs)
    with atomic_file(path) as file:
        file.write(page.encode())


def render_report(inputs: ReportInputs) -> str:
    """The page as text. Whatever comes from outside is escaped: a title is never markup."""
    found, slices = inputs.evaluation, inputs.slices
    baselines = [e for e in found.entries if e.kind == "baseline"]
    best = found.best_baseline()
    inks = {e.key: plots.css_of(e.key, i) for i, e in enumerate(found.models)}
    training = [
        r
        for r in map(_of_the_answer, inputs.training or ())
        if plots.loss_points([r], "loss") or plots.loss_points([r], "eval_loss")
    ]
    lengths = {int(length): int(count) for length, count in (inputs.lengths or {}).get("lengths", {}).items()}
    own = [e for e in found.models if not e.aside]
    short = _short_names(found)
    roc_shown = [*own, *([best] if best else [])]
    histograms = [e for e in own if e.key in _drawn(found)]
    surest = sorted(_examples(inputs), key=lambda example: -abs(example.p - 0.5))
    told: dict[str, Any] = {
        "right": [e for e in surest if e.right][:EXAMPLES],
        "wrong": [e for e in surest if not e.right][:EXAMPLES],
        "caption": caption(found),
        "groups": groups(found),
        "baselines": baselines,
        "best_baseline": best,
        "best": {metric.key: found.best(metric.key) for metric in metrics_in("page")},
        "inks": inks,
        "short": short,
        "named": lambda entries: _named(entries, inks, short),
        "cards": _cards(found, best, inks, short),
        "pairs": inputs.comparison if inputs.comparison and inputs.comparison.pairs else None,
        "interval_scale": plots.interval_scale(e.intervals.get("auc") for e in found.entries),
        "slices": slices,
        "slice_reach": forest.slice_scale(slices) if slices else 0.0,
        "slice_reading": forest.slice_reading(slices, found.entry(slices.baseline).label) if slices else [],
        "ranked": inputs.rankings,
        "unranked_model": not any(e.kind == "model" for table in inputs.rankings for e in table.entries),
        "plain_models": own,
        "meant": _meant(found, own),
        "calibrated": [pair for pair in _before_and_after(found) if pair[0] in histograms],
        "histograms": histograms,
        "tallest": max((max(b.liked, b.disliked) for e in histograms for b in e.histogram), default=0) or 1,
        "roc_shown": roc_shown,
        "roc_grid": [(x, [_true_positives(e, x) for e in roc_shown]) for x in np.linspace(0, 1, 11).tolist()],
        "ablations": _ablation_rows(inputs.ablations),
        "seeds": inputs.seeds,
        "leak_summary": _leak_summary(inputs.leaks),
        "lengths": lengths,
        "training": training,
        "data_stats": list(flat(inputs.data_stats)),
    }
    return render(
        "report.html.jinja",
        title=inputs.title,
        facts=inputs.run,
        contents=_contents(inputs, bool(lengths or training)),
        inputs=inputs,
        evaluation=found,
        EXAMPLES=EXAMPLES,
        SENTENCES=SENTENCES,
        **told,
    )


def extreme_rows(scores: pl.DataFrame, liked: Labels, count: int = EXAMPLES) -> list[int]:
    """The test rows of which a model is surest: up to `count` where it is right at 0.5, and as many where it is wrong.

    `scores` is a frame with `row` and `p`, as for `evaluate`; `liked` holds the labels of all test rows. Ascending.
    """
    rows, p = scores["row"].to_numpy(), scores["p"].to_numpy()
    surest = np.lexsort((rows, -np.abs(p - 0.5)))
    right = ((p >= 0.5) == liked[rows])[surest]
    return sorted({int(row) for kind in (right, ~right) for row in rows[surest][kind][:count]})


def _examples(inputs: ReportInputs) -> Iterator[ExtremeRow]:
    for row in inputs.examples:
        yield ExtremeRow(row["history_titles"].splitlines(), row["candidate_title"], row["label"], row["p"])


def _contents(inputs: ReportInputs, went_in: bool) -> list[tuple[str, str]]:
    """The sections that are there, as (id, name)."""
    sections = [
        ("comparison", "Comparison", True),
        ("slices", "For whom", inputs.slices),
        ("ranking", "Ranking", inputs.rankings),
        ("curves", "Curves", True),
        ("examples", "Examples", inputs.examples),
        ("ablations", "What it uses", inputs.ablations),
        ("seeds", "Trained again", inputs.seeds),
        ("leaks", "Leaks", inputs.leaks),
        ("training", "Training", went_in),
        ("data", "Data", inputs.data_stats),
        ("prompt", "Prompt", inputs.prompt),
        ("repeat", "Repeat", inputs.commands or inputs.config),
    ]
    return [(key, name) for key, name, there in sections if there]


def _short_names(found: Evaluation) -> Callable[[str], str]:
    """What a narrow place calls an entry: baselines as in tables, models by what was done to them."""
    baselines = {entry.key: entry.label for entry in found.entries if entry.kind == "baseline"}
    known = {BESIDE: "stacked with a baseline", ALONE: "statistics alone", MEAN: "mean of adapters"}
    return lambda key: baselines.get(key) or known.get(key) or in_words(key)


def _cards(
    found: Evaluation, best: Entry | None, inks: Mapping[str, str], short: Callable[[str], str]
) -> list[tuple[str, str, float | None, Interval | None]]:
    """The numbers that most readers came for: name, ink, AUC, interval."""
    own = [e for e in found.models if not e.aside]
    room = CARDS - bool(best)
    if len(own) > room:  # several adapters: their mean stands for them
        own = [e for e in own if not e.key.startswith(ADAPTERS)]
    if len(own) > room:  # what is stacked with the best baseline says more
        own = [e for e in own if e.key != STACKED]
    own = own[:room]
    shown = [(e.label if len(own) < CARDS - 1 else short(e.key), inks[e.key], e) for e in own]
    if best:
        shown.append((f"best baseline: {best.label}", "base", best))
    return [(name, ink, e.metrics.auc, e.intervals.get("auc")) for name, ink, e in shown]


def _drawn(found: Evaluation) -> set[str]:
    """The keys of models that have drawings of their own: of several adapters the first."""
    own = [e.key for e in found.models if not e.aside and e.key not in COMBINED]
    adapters = [key for key in own if key.startswith(ADAPTERS)]
    return set(own) - set(adapters[1:])


def _named(entries: Sequence[Entry], inks: Mapping[str, str], short: Callable[[str], str]) -> list[tuple[str, str]]:
    """A legend: names and inks, adapters together."""
    adapters = [e.key for e in entries if e.key.startswith(ADAPTERS)]
    if len(adapters) < 2:
        return [(short(e.key), inks[e.key]) for e in entries]
    told = f"{len(adapters)} adapters" + (", calibrated" if adapters[0].endswith(CALIBRATED) else "")
    shown = [e for e in entries if e.key not in adapters[1:]]
    return [(told if e.key == adapters[0] else short(e.key), inks[e.key]) for e in shown]


def _meant(found: Evaluation, own: Sequence[Entry]) -> list[Entry]:
    """The rows whose probabilities are to be believed: each model calibrated, where it is."""
    return [found.entry(found.believed(e.key)) for e in own]


def _before_and_after(found: Evaluation) -> list[tuple[Entry, Entry]]:
    """Each model that is calibrated, as it was and as it is."""
    entries = {entry.key: entry for entry in found.entries}
    return [
        (entries[key.removesuffix(CALIBRATED)], after) for key, after in entries.items() if key.endswith(CALIBRATED)
    ]


def _ablation_rows(found: Ablations | None) -> list[tuple[str, float | None, Interval | None, str, str]]:
    """Prompts, AUC with interval, difference and mean change as text."""
    if found is None:
        return []
    values = [(found.auc, found.interval), *((one.auc, one.interval) for one in found.ablated)]
    return [
        (prompts, value, between, difference, moved)
        for (prompts, _, difference, moved), (value, between) in zip(ablation_lines(found), values, strict=True)
    ]


def _leak_summary(found: Audit | None) -> str:
    """How many checks found what."""
    if found is None:
        return ""
    fatal = f"{len(found.fatal)} found what makes the numbers worthless" if found.fatal else "none found anything fatal"
    return (
        f"{len(found.findings)} checks of the {found.split} split and the prompt: {fatal}; "
        f"{len(found.stated)} found what a reader has to know."
    )


def _of_the_answer(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record of training with the losses of the token that decides, where they are told."""
    found = dict(record)
    for name in ("loss", "eval_loss"):
        told = record.get(f"{name.removesuffix('loss')}decision_loss")
        if told is not None:
            found[name] = told
    return found


def _true_positives(entry: Entry, false_positives: float) -> float | None:
    """The height of an ROC curve at one place."""
    if not entry.roc:
        return None
    x, y = zip(*entry.roc, strict=True)
    return float(np.interp(false_positives, x, y))
