"""Pages: an evaluation, runs side by side, or the figures of a log, as one self-contained HTML file."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from palate.console import CONTROLS
from palate.measure.ablations import Ablations
from palate.measure.ablations import table as ablation_lines
from palate.measure.bootstrap import Interval
from palate.measure.evaluation import Entry, Evaluation
from palate.measure.figures import bounds, difference_text, least, number
from palate.measure.keys import ALONE, BESIDE, CALIBRATED, COMBINED, FINE_TUNED, MARK, MEAN, STACKED, in_words
from palate.measure.leaks import Audit
from palate.measure.metrics import METRIC_LABELS, metrics_in
from palate.measure.verdict import slice_reading
from palate.report import plots, profile_plots
from palate.report.answer import answer
from palate.report.costs import Cost
from palate.report.ladder import change_sentence, gain_text, thousand_text, use_sentence
from palate.report.outcome import Outcome
from palate.report.side_by_side import SideBySide
from palate.report.table import caption, cell, ece_text, groups, plain, training_rows
from palate.report.user_examples import UserExample
from palate.samples.profile import Profile, advice, bars_of, date_of
from palate.samples.queries import Labels
from palate.store.artifacts import atomic_file

EXAMPLES = 4
"""Number of example rows that the model wins, and of those that it loses."""
SENTENCES = 5
"""Number of the verdict's sentences that a page shows unfolded."""
CARDS = 4
INKS = ("m1", "m0", "m2", "m3", "m4")
"""The inks of runs side by side, in order."""
ADAPTERS = f"{FINE_TUNED}{MARK}"
"""The prefix of the keys of several adapters."""


class Example(NamedTuple):
    """A scored row on a page."""

    history: list[str]
    candidate: str
    liked: bool
    p: float

    @property
    def right(self) -> bool:
        """Whether P(like) predicts the label at 0.5."""
        return abs(self.p - self.liked) <= 0.5


@dataclass(frozen=True)
class About:
    """The context of the measurements on a page; the page omits a part that is None or empty."""

    title: str
    histories: Mapping[int, Sequence[str]] = field(default_factory=dict)
    """History lines of the slices' example rows, by row."""
    examples: Sequence[Example] = ()
    """Example rows if there are no slices."""
    run: Mapping[str, Any] = field(default_factory=dict)
    """The run's properties, in page order: model, data, split, samples, seed, date."""
    users: Sequence[UserExample] = ()
    """How the model orders the candidates of a few users."""
    costs: Sequence[Cost] = ()
    """The measured cost of the models and of the best baseline."""
    lengths: Mapping[str, Any] | None = None
    """`lengths` (tokens: samples), `cutoff_len` and `stats` (name: number)."""
    training: Sequence[Mapping[str, Any]] | None = None
    """Records of `step`, and `loss` or `eval_loss` or both; with `decision_loss` if training logged it."""
    data_stats: Mapping[str, Any] = field(default_factory=dict)
    """The `stats` of the data's manifest; nested mappings are flattened."""
    prompt: str | None = None
    """One complete prompt."""
    config: str | None = None
    """The resolved config, as YAML."""
    commands: Sequence[str] = ()
    """The commands that reproduce the results."""


def write_page(path: Path, page: str) -> None:
    """Write the page atomically; raises `WorkError` on failure."""
    with atomic_file(path) as file:
        file.write(page.encode())


