"""Measure models and baselines on the same test rows, with intervals, paired differences and the verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate.baselines.registry import BASELINES, Choice, baseline_scores
from palate.errors import InputError
from palate.measure.bootstrap import Replicates, interval
from palate.measure.bootstrap import bootstrap as resample
from palate.measure.curves import histogram, reliability, roc
from palate.measure.evaluation import Difference, Entry, Evaluation, Negatives, Unit, mass_of
from palate.measure.keys import FINE_TUNED, ZERO_SHOT
from palate.measure.metrics import METRICS, measure, metrics_in
from palate.measure.paired import SameRows
from palate.measure.verdict import verdict
from palate.ratings.likes import Likes
from palate.samples import Samples


@dataclass
class Models:
    """The models of a table, in table order: scores and names by key, keys without comparisons, and extra pairs.

    A frame has `row` (the index within the split), `p` (P(like), Float64) and, for a language model, `mass`. The keys
    in `aside` get metrics, but no comparisons except those in `pairs` (first, second).
    """

    frames: dict[str, pl.DataFrame] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    aside: list[str] = field(default_factory=list)
    pairs: list[tuple[str, str]] = field(default_factory=list)
    corrected: dict[str, str] = field(default_factory=dict)
    """The baseline that a model corrects, by the model's key: its scores are those of the sum."""

    def add(self, key: str, label: str, frame: pl.DataFrame, *, aside: bool = False) -> None:
        """Append a row."""
        self.frames[key], self.labels[key] = frame, label
        if aside:
            self.aside.append(key)


def evaluate(
    samples: Samples,
    scores: Models | Mapping[str, pl.DataFrame],
    *,
    baselines: Choice | pl.DataFrame = "all",
    rows: Sequence[int] | NDArray[np.int64] | None = None,
    bootstrap: int = 1000,
    seed: int = 13,
    split: str = "test",
) -> Evaluation:
    """Measure models beside the baselines on the same rows of a split.

    `baselines` chooses baselines, or is the result of `baseline_scores` for the split. `scores` are models, or their
    frames by key. `rows` are the split's rows to measure on (None: all), which every frame must contain; `bootstrap` is
    the number of resamples of users (0: no intervals).

    Raises `InputError` if a row lacks a score or has two, and if a score is not a probability.
    """
    models = scores if isinstance(scores, Models) else Models(dict(scores))
    if not isinstance(baselines, pl.DataFrame):
        baselines = baseline_scores(samples, choice=baselines, split=split, seed=seed)
    same = beside_baselines(samples, models.frames, baselines, rows=rows, split=split)
    found = measure_rows(same, models, bootstrap=bootstrap, seed=seed, split=split, likes=samples.likes)
    return replace(found, rating_threshold=samples.threshold)


def measure_rows(
    same: SameRows,
    models: Models,
    *,
    bootstrap: int,
    seed: int,
    split: str = "test",
    unit: Unit = "users",
    likes: Likes | None = None,
) -> Evaluation:
    """Measure all scores; the keys of `models` are models, the others baselines.

    `unit` is `rows` if the users are unknown: each row then counts as a user, and rows as independent. `likes` is the
    rule that sampled the negatives; None if they are not sampled.
    """
    replicates = resample(same.y, same.users, same.scores, resamples=bootstrap, seed=seed)
    names, sampled = BASELINES | models.labels, likes is not None
    kept = {metric.key for metric in METRICS if metric.sampled or not sampled}
    entries = [
        Entry(
            key=key,
            label=names.get(key, key),
            kind="model" if key in models.frames else "baseline",
            metrics=measure(same.y, p, same.users, sampled=sampled),
            intervals={name: interval(found) for name, found in replicates[key].items() if name in kept},
            mass=mass_of(models.frames[key], same.rows) if key in models.frames else None,
            reliability=reliability(same.y, p),
            roc=roc(same.y, p),
            histogram=histogram(same.y, p),
            aside=key in models.aside,
            corrects=models.corrected.get(key),
        )
        for key, p in same.scores.items()
    ]
    found = Evaluation(
        n=len(same.y),
        users=entries[0].metrics.users,
        base_rate=entries[0].metrics.base_rate,
        rating_threshold=None,
        resamples=bootstrap,
        seed=seed,
        entries=entries,
        differences=[],
        verdict=[],
        split=split,
        unit=unit,
        negatives=Negatives.of(likes),
    )
    found = replace(found, differences=_differences(found, replicates, models.pairs))
    return replace(found, verdict=verdict(found))


def beside_baselines(
    samples: Samples,
    scores: Mapping[str, pl.DataFrame],
    baselines: pl.DataFrame,
    *,
    rows: Sequence[int] | NDArray[np.int64] | None = None,
    split: str = "test",
) -> SameRows:
    """P(like) of baselines and models on the same rows of a split, baselines first; arguments and errors as `evaluate`.

    The rows are in the order of `rows`.
    """
    own = samples.of(split)
    chosen = np.arange(len(own)) if rows is None else np.asarray(rows, dtype=np.int64)
    wanted = pl.DataFrame({"row": chosen}, schema={"row": pl.UInt32})
    free = wanted.join(baselines, on="row", how="left", maintain_order="left").drop("row")
    frames = {key: _checked_scores(key, frame, wanted) for key, frame in scores.items()}
    own = own[chosen]
    return SameRows(
        rows=chosen,
        y=samples.label[own],
        users=samples.user[samples.position[own]],
        scores={column.name: column.to_numpy() for column in free}
        | {key: frame["p"].to_numpy() for key, frame in frames.items()},
    )


def _checked_scores(key: str, frame: pl.DataFrame, wanted: pl.DataFrame) -> pl.DataFrame:
    """The scores of the wanted rows, in the order of `wanted`."""
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
        raise InputError(
            f"row {missing['row'][0]} has no score ({len(missing)} of {len(found)} have none), expected one each", place
        )
    wrong = found.filter(~pl.col("p").is_between(0, 1) | pl.col("p").is_nan())
    if len(wrong):
        raise InputError(f"row {wrong['row'][0]} scores {wrong['p'][0]}, expected a probability", place)
    return found


def _differences(
    found: Evaluation, replicates: Mapping[str, Mapping[str, Replicates]], requested: Sequence[tuple[str, str]]
) -> list[Difference]:
    """The differences of the verdict and of the `requested` pairs, metric by metric, if both sides are defined."""
    models = [entry.key for entry in found.models if not entry.aside]
    differences = []
    for metric in (each.key for each in metrics_in("verdict")):
        best = found.best_baseline(metric)
        if best is None:
            continue
        pairs = [(model, best.key) for model in models]
        if {FINE_TUNED, ZERO_SHOT} <= set(models):
            pairs.append((FINE_TUNED, ZERO_SHOT))
        for first, second in dict.fromkeys([*pairs, *requested]):
            one, other = (getattr(found.entry(key).metrics, metric) for key in (first, second))
            if one is None or other is None:
                continue
            has = metric in replicates[first]
            between = interval(replicates[first][metric] - replicates[second][metric]) if has else None
            differences.append(Difference(metric, first, second, one - other, between))
    return differences
