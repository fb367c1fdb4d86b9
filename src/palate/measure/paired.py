"""Paired tests: is one model better than another on the same rows, beyond the variation among users?

Both models share the resamples of users, so the difficulty of a resample cancels. The p-value inverts the percentile
interval: twice the smaller share of resamples in which the difference has one sign or the other, where zeros count for
both (Efron & Tibshirani 1993, chapter 15.4; the added one is Davison & Hinkley 1997, chapter 4: a finite number of
resamples never shows a probability of zero). Interval and p-value therefore agree.

DeLong's test (1988) does not fit: it assumes independent rows, and the rows of one user are dependent, so its intervals
would be too narrow; and it covers the AUC only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations, groupby
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate.errors import InputError
from palate.measure.bootstrap import Interval, Replicates, bootstrap, interval
from palate.measure.metrics import LOWER_IS_BETTER, Place, Users, measure, metrics_in
from palate.samples.queries import Labels, Scores


@dataclass(frozen=True)
class Paired:
    """A metric of `first` minus that of `second`."""

    metric: str
    first: str
    second: str
    value: float | None
    """None if the metric is undefined for either model."""
    interval: Interval | None
    p: float | None
    """Two-sided; None without an interval."""
    holm: float | None = None
    """`p` adjusted for all compared pairs of this metric (Holm 1979)."""

    @property
    def better(self) -> str | None:
        """The side that the whole interval favours; None if it contains zero or is missing."""
        if self.interval is None or self.interval.low <= 0 <= self.interval.high:
            return None
        ahead = self.interval.low > 0
        return self.first if ahead != (self.metric in LOWER_IS_BETTER) else self.second


@dataclass(frozen=True)
class Comparison:
    """Every compared pair in every metric, metric by metric."""

    n: int
    users: int
    resamples: int
    seed: int
    pairs: list[Paired]

    def of(self, metric: str) -> list[Paired]:
        """The pairs in one metric."""
        return [pair for pair in self.pairs if pair.metric == metric]


@dataclass(frozen=True, eq=False)
class SameRows:
    """Scores of several models on their common rows, sorted by row; every array has shape (n,)."""

    rows: NDArray[np.int64]
    """Indices within the split."""
    y: Labels
    users: Users
    scores: dict[str, Scores]


def same_rows(frames: Mapping[str, pl.DataFrame]) -> SameRows:
    """Reduce score frames (`row`, `user_id`, `item_id`, `label`, `p`) to their common rows.

    Raises `InputError` if two frames disagree on a row's user, item or label, if a frame repeats a row, or if no row is
    in all frames.
    """
    shared = ["user_id", "item_id", "label"]
    merged: pl.DataFrame | None = None
    for key, frame in frames.items():
        if frame["row"].is_duplicated().any():
            twice = frame.filter(pl.col("row").is_duplicated())["row"][0]
            raise InputError(f"row {twice} has two scores, expected one", f"scores of {key}")
        one = frame.select(pl.col("row").cast(pl.Int64), *shared, pl.col("p").alias(f"p {key}"))
        if merged is None:
            merged = one.sort("row")
            continue
        merged = merged.join(one, on="row", how="inner", suffix="\0", maintain_order="left")
        other = merged.filter(pl.any_horizontal(pl.col(name) != pl.col(f"{name}\0") for name in shared))
        if len(other):
            raise InputError(
                f"row {other['row'][0]} is of another user, item or label than in the scores of {next(iter(frames))}, "
                "expected scores of the same data",
                f"scores of {key}",
            )
        merged = merged.drop(f"{name}\0" for name in shared)
    if merged is None or not len(merged):
        raise InputError("have no row in common, expected some to compare on", f"scores of {', '.join(frames)}")
    return SameRows(
        merged["row"].to_numpy(),
        merged["label"].cast(pl.Boolean).to_numpy(),
        merged["user_id"].rank("dense").to_numpy().astype(np.int64),
        {key: merged[f"p {key}"].cast(pl.Float64).to_numpy() for key in frames},
    )


def compare(
    y: Labels,
    users: Users,
    scores: Mapping[str, Scores],
    pairs: Sequence[tuple[str, str]] | None = None,
    *,
    resamples: int = 1000,
    seed: int = 13,
    sampled: bool = False,
) -> Comparison:
    """Test pairs of models (None: each with each) in every metric, on the same rows and resamples of users.

    `y` (bool), `users` (any integers) and each of `scores` (float64, in [0, 1]) have shape (n,). With `resamples` 0 the
    result has differences without intervals. `sampled` is that of `measure`.
    """
    wanted = list(combinations(scores, 2)) if pairs is None else list(pairs)
    needed = {key: scores[key] for pair in wanted for key in pair}
    replicates = bootstrap(y, users, needed, resamples=resamples, seed=seed)
    metrics = {key: asdict(measure(y, p, users, sampled=sampled)) for key, p in needed.items()}
    found = paired_metrics("pairs", wanted, metrics, replicates)
    return Comparison(len(y), len(np.unique(users)), resamples, seed, adjusted(found))


def paired_metrics(
    place: Place,
    pairs: Sequence[tuple[str, str]],
    values: Mapping[str, Mapping[str, Any]],
    replicates: Mapping[str, Mapping[str, Replicates]],
) -> list[Paired]:
    """The differences of pairs of models in the metrics that a place shows, metric by metric."""
    return [
        paired(
            metric,
            (one, other),
            (values[one][metric], values[other][metric]),
            (replicates[one].get(metric), replicates[other].get(metric)),
        )
        for metric in (each.key for each in metrics_in(place))
        for one, other in pairs
    ]


def paired(
    metric: str,
    names: tuple[str, str],
    values: tuple[float | None, float | None],
    replicates: tuple[Replicates | None, Replicates | None],
) -> Paired:
    """The difference of two models in one metric, from their values and their replicates on the same resamples."""
    first, second = values
    if first is None or second is None:
        return Paired(metric, *names, None, None, None)
    one, other = replicates
    differences = None if one is None or other is None else one - other
    between = interval(differences)
    p = None if between is None or differences is None else p_value(differences)
    return Paired(metric, *names, first - second, between, p)


def p_value(differences: Replicates) -> float:
    """The two-sided p-value of no difference, from the replicates (resamples,) that are defined."""
    defined = differences[~np.isnan(differences)]
    rarer = min(int((defined <= 0).sum()), int((defined >= 0).sum()))
    return min(1.0, 2 * (1 + rarer) / (1 + len(defined)))


def holm(p: Sequence[float | None]) -> list[float | None]:
    """p-values adjusted for multiple comparisons (Holm 1979), which controls the family-wise error rate.

    None stays None and does not count as a comparison.
    """
    order = sorted((value, i) for i, value in enumerate(p) if value is not None)
    found: list[float | None] = [None] * len(p)
    highest = 0.0
    for rank, (value, i) in enumerate(order):
        highest = max(highest, min(1.0, value * (len(order) - rank)))
        found[i] = highest
    return found


def adjusted(pairs: Sequence[Paired]) -> list[Paired]:
    """The pairs with `holm` over those of the same metric; pairs of one metric must be adjacent."""
    groups = [list(group) for _, group in groupby(pairs, key=lambda pair: pair.metric)]
    return [
        replace(pair, holm=p)
        for group in groups
        for pair, p in zip(group, holm([pair.p for pair in group]), strict=True)
    ]