def render_report(outcome: Outcome, about: About) -> str:
    """The page of an evaluation as text; equal inputs give equal bytes."""
    found, slices = outcome.evaluation, outcome.slices
    best = found.best_baseline()
    inks = {e.key: plots.css_of(e.key, i) for i, e in enumerate(found.models)}
    short = _short_names(found)
    own = [e for e in found.models if not e.aside]
    roc_shown = [*own, *([best] if best else [])]
    histograms = _drawn(own)
    training = [
        r
        for r in map(_of_the_answer, about.training or ())
        if plots.loss_points([r], "loss") or plots.loss_points([r], "eval_loss")
    ]
    lengths = {int(length): int(count) for length, count in (about.lengths or {}).get("lengths", {}).items()}
    surest = sorted(about.examples, key=lambda example: -abs(example.p - 0.5))
    return _render(
        "report.html.jinja",
        title=about.title,
        facts=about.run,
        contents=_contents(outcome, about, bool(lengths or training)),
        outcome=outcome,
        about=about,
        evaluation=found,
        answer=answer(found),
        use=partial(use_sentence, with_cost=False),
        change=change_sentence,
        gain=gain_text,
        thousand=thousand_text,
        EXAMPLES=EXAMPLES,
        SENTENCES=SENTENCES,
        right=[e for e in surest if e.right][:EXAMPLES],
        wrong=[e for e in surest if not e.right][:EXAMPLES],
        caption=caption(found),
        groups=groups(found),
        baselines=[e for e in found.entries if e.kind == "baseline"],
        best_baseline=best,
        best={metric.key: found.best(metric.key) for metric in metrics_in("page")},
        metrics_in=partial(metrics_in, sampled=found.negatives is not None),
        inks=inks,
        short=short,
        named=lambda entries: _named(entries, inks, short),
        cards=_cards(own, best, inks, short),
        pairs=outcome.comparison if outcome.comparison and outcome.comparison.pairs else None,
        interval_scale=plots.interval_scale(e.intervals.get("auc") for e in found.entries),
        slices=slices,
        slice_reach=plots.forest_scale(
            part.difference("auc").interval for part in (slices.slices if slices else ()) if not part.small
        ),
        slice_reading=slice_reading(slices, found.entry(slices.baseline).label) if slices else [],
        unranked_model=not any(e.kind == "model" for table in outcome.rankings for e in table.entries),
        plain_models=own,
        with_calibration=[found.entry(found.calibrated_key(e.key)) for e in own],
        calibrated=[(e, found.entry(e.key + CALIBRATED)) for e in histograms if found.calibrated_key(e.key) != e.key],
        histograms=histograms,
        tallest=max((max(b.liked, b.disliked) for e in histograms for b in e.histogram), default=0) or 1,
        roc_shown=roc_shown,
        roc_grid=[(x, [_true_positives(e, x) for e in roc_shown]) for x in np.linspace(0, 1, 11).tolist()],
        ablations=_ablation_rows(outcome.ablations),
        leak_summary=_leak_summary(outcome.leaks),
        lengths=lengths,
        training=training,
        data_stats=list(_flat(about.data_stats)),
    )


def render_comparison(found: SideBySide) -> str:
    """The page of runs side by side as text; equal inputs give equal bytes."""
    measured = [(run, *found.measured(run)) for run in found.runs]
    rows = [(*row, INKS[n % len(INKS)]) for n, row in enumerate(measured) if row[1] is not None]
    trained = training_rows(found)
    sections = [
        ("measured", "Measured", True),
        ("pairs", "Two by two", found.shared),
        ("config", "What differs", found.differences),
        ("training", "Training", trained),
        ("runs", "Runs", True),
    ]
    return _render(
        "compare.html.jinja",
        title=" · ".join(run.name for run in found.runs),
        facts={},
        contents=[(key, name) for key, name, there in sections if there],
        found=found,
        shared=found.shared,
        rows=rows,
        cards=[(run.name, ink, metrics.auc, between) for run, metrics, between, ink in rows[:4] if metrics],
        interval_scale=plots.interval_scale(between for _, _, between, _ in rows),
        trained=trained,
        same_name=str,
    )


def render_profile(found: Profile, columns: Mapping[str, Mapping[str, str]]) -> str:
    """The page of the figures of a log as text; `columns` by file, see `Ratings.columns`."""
    ratings = f"{found.ratings:,}, {found.density:.2%} of all pairs"
    facts = {"ratings": ratings, "users": found.users, "items with ratings": found.items}
    facts |= {"time": " to ".join(map(date_of, found.times))} if found.dated else {}
    return _render(
        "profile.html.jinja",
        title=found.name,
        facts=facts,
        contents=[("pictures", "Pictures"), ("columns", "Columns"), ("samples", "Samples")],
        found=found,
        files=columns,
        advice=advice(found),
        bars=bars_of(found),
        kept=found.keeps(found.options.history_len),
        pictures=profile_plots,
    )


