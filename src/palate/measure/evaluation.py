"""Evaluation: what was measured of models and baselines on the same rows, as dataclasses that JSON can hold."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import numpy as np
import polars as pl
from pydantic import TypeAdapter

from palate.measure.bootstrap import Interval
from palate.measure.curves import HistogramBin, ReliabilityBin
from palate.measure.metrics import LOWER_IS_BETTER, Metrics

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
        """What `to_dict` gave, whatever else is beside it; pydantic's `ValidationError` where something is missing."""
        return TypeAdapter(cls).validate_python(value)


def mass_of(frame: pl.DataFrame) -> Mass | None:
    """Mean and 5th percentile of the mass; None where the scores come without one."""
    if "mass" not in frame.columns or frame["mass"].drop_nulls().is_empty():
        return None
    mass = frame["mass"].drop_nulls().to_numpy()
    return Mass(float(mass.mean()), float(np.percentile(mass, 5)))
