"""Side by side: compare runs, each on its rows and all on their common rows.

Metrics on different rows do not compare. So the comparison shows each run's metrics, and the metrics of all runs on the
rows that all of them scored, with paired differences on the same resamples of users.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import polars as pl

from palate.errors import InputError
from palate.measure.bootstrap import Interval, bootstrap, interval
from palate.measure.evaluation import Entry, Evaluation
from palate.measure.figures import difference_text, number
from palate.measure.keys import in_words
from palate.measure.metrics import Metrics, measure, metrics_in
from palate.measure.paired import Comparison, compare, same_rows

FEW = 4
"""Up to this number of runs, all pairs are compared; with more, each run with the first."""
IGNORED = ("name", "run_dir", "data_dir")
"""Config keys that name places only."""


@dataclass(frozen=True)
class Run:
    """One run, evaluation or file of scores; None or empty stands for an unknown part."""

    name: str
    place: Path
    model: str
    """The key of its main model: the first adapter, else the base model; calibrated if possible."""
    scores: pl.DataFrame | None
    """`row`, `user_id`, `item_id`, `label` and P(like) `p` of the main model."""
    evaluation: Evaluation | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    """The resolved config, `section.key` by value."""
    training: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    """The origin of the rows: `data`, `split`, `evaluated`, and hashes of the tables."""

    @property
    def model_in_words(self) -> str:
        """The main model in words."""
        return in_words(self.model)

    @property
    def main(self) -> Entry | None:
        """The main model's row."""
        if self.evaluation is None:
            return None
        return next((e for e in self.evaluation.entries if e.key == self.model), None)

    @property
    def best_baseline(self) -> Entry | None:
        """The baseline of highest AUC."""
        return None if self.evaluation is None else self.evaluation.best_baseline()

    def to_dict(self) -> dict[str, Any]:
        """Everything but the scores as JSON types; of the evaluation, the main model and the best baseline."""
        main, best = None if self.main is None else asdict(self.main), self.best_baseline
        value = {name: getattr(self, name) for name in ("name", "model", "config", "training", "data")}
        value |= {
            "place": str(self.place),
            "metrics": main and main["metrics"],
            "intervals": main and main["intervals"],
        }
        return value | {"best_baseline": best and {"key": best.key, "label": best.label, "auc": best.metrics.auc}}


@dataclass(frozen=True)
class Shared:
    """The metrics of all runs on their common rows."""

    n: int
    users: int
    metrics: dict[str, Metrics]
    """By name of the run."""
    intervals: dict[str, dict[str, Interval | None]]
    comparison: Comparison
    """All pairs of runs; with more than `FEW` runs, each with the first."""