def _render(template: str, **values: Any) -> str:
    """Render a template of `pages/`; it escapes all values, so that a title is never markup.

    Control characters, and those that turn the direction of what follows, become U+FFFD: an id may have some.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"cell": cell, "ece": ece_text, "number": number, "bounds": bounds, "plain": plain}
    environment.filters |= {"least": least, "difference": difference_text}
    environment.globals |= {"plots": plots, "metrics_in": metrics_in, "metric_labels": METRIC_LABELS}
    return CONTROLS.sub("\ufffd", environment.get_template(template).render(**values))


def extreme_rows(scores: pl.DataFrame, liked: Labels, count: int = EXAMPLES) -> list[int]:
    """The test rows with the most extreme P(like), ascending: up to `count` correct ones at 0.5, and as many wrong.

    `scores` is a frame with `row` and `p`, as for `evaluate`; `liked` has the labels of all test rows.
    """
    rows, p = scores["row"].to_numpy(), scores["p"].to_numpy()
    surest = np.lexsort((rows, -np.abs(p - 0.5)))
    right = ((p >= 0.5) == liked[rows])[surest]
    return sorted({int(row) for kind in (right, ~right) for row in rows[surest][kind][:count]})


def _contents(outcome: Outcome, about: About, went_in: bool) -> list[tuple[str, str]]:
    """The sections of the page, as (id, name)."""
    sections = [
        ("ladder", "Ladder", outcome.ladder),
        ("users", "Users", about.users),
        ("costs", "Cost", about.costs),
        ("comparison", "Comparison", True),
        ("ranking", "Ranking", outcome.rankings),
        ("curves", "Curves", True),
        ("slices", "Slices", outcome.slices),
        ("examples", "Examples", about.examples),
        ("ablations", "What it uses", outcome.ablations),
        ("seeds", "Trained again", outcome.seeds),
        ("leaks", "Leaks", outcome.leaks),
        ("training", "Training", went_in),
        ("data", "Data", about.data_stats),
        ("prompt", "Prompt", about.prompt),
        ("repeat", "Repeat", about.commands or about.config),
    ]
    return [(key, name) for key, name, there in sections if there]


def _short_names(found: Evaluation) -> Callable[[str], str]:
    """Short names of entries: baselines as in tables, models by their key in prose."""
    names = {BESIDE: "stacked with a baseline", ALONE: "statistics alone", MEAN: "mean of adapters"}
    names |= {entry.key: entry.label for entry in found.entries if entry.kind == "baseline"}
    return lambda key: names.get(key) or in_words(key)


def _cards(
    own: Sequence[Entry], best: Entry | None, inks: Mapping[str, str], short: Callable[[str], str]
) -> list[tuple[str, str, float | None, Interval | None]]:
    """The cards at the top of the page: name, ink, AUC, interval."""
    room = CARDS - bool(best)
    if len(own) > room:  # the mean of the adapters represents them
        own = [e for e in own if not e.key.startswith(ADAPTERS)]
    if len(own) > room:  # the stack with the best baseline is more informative
        own = [e for e in own if e.key != STACKED]
    own = own[:room]
    shown = [(e.label if len(own) < CARDS - 1 else short(e.key), inks[e.key], e) for e in own]
    if best:
        shown.append((f"best baseline: {best.label}", "base", best))
    return [(name, ink, e.metrics.auc, e.intervals.get("auc")) for name, ink, e in shown]


def _drawn(own: Sequence[Entry]) -> list[Entry]:
    """The models with separate plots: of several adapters only the first."""
    adapters = [e.key for e in own if e.key.startswith(ADAPTERS)]
    return [e for e in own if e.key not in (*COMBINED, *adapters[1:])]


def _named(entries: Sequence[Entry], inks: Mapping[str, str], short: Callable[[str], str]) -> list[tuple[str, str]]:
    """A legend: names and inks, with one entry for all adapters."""
    adapters = [e.key for e in entries if e.key.startswith(ADAPTERS)]
    shown = [(short(e.key), inks[e.key]) for e in entries if e.key not in adapters[1:]]
    if len(adapters) > 1:
        label = f"{len(adapters)} adapters" + (", calibrated" if adapters[0].endswith(CALIBRATED) else "")
        return [(label if name == short(adapters[0]) else name, ink) for name, ink in shown]
    return shown


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
    """The numbers of checks by severity of their finding."""
    if found is None:
        return ""
    fatal = f"{len(found.fatal)} found a fatal leak" if found.fatal else "no fatal leak"
    return (
        f"{len(found.findings)} checks of the {found.split} split and the prompt: {fatal}; "
        f"{len(found.stated)} found a property to report."
    )


def _of_the_answer(record: Mapping[str, Any]) -> dict[str, Any]:
    """A training record with the losses of the decision token, if training logged them."""
    losses = {name: record.get(f"{name.removesuffix('loss')}decision_loss") for name in ("loss", "eval_loss")}
    return {**record, **{name: loss for name, loss in losses.items() if loss is not None}}


def _true_positives(entry: Entry, false_positives: float) -> float | None:
    """The true positive rate of an ROC curve at a false positive rate."""
    return float(np.interp(false_positives, *np.array(entry.roc).T)) if entry.roc else None


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested statistics as (name, text), with nested names joined by dots."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name} · ")
        else:
            yield f"{prefix}{name}".replace("_", " "), plain(value)
