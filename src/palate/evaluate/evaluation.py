"""Evaluation: models and baselines measured on the same test rows, with intervals and paired differences."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate.errors import InputError
from palate.evaluate.baselines import BASELINES, Choice, baseline_scores
from palate.evaluate.bootstrap import Interval, Replicates, interval
from palate.evaluate.bootstrap import bootstrap as resample
from palate.evaluate.curves import HistogramBin, Labels, ReliabilityBin, Scores, histogram, reliability, roc
from palate.evaluate.metrics import LOWER_IS_BETTER, Metrics, measure
from palate.evaluate.paired import SameRows
from palate.evaluate.verdict import verdict
from palate.samples import Samples

ZERO_SHOT = "zero-shot"
FINE_TUNED = "fine-tuned"


@dataclass(frozen=True)
class Mass:
    """The probability that both answer tokens hold together, over the rows of a language model."""

    mean: float
    low: float
    """Its 5th percentile."""


@dataclass(frozen=True)
class Entry:
    """One model or baseline."""

    key: str
    label: str
    kind: Literal["baseline", "model"]
    metrics: Metrics
    intervals: dict[str, Interval | None]
    """For the metrics of `bootstrap`; None where there is no interval."""
    mass: Mass | None
    reliability: list[ReliabilityBin]
    roc: list[tuple[float, float]]
    histogram: list[HistogramBin]
    aside: bool = False
    """Whether it is another row's companion (the same scores calibrated): it is measured, not compared or talked of."""


@dataclass(frozen=True)
class Difference:
    """A metric of `first` minus that of `second`, on the same resamples of users."""

    metric: Literal["auc", "gauc", "pair_auc"]
    first: str
    second: str
    value: float
    interval: Interval | None