@dataclass(frozen=True)
class SideBySide:
    """The comparison of runs."""

    runs: list[Run]
    differences: dict[str, list[Any]]
    """Config keys with different values, and the values in the order of the runs."""
    other_data: dict[str, list[Any]]
    """As `differences`, for the origin of the rows: empty if all runs share data and split."""
    shared: Shared | None
    """None if the data differ, or no row is common."""
    remarks: list[str]
    """Limits of the comparison that a reader must know."""
    verdict: list[str]

    def measured(self, run: Run) -> tuple[Metrics | None, Interval | None]:
        """A run's metrics and the interval of its AUC: on the shared rows if there are any, else on the run's rows."""
        if self.shared is not None:
            return self.shared.metrics[run.name], self.shared.intervals[run.name].get("auc")
        return (None, None) if run.main is None else (run.main.metrics, run.main.intervals.get("auc"))

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON types."""
        return vars(self) | {
            "runs": [run.to_dict() for run in self.runs],
            "shared": None if self.shared is None else asdict(self.shared),
        }


def side_by_side(runs: Sequence[Run], *, resamples: int = 1000, seed: int = 13) -> SideBySide:
    """Compare two or more runs with different names."""
    other, remarks, shared = _differing([run.data for run in runs], unknown=False), [], None
    lacking = ", ".join(run.name for run in runs if run.scores is None)
    if other:
        text = "; ".join(f"{key}: {', '.join(map(_shown, values))}" for key, values in other.items())
        remarks.append(f"The runs were not measured on the same data ({text}): their figures do not compare.")
    if strangers := ", ".join(run.name for run in runs if not run.data):
        remarks.append(
            f"Which data {strangers} is of is not known: rows are taken for the same where number, user, "
            "item and label agree."
        )
    negatives = next((str(run.evaluation.negatives) for run in runs if run.evaluation and run.evaluation.negatives), "")
    if negatives:
        remarks.append(f"AUC and GAUC are {negatives}.")
    if lacking:
        remarks.append(f"There are no scores of {lacking}: nothing can be compared row by row.")
    elif not other:
        try:
            shared = _shared(runs, resamples, seed, sampled=bool(negatives))
        except InputError as error:
            remarks.append(f"The rows are not the same ({error.message}): nothing is compared row by row.")
    if shared is not None:
        of = {run.name: len(run.scores) for run in runs if run.scores is not None and len(run.scores) > shared.n}
        if counts := ", ".join(f"{name} scored {n:,}" for name, n in of.items()):
            remarks.append(f"Compared on the {shared.n:,} rows that all of them scored; {counts}.")
    differences = _differing([run.config for run in runs]) if all(run.config for run in runs) else {}
    return SideBySide(list(runs), differences, other, shared, remarks, _verdict(shared))


def _shared(runs: Sequence[Run], resamples: int, seed: int, *, sampled: bool) -> Shared:
    """The runs on their common rows; raises `InputError` as `same_rows`."""
    same = same_rows({run.name: run.scores for run in runs if run.scores is not None})
    names = list(same.scores)
    pairs = list(combinations(names, 2)) if len(names) <= FEW else [(names[0], name) for name in names[1:]]
    replicates = bootstrap(same.y, same.users, same.scores, resamples=resamples, seed=seed)
    metrics = {name: measure(same.y, p, same.users, sampled=sampled) for name, p in same.scores.items()}
    return Shared(
        n=len(same.y),
        users=metrics[names[0]].users,
        metrics=metrics,
        intervals={name: {m.key: interval(replicates[name].get(m.key)) for m in metrics_in("pairs")} for name in names},
        comparison=compare(same.y, same.users, same.scores, pairs, resamples=resamples, seed=seed, sampled=sampled),
    )


def _differing(parts: Sequence[Mapping[str, Any]], *, unknown: bool = True) -> dict[str, list[Any]]:
    """Keys with different values, and the values; None for a missing key, which counts as a value if `unknown`."""
    keys = dict.fromkeys(key for each in parts for key in each if key not in IGNORED)
    values = {key: [each.get(key) for each in parts] for key in keys}
    counted = {key: [v for v in found if unknown or v is not None] for key, found in values.items()}
    return {key: values[key] for key, found in counted.items() if any(value != found[0] for value in found[1:])}


def _shown(value: Any) -> str:
    """A value for a sentence; a hash is shortened."""
    text = "unknown" if value is None else str(value)
    return text[:12] if len(text) == 64 else text


def _verdict(shared: Shared | None) -> list[str]:
    """Sentences on the leading run that claim no more than the intervals."""
    if shared is None:
        return ["Nothing was compared row by row."]
    pairs = [pair for pair in shared.comparison.of("auc") if pair.value is not None]
    if not pairs:
        return [f"The {shared.n:,} common rows have the same label, so they cannot compare runs."]
    sentences = []
    for pair in sorted(pairs, key=lambda pair: -abs(pair.value or 0.0)):
        first, second = (pair.first, pair.second) if (pair.value or 0.0) >= 0 else (pair.second, pair.first)
        aucs = " against ".join(number(shared.metrics[name].auc or 0.0) for name in (first, second))
        between = pair.interval
        if between is not None and first != pair.first:
            between = Interval(-between.high, -between.low)
        numbers = f"AUC {aucs}, difference {difference_text(abs(pair.value or 0.0), between, prose=True)}"
        if pair.better is not None:
            sentences.append(f"{first} sorts better than {second}: {numbers}.")
        elif pair.value == 0:
            sentences.append(f"{first} and {second} sort alike: AUC {aucs}.")
        else:
            why = "without an interval" if between is None else "but the interval includes zero"
            sentences.append(f"{first} is ahead of {second}, {why}: {numbers}.")
    return sentences
