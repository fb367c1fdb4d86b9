"""Seeds: one model trained several times, its metrics apart and together.

Two things could have come out otherwise: which users were asked, and what chance did in training. An interval over
users alone is that of one training, not of the method. With S seeds whose metric on the rows has mean m and standard
deviation s, a resample of users gives m_b, the mean over seeds there, and the interval is the middle 95 % of

    m_b + s / sqrt(S) * t_b,    t_b from Student's distribution with S - 1 degrees of freedom

which treats seeds as a sample of all seeds. Three seeds resampled like users would show two thirds of their variance
(S - 1 of S); t makes up for how little S values tell of s (4.3 s / sqrt(3) for three). What a seed does to some users
and not to others is in both parts, so the interval is rather too wide than too narrow.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palate.errors import InputError
from palate.measure.bootstrap import Interval, Replicates, bootstrap, interval
from palate.measure.metrics import Metrics, Users, measure
from palate.measure.paired import METRICS
from palate.samples.queries import Labels, Scores

MARK = "@"
"""Stands between a model's name and its seed in a key, as in `fine-tuned@13`."""


@dataclass(frozen=True)
class Spread:
    """A metric, or a difference of it, over seeds."""

    mean: float
    sd: float
    """Of a sample of seeds (n - 1)."""
    low: float
    """The lowest of a seed."""
    high: float
    interval: Interval | None
    """Over users and seeds; None where a resample of users gives none."""
    seeds: int | None = None
    """How many they are; None in files of earlier versions, whose detectable size is that of users alone."""

    @property
    def detectable(self) -> float | None:
        """The smallest true difference found in four of five cases, if this is a difference; None without an interval.

        Half the interval, which an estimate must exceed, plus what an estimate falls short by in one case of five.
        t · sd / √S of the half is due to seeds (Student's t, S - 1 degrees of freedom), the rest to users (normal).
        Users alone make 2.8 standard errors, seeds alone t(0.975) + t(0.8).
        """
        if self.interval is None or self.seeds is None:
            return None
        from scipy.stats import norm, t

        half, of_seeds = (self.interval.high - self.interval.low) / 2, self.sd / np.sqrt(self.seeds)
        rest = max(0.0, half**2 - (t.ppf(0.975, self.seeds - 1) * of_seeds) ** 2)
        short = np.hypot(norm.ppf(0.8) * np.sqrt(rest) / norm.ppf(0.975), t.ppf(0.8, self.seeds - 1) * of_seeds)
        return float(half + short)


@dataclass(frozen=True)
class OverSeeds:
    """One model's trainings, each by its metrics, and all of them together."""

    name: str
    seeds: dict[str, Metrics]
    """Metrics by seed, as they were given."""
    spread: dict[str, Spread | None]
    """By metric; None where a seed does not define it."""
    against: str | None
    differences: dict[str, Spread | None]
    """The model minus `against`, by metric, on the same resamples; empty without one."""
    resamples: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON's own types."""
        return asdict(self)


def over_seeds(
    y: Labels,
    users: Users,
    scores: Mapping[str, Scores],
    *,
    name: str,
    against: tuple[str, Scores] | None = None,
    resamples: int = 1000,
    seed: int = 13,
) -> OverSeeds:
    """Measure one model's trainings, `scores` by seed, on the same rows; and their difference to `against`.

    `y` (bool), `users` (any integers) and every score (float64, in [0, 1]) have shape (n,). Raises `InputError` for
    fewer than two seeds.
    """
    if len(scores) < 2:
        raise InputError(f"{len(scores)} of seeds, expected at least two to tell how far they lie apart", name)
    metrics = {key: measure(y, p, users) for key, p in scores.items()}
    columns = [*scores.values(), *([] if against is None else [against[1]])]
    replicates = bootstrap(y, users, {str(i): p for i, p in enumerate(columns)}, resamples=resamples, seed=seed)
    of_seeds = [replicates[str(i)] for i in range(len(scores))]
    beside = None if against is None else measure(y, against[1], users)
    student = _student(len(scores) - 1, resamples, seed)
    spread: dict[str, Spread | None] = {}
    differences: dict[str, Spread | None] = {}
    for metric in METRICS:
        values = [getattr(found, metric) for found in metrics.values()]
        means = _mean([own[metric] for own in of_seeds if metric in own])
        spread[metric] = None if None in values else _spread(np.array(values), means, student)
        if beside is not None:
            other = getattr(beside, metric)
            undefined = other is None or spread[metric] is None
            between = None if means is None else means - replicates[str(len(scores))][metric]
            differences[metric] = None if undefined else _spread(np.array(values) - other, between, student)
    return OverSeeds(name, metrics, spread, None if against is None else against[0], differences, resamples, seed)


def spread_interval(values: NDArray[np.float64], means: Replicates, student: NDArray[np.float64]) -> Interval | None:
    """The interval over users and seeds: `values` (S,) of the seeds, `means` (resamples,) of all seeds in each
    resample of users, `student` (resamples,) from Student's distribution with S - 1 degrees of freedom."""
    return interval(means + values.std(ddof=1) / np.sqrt(len(values)) * student)


def _student(freedom: int, resamples: int, seed: int) -> NDArray[np.float64]:
    """Evenly spaced quantiles of Student's distribution in random order: its tails do not hang on luck."""
    from scipy.stats import t

    quantiles = t.ppf((np.arange(resamples) + 0.5) / max(1, resamples), freedom)
    shuffled: NDArray[np.float64] = np.random.default_rng(seed).permutation(quantiles)
    return shuffled


def _mean(replicates: list[Replicates]) -> Replicates | None:
    """The mean over seeds in each resample; None without resamples."""
    if not replicates:
        return None
    means: Replicates = np.mean(replicates, axis=0)
    return means


def _spread(values: NDArray[np.float64], means: Replicates | None, student: NDArray[np.float64]) -> Spread:
    return Spread(
        float(values.mean()),
        float(values.std(ddof=1)),
        float(values.min()),
        float(values.max()),
        None if means is None or not len(means) else spread_interval(values, means, student),
        len(values),
    )