@dataclass(frozen=True)
class Evaluation:
    """What was measured, on which rows; baselines first, then models."""

    n: int
    users: int
    base_rate: float | None
    rating_threshold: float | None
    """None where labels are given, not ratings."""
    resamples: int
    seed: int
    entries: list[Entry]
    differences: list[Difference]
    """Every model against the baseline of highest AUC (and of highest GAUC), fine-tuned against zero-shot, and those
    that were asked for."""
    verdict: list[str]
    """What this comes to, in sentences."""
    split: str = "test"
    """Whose rows were measured."""
    unit: Literal["users", "rows"] = "users"
    """What was resampled: users, or rows where nobody knows whose they are; `users` is then the number of rows."""

    def entry(self, key: str) -> Entry:
        """The entry of a model or baseline; `KeyError` if it was not evaluated."""
        return {entry.key: entry for entry in self.entries}[key]

    @property
    def models(self) -> list[Entry]:
        """The entries that are no baselines."""
        return [entry for entry in self.entries if entry.kind == "model"]

    def best(self, metric: str) -> frozenset[str]:
        """The keys of the entries that share the best value of a metric; none where nothing defines it."""
        values = {e.key: v for e in self.entries if (v := getattr(e.metrics, metric)) is not None}
        if not values:
            return frozenset()
        top = (min if metric in LOWER_IS_BETTER else max)(values.values())
        return frozenset(key for key, value in values.items() if value == top)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON's own types."""
        return asdict(self) | {
            "entries": [asdict(e) | {"roc": [list(point) for point in e.roc]} for e in self.entries],
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        """What `to_dict` gave, whatever else is beside it; `KeyError` or `TypeError` where something is missing."""
        entries = [
            Entry(
                **{f.name: e[f.name] for f in fields(Entry) if f.name in e}
                | {
                    "metrics": Metrics(**e["metrics"]),
                    "intervals": {name: _interval(i) for name, i in e["intervals"].items()},
                    "mass": Mass(**e["mass"]) if e["mass"] else None,
                    "reliability": [ReliabilityBin(**b) for b in e["reliability"]],
                    "roc": [(x, y) for x, y in e["roc"]],
                    "histogram": [HistogramBin(**b) for b in e["histogram"]],
                }
            )
            for e in value["entries"]
        ]
        differences = [Difference(**d | {"interval": _interval(d["interval"])}) for d in value["differences"]]
        told = {field.name: value[field.name] for field in fields(cls) if field.name in value}
        return cls(**told | {"entries": entries, "differences": differences})


def evaluate(
    samples: Samples,
    scores: Mapping[str, pl.DataFrame],
    *,
    rating_threshold: float,
    baselines: Choice | pl.DataFrame = "all",
    rows: Sequence[int] | pl.Series | NDArray[np.integer[Any]] | None = None,
    bootstrap: int = 1000,
    seed: int = 13,
    labels: Mapping[str, str] | None = None,
    split: str = "test",
    aside: Collection[str] = (),
    pairs: Sequence[tuple[str, str]] = (),
) -> Evaluation:
    """Measure models beside the baselines on the same rows of a split.

    `baselines` says which of them, or is what `baseline_scores` gave for the split. `scores` maps a key (`zero-shot`,
    `fine-tuned`, or another) to a frame with `row` (the index within the split), `p` (P(like), Float64) and, for a
    language model, `mass`. `rows` are the split's rows to measure on (None: all), each to be found in every frame;
    `bootstrap` is the number of resamples of users (0: no intervals); `labels` are the names that tables show for the
    keys. Keys `aside` are measured, but compared with nothing unless `pairs` (first, second) name them.

    Raises `InputError` where a row lacks a score or has two, and where a score is no probability.
    """
    same = beside_baselines(
        samples, scores, rating_threshold=rating_threshold, baselines=baselines, rows=rows, seed=seed, split=split
    )
    names = {key: key for key in scores} | BASELINES | dict(labels or {})
    return compared(
        same.y,
        same.users,
        same.scores,
        labels={key: names[key] for key in same.scores},
        masses={key: mass_of(frame.filter(pl.col("row").is_in(same.rows.tolist()))) for key, frame in scores.items()},
        rating_threshold=rating_threshold,
        bootstrap=bootstrap,
        seed=seed,
        split=split,
        aside=aside,
        pairs=pairs,
    )


def compared(
    y: Labels,
    users: NDArray[np.int64] | None,
    p: Mapping[str, Scores],
    *,
    labels: Mapping[str, str],
    masses: Mapping[str, Mass | None],
    rating_threshold: float | None,
    bootstrap: int,
    seed: int,
    split: str = "test",
    aside: Collection[str] = (),
    pairs: Sequence[tuple[str, str]] = (),
) -> Evaluation:
    """Measure P(like) of baselines and models, by key in the order of the tables, on the same rows.

    `y` (n,) bool, `users` (n,) or None where nobody knows whose rows they are: intervals are then over rows, which are
    taken for independent. `labels` are the entries' names; those of `masses` are the models, the others baselines.
    `split`, `aside` and `pairs` as in `evaluate`.
    """
    rows = np.arange(len(y)) if users is None else users
    replicates = resample(y, rows, p, resamples=bootstrap, seed=seed)
    entries = [
        Entry(
            key=key,
            label=labels[key],
            kind="model" if key in masses else "baseline",
            metrics=measure(y, values, rows),
            intervals={name: interval(found) for name, found in replicates[key].items()},
            mass=masses.get(key),
            reliability=reliability(y, values),
            roc=roc(y, values),
            histogram=histogram(y, values),
            aside=key in aside,
        )
        for key, values in p.items()
    ]
    measured = Evaluation(
        n=len(y),
        users=entries[0].metrics.users,
        base_rate=entries[0].metrics.base_rate,
        rating_threshold=rating_threshold,
        resamples=bootstrap,
        seed=seed,
        entries=entries,
        differences=_differences(entries, replicates, pairs),
        verdict=[],
        split=split,
        unit="rows" if users is None else "users",
    )
    return replace(measured, verdict=verdict(measured))


def beside_baselines(
    samples: Samples,
    scores: Mapping[str, pl.DataFrame],
    *,
    rating_threshold: float,
    baselines: Choice | pl.DataFrame = "all",
    rows: Sequence[int] | pl.Series | NDArray[np.integer[Any]] | None = None,
    seed: int = 13,
    split: str = "test",
) -> SameRows:
    """P(like) of baselines and models on the same rows of a split, baselines first; arguments and errors as `evaluate`.

    The rows are in the order of `rows`.
    """
    test = samples.timeline[samples.position[samples.of(split)]].with_row_index("row")
    wanted = pl.DataFrame({"row": _checked_rows(rows, len(test), split)}, schema={"row": test.schema["row"]})
    chosen = wanted.join(test, on="row", how="left", maintain_order="left")
    if not isinstance(baselines, pl.DataFrame):
        baselines = baseline_scores(
            samples, rating_threshold=rating_threshold, choice=baselines, split=split, seed=seed
        )
    free = wanted.join(baselines, on="row", how="left", maintain_order="left").drop("row")
    frames = {key: _checked_scores(key, frame, wanted) for key, frame in scores.items()}
    return SameRows(
        rows=wanted["row"].cast(pl.Int64).to_numpy(),
        y=(chosen["rating"] >= rating_threshold).to_numpy(),
        users=chosen["user_id"].rank("dense").to_numpy().astype(np.int64),
        scores={column.name: column.to_numpy() for column in free}
        | {key: frame["p"].to_numpy() for key, frame in frames.items()},
    )


def _checked_rows(rows: Any, available: int, split: str) -> list[int]:
    """The wanted rows, or an `InputError` for one that is twice there or not in the split."""
    wanted = list(range(available)) if rows is None else [int(row) for row in rows]
    if len(set(wanted)) < len(wanted):
        raise InputError(f"a {split} row is named twice, expected each once", "rows")
    outside = [row for row in wanted if not 0 <= row < available]
    if outside:
        raise InputError(f"row {outside[0]} is not in the {split} split, expected 0 to {available - 1}", "rows")
    return wanted


def _checked_scores(key: str, frame: pl.DataFrame, wanted: pl.DataFrame) -> pl.DataFrame:
    """The scores of the wanted rows, in their order."""
    place = f"scores of {key}"
    if key in BASELINES:
        raise InputError("a baseline has this name, expected another", place)
    frame = frame.with_columns(pl.col("row").cast(wanted.schema["row"]))
    twice = frame.filter(pl.col("row").is_duplicated())
    if len(twice):
        raise InputError(f"row {twice['row'][0]} has two scores, expected one", place)
    found = wanted.join(frame, on="row", how="left", maintain_order="left")
    missing = found.filter(pl.col("p").is_null())
    if len(missing):
        raise InputError(f"row {missing['row'][0]} has no score ({len(missing)} of {len(found)} have none)", place)
    wrong = found.filter(~pl.col("p").is_between(0, 1) | pl.col("p").is_nan())
    if len(wrong):
        raise InputError(f"row {wrong['row'][0]} scores {wrong['p'][0]}, expected a probability", place)
    return found


def mass_of(frame: pl.DataFrame) -> Mass | None:
    """Mean and 5th percentile of the mass; None where the scores come without one."""
    if "mass" not in frame.columns or frame["mass"].drop_nulls().is_empty():
        return None
    mass = frame["mass"].drop_nulls().to_numpy()
    return Mass(float(mass.mean()), float(np.percentile(mass, 5)))


def _differences(
    entries: list[Entry], replicates: Mapping[str, Mapping[str, Replicates]], asked: Sequence[tuple[str, str]]
) -> list[Difference]:
    """The pairs that a reader asks for, AUC then GAUC; without those of which one side is undefined."""
    found = []
    by_key = {entry.key: entry for entry in entries}
    models = [entry for entry in entries if entry.kind == "model" and not entry.aside]
    tuned_and_not = [entry for key in (FINE_TUNED, ZERO_SHOT) for entry in models if entry.key == key]
    metrics: tuple[Literal["auc", "gauc", "pair_auc"], ...] = ("auc", "gauc", "pair_auc")
    for metric in metrics:
        baselines = [e for e in entries if e.kind == "baseline" and getattr(e.metrics, metric) is not None]
        if not baselines:
            continue
        best = max(baselines, key=lambda entry: getattr(entry.metrics, metric))
        pairs = [(model, best) for model in models]
        if len(tuned_and_not) == 2:
            pairs.append((tuned_and_not[0], tuned_and_not[1]))
        compared = {(one.key, other.key) for one, other in pairs}
        pairs += [(by_key[one], by_key[other]) for one, other in asked if (one, other) not in compared]
        for one, other in pairs:
            if getattr(one.metrics, metric) is None or getattr(other.metrics, metric) is None:
                continue
            value = getattr(one.metrics, metric) - getattr(other.metrics, metric)
            if metric in replicates[one.key]:
                between = interval(replicates[one.key][metric] - replicates[other.key][metric])
            else:
                between = None
            found.append(Difference(metric, one.key, other.key, value, between))
    return found


def _interval(value: Mapping[str, float] | None) -> Interval | None:
    return None if value is None else Interval(**value)
