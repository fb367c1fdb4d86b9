"""Evaluation: the measurements of models and baselines on the same rows, as dataclasses that convert to JSON."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate.measure.bootstrap import Interval
from palate.measure.curves import HistogramBin, ReliabilityBin
from palate.measure.keys import CALIBRATED
from palate.measure.metrics import LOWER_IS_BETTER, Metrics
from palate.ratings.likes import Likes

Unit = Literal["users", "rows"]


@dataclass(frozen=True)
class Negatives:
    """The negatives of a log of likes, see `palate.samples.negatives`: AUC and GAUC are against these."""

    rule: str
    per_like: int

    @classmethod
    def of(cls, likes: Likes | None) -> "Negatives | None":
        """Those of samples; None if their log has ratings."""
        return None if likes is None else cls(likes.rule, likes.per_like)

    def __str__(self) -> str:
        """In words, for tables."""
        return f"against sampled negatives ({self.rule}, {self.per_like} per like)"


@dataclass(frozen=True)
class Mass:
    """The probability of both answer tokens together, over the rows of a language model."""

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
    """Whether it is the calibrated variant of another row: it has metrics, but no comparisons and no verdict."""
    corrects: str | None = None
    """The key of the baseline that the model corrects; its scores are then those of the sum."""


@dataclass(frozen=True)
class Difference:
    """A metric of `first` minus that of `second`, on the same resamples of users."""

    metric: str
    first: str
    second: str
    value: float
    interval: Interval | None


@dataclass(frozen=True)
class Evaluation:
    """The entries of an evaluation and the rows that it used; baselines first, then models."""

    n: int
    users: int
    base_rate: float | None
    rating_threshold: float | None
    """None if the data has labels, not ratings."""
    resamples: int
    seed: int
    entries: list[Entry]
    differences: list[Difference]
    """Every model against the baseline of highest AUC (and of highest GAUC), fine-tuned against zero-shot, and the
    pairs that the caller requested."""
    verdict: list[str]
    """The conclusions, in sentences."""
    split: str = "test"
    """The split of the measured rows."""
    unit: Unit = "users"
    """The unit of resampling: users, or rows if the data names no users; `users` is then the number of rows."""
    negatives: Negatives | None = None
    """None if the users themselves disliked the other rows."""

    def to_dict(self) -> dict[str, Any]:
        """The evaluation as JSON types; without `negatives` it goes without that key, as in earlier versions."""
        return {key: value for key, value in asdict(self).items() if key != "negatives" or value is not None}

    def entry(self, key: str) -> Entry:
        """The entry of a model or baseline; raises `KeyError` for an unknown key."""
        return {entry.key: entry for entry in self.entries}[key]

    @property
    def models(self) -> list[Entry]:
        """The entries of models."""
        return [entry for entry in self.entries if entry.kind == "model"]

    def best_baseline(self, metric: str = "auc") -> Entry | None:
        """The baseline with the highest AUC, or GAUC; None if it is undefined."""
        defined = [e for e in self.entries if e.kind == "baseline" and getattr(e.metrics, metric) is not None]
        return max(defined, key=lambda e: float(getattr(e.metrics, metric)), default=None)

    def calibrated_key(self, key: str) -> str:
        """The key of a model's calibrated row, or `key` itself without a calibration."""
        return key + CALIBRATED if any(entry.key == key + CALIBRATED for entry in self.entries) else key

    def best(self, metric: str) -> frozenset[str]:
        """The keys of the entries that share the best value of a metric; empty if no entry defines it."""
        values = {e.key: v for e in self.entries if (v := getattr(e.metrics, metric)) is not None}
        if not values:
            return frozenset()
        top = (min if metric in LOWER_IS_BETTER else max)(values.values())
        return frozenset(key for key, value in values.items() if value == top)


def mass_of(frame: pl.DataFrame, rows: NDArray[np.int64]) -> Mass | None:
    """Mean and 5th percentile of the mass over some rows; None if the scores have no mass."""
    if "mass" not in frame.columns:
        return None
    mass = frame.filter(pl.col("row").is_in(rows.tolist()))["mass"].drop_nulls().to_numpy()
    return Mass(float(mass.mean()), float(np.percentile(mass, 5))) if len(mass) else None
