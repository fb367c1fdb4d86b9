"""Seeds: the metrics of one model trained several times, per seed and over all seeds.

A metric varies with the sample of users and with the randomness of training. An interval over users alone describes one
training, not the method. With S seeds whose metric on the rows has mean m and standard deviation s, a resample of users
gives m_b, the mean over seeds, and the interval is the middle 95 % of

    m_b + s / sqrt(S) * t_b,    t_b from Student's distribution with S - 1 degrees of freedom

which treats the seeds as a sample of all seeds. Resampling three seeds like users would show two thirds of their
variance (S - 1 of S); t accounts for the uncertainty of s from S values (4.3 s / sqrt(3) for three). The interaction of
seeds and users is in both parts, so the interval tends to be too wide.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from palate.errors import InputError
from palate.measure.bootstrap import Interval, Replicates, bootstrap, interval
from palate.measure.metrics import Metrics, Users, measure, metrics_in
from palate.samples.queries import Labels, Scores


@dataclass(frozen=True)
class Spread:
    """A metric, or a difference of it, over seeds."""

    mean: float
    sd: float
    """Of a sample of seeds (n - 1)."""
    low: float
    """The lowest value over seeds; `high` is the highest."""
    high: float
    interval: Interval | None
    """Over users and seeds; None without resamples of users."""
    seeds: int
    """Number of seeds."""

    @property
    def detectable(self) -> float | None:
        """For a difference: the smallest true one that four of five cases detect; None without an interval.

        It is half the interval, which an estimate must exceed, plus the 80 % quantile of the estimate's shortfall. The
        seeds contribute t · sd / √S to the half (Student's t, S - 1 degrees of freedom), the users the rest (normal).
        Users alone give 2.8 standard errors, seeds alone t(0.975) + t(0.8).
        """
        if self.interval is None:
            return None
        from scipy.stats import norm, t

        half, of_seeds = (self.interval.high - self.interval.low) / 2, self.sd / np.sqrt(self.seeds)
        rest = max(0.0, half**2 - (t.ppf(0.975, self.seeds - 1) * of_seeds) ** 2)
        short = np.hypot(norm.ppf(0.8) * np.sqrt(rest) / norm.ppf(0.975), t.ppf(0.8, self.seeds - 1) * of_seeds)
        return float(half + short)


@dataclass(frozen=True)
class OverSeeds:
    """The metrics of one model's trainings, per seed and over all seeds."""

    name: str
    seeds: dict[str, Metrics]
    """Metrics by seed, in input order."""
    spread: dict[str, Spread | None]
    """By metric; None if the metric is undefined for a seed."""
    against: str | None
    differences: dict[str, Spread | None]
    """The model minus `against`, by metric, on the same resamples; empty without one."""
    resamples: int
    seed: int


def over_seeds(
    y: Labels,
    users: Users,
    scores: Mapping[str, Scores],
    *,
    name: str,
    against: tuple[str, Scores | Mapping[str, Scores]] | None = None,
    resamples: int = 1000,
    seed: int = 13,
) -> OverSeeds:
    """Measure one model's trainings (`scores` by seed) on the same rows, and their difference to `against`.

    `y` (bool), `users` (any integers) and every score (float64, in [0, 1]) have shape (n,). `against` has a name and
    scores, or scores by the same seeds, which are paired. Raises `InputError` for fewer than two seeds.
    """
    if len(scores) < 2:
        raise InputError(f"has scores of {len(scores)} seed, expected at least two to estimate their spread", name)
    metrics = {key: measure(y, p, users) for key, p in scores.items()}
    other = {} if against is None else _by_seed(against[1], scores)
    reference = {key: measure(y, p, users) for key, p in other.items()}
    distinct = {id(p): p for p in (*scores.values(), *other.values())}
    drawn = bootstrap(y, users, {str(key): p for key, p in distinct.items()}, resamples=resamples, seed=seed)
    student = _student(len(scores) - 1, resamples, seed)
    spread: dict[str, Spread | None] = {}
    differences: dict[str, Spread | None] = {}
    for metric in (each.key for each in metrics_in("pairs")):
        values, means = _of_seeds(metric, metrics, scores, drawn)
        spread[metric] = None if values is None else _spread(values, means, student)
        if reference:
            others, other_means = _of_seeds(metric, reference, other, drawn)
            between = None if means is None or other_means is None else means - other_means
            differences[metric] = (
                None if values is None or others is None else _spread(values - others, between, student)
            )
    return OverSeeds(name, metrics, spread, None if against is None else against[0], differences, resamples, seed)


def _by_seed(scores: Scores | Mapping[str, Scores], seeds: Iterable[str]) -> dict[str, Scores]:
    """Scores by seed; the same ones for each seed if they have none."""
    return {key: scores[key] if isinstance(scores, Mapping) else scores for key in seeds}


def _of_seeds(
    metric: str,
    measured: Mapping[str, Metrics],
    scores: Mapping[str, Scores],
    drawn: Mapping[str, Mapping[str, Replicates]],
) -> tuple[NDArray[np.float64] | None, Replicates | None]:
    """A metric of each seed, (S,), None if one has none; and its mean over seeds in each resample."""
    values = [getattr(found, metric) for found in measured.values()]
    replicates = [drawn[str(id(p))] for p in scores.values()]
    means = np.mean([each[metric] for each in replicates], axis=0) if replicates[0] else None
    return None if None in values else np.array(values), means


def spread_interval(values: NDArray[np.float64], means: Replicates, student: NDArray[np.float64]) -> Interval | None:
    """The interval over users and seeds.

    `values` (S,) are those of the seeds, `means` (resamples,) the mean over seeds in each resample of users, and
    `student` (resamples,) draws from Student's distribution with S - 1 degrees of freedom.
    """
    return interval(means + values.std(ddof=1) / np.sqrt(len(values)) * student)


def _student(freedom: int, resamples: int, seed: int) -> NDArray[np.float64]:
    """Evenly spaced quantiles of Student's distribution in random order, which vary less than random draws."""
    from scipy.stats import t

    quantiles = t.ppf((np.arange(resamples) + 0.5) / max(1, resamples), freedom)
    shuffled: NDArray[np.float64] = np.random.default_rng(seed).permutation(quantiles)
    return shuffled


def _spread(values: NDArray[np.float64], means: Replicates | None, student: NDArray[np.float64]) -> Spread:
    return Spread(
        float(values.mean()),
        float(values.std(ddof=1)),
        float(values.min()),
        float(values.max()),
        None if means is None else spread_interval(values, means, student),
        len(values),
    )
