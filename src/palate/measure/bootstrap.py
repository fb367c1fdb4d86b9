"""Bootstrap over users: the variation of each metric over samples of users.

A user's rows are dependent, so the bootstrap resamples whole users (a cluster bootstrap; Efron & Tibshirani 1993,
chapter 8). A resample is a count per user, never a copy of rows. All models share the resamples, so the difference of
two models is paired.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from palate.measure.metrics import METRICS, Rows, Users, logit
from palate.samples.queries import Labels, Scores

Replicates = NDArray[np.float64]
"""One metric's value in every resample, shape (resamples,); NaN if the resample does not define it."""

POWER = 2.8
"""Size, in standard errors, of a true difference that a two-sided test at 5 % detects with a power of 80 %."""
BLOCK = 1 << 20
"""Row weights in memory at once (8 MiB); affects speed and memory, not results."""


@dataclass(frozen=True)
class Interval:
    """The middle 95 % of a metric's replicates."""

    low: float
    high: float


def bootstrap(
    y: Labels, users: Users, scores: Mapping[str, Scores], *, resamples: int, seed: int
) -> dict[str, dict[str, Replicates]]:
    """Replicates of every metric of every model, on the same seeded resamples of users.

    `y` (bool), `users` (any integers) and each of `scores` (float64, in [0, 1]) have shape (n,). The result's inner
    keys are those of `METRICS` with an interval. Slope and intercept take one Newton step from the fit on all rows
    (Moulton & Zeger 1991). ECE has no replicates: noise only adds to it, so they exceed the estimate and their interval
    often excludes it. Resamples come in blocks, so memory does not grow with `resamples` × n.
    """
    codes = np.unique(users, return_inverse=True)[1].astype(np.int64)
    models = {name: _Model(y, p, codes) for name, p in scores.items()}
    blocks: dict[str, list[dict[str, Replicates]]] = {name: [] for name in models}
    n_users = int(codes.max()) + 1 if len(codes) else 0
    for counts in user_counts(n_users, resamples, max(1, BLOCK // max(1, len(y))), seed):
        for name, model in models.items():
            blocks[name].append(model.replicates(counts))
    return {
        name: {metric: np.concatenate([block[metric] for block in parts]) for metric in parts[0]} if parts else {}
        for name, parts in blocks.items()
    }


def interval(replicates: Replicates | None) -> Interval | None:
    """The percentile interval at 95 %, over the resamples that define the metric.

    None without resamples (fewer than two users give none), or if most of them do not define the metric.
    """
    if replicates is None or not len(replicates):
        return None
    defined = replicates[~np.isnan(replicates)]
    if 2 * len(defined) < len(replicates):
        return None
    low, high = np.percentile(defined, [2.5, 97.5])
    return Interval(float(low), float(high))


def detectable(between: Interval) -> float:
    """The smallest true difference that these rows detect in four of five cases, from the interval of a difference.

    (1.96 + 0.84) standard errors, for a two-sided test at 5 % with a power of 80 %; the interval is 2 · 1.96 wide.
    """
    return POWER * (between.high - between.low) / (2 * 1.96)


def user_counts(users: int, resamples: int, block: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """The number of draws of each user, in blocks of shape (at most `block`, users).

    All draws come from one random stream in a fixed order, so the block size does not change them.
    """
    if users < 2:  # every resample of one cluster equals it: the interval would have width zero
        return
    rng = np.random.default_rng(seed)
    for first in range(0, resamples, block):
        size = min(block, resamples - first)
        drawn = rng.integers(users, size=(size, users)) + users * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * users).reshape(size, users).astype(np.float64)


class _Model:
    """One model's rows, summed per user or sorted by score, once for all resamples."""

    def __init__(self, y: Labels, p: Scores, codes: Users) -> None:
        rows = Rows(y, p, codes)
        sums = {metric.key: metric.sums(rows) for metric in METRICS if metric.sums is not None}
        shared = {id(column): column for pair in sums.values() for column in pair}
        place = {key: n for n, key in enumerate(shared)}
        self._ratios = {key: (place[id(above)], place[id(below)]) for key, (above, below) in sums.items()}
        columns, self._line = list(shared.values()), rows.line
        if self._line is not None:
            z = logit(p)
            q = 0.5 * (1 + np.tanh((self._line[0] + self._line[1] * z) / 2))
            residual, weight = y - q, q * (1 - q)
            terms = (residual, residual * z, weight, weight * z, weight * z * z)
            columns += [rows.per_user(values) for values in terms]
        self._per_user = np.column_stack(columns)
        level = np.unique(p, return_inverse=True)[1]
        order = np.argsort(level, kind="stable")
        level, liked, codes = level[order], y[order], codes[order]
        self._yes, self._no = codes[liked], codes[~liked]
        self._below = np.searchsorted(level[~liked], level[liked], side="left")
        self._not_above = np.searchsorted(level[~liked], level[liked], side="right")

    def replicates(self, counts: NDArray[np.float64]) -> dict[str, Replicates]:
        """Every metric under `counts` of shape (resamples, users).

        Intercept and slope take one Newton step from the fit on all rows.
        """
        sums = (counts @ self._per_user).T
        found = {"auc": self._auc(counts)}
        found |= {key: _ratio(sums[above], sums[below]) for key, (above, below) in self._ratios.items()}
        if self._line is not None:
            g0, g1, h00, h01, h11 = sums[-5:]
            determinant = h00 * h11 - h01**2
            found["intercept"] = self._line[0] + _ratio(h11 * g0 - h01 * g1, determinant)
            found["slope"] = self._line[1] + _ratio(h00 * g1 - h01 * g0, determinant)
        return found

    def _auc(self, counts: NDArray[np.float64]) -> Replicates:
        """Liked rows against disliked ones, ties counting half: one pass over the weights of the sorted scores.

        All sums are of integers or halves below 2**53, so they are exact in float64.
        """
        yes = counts[:, self._yes]
        no = np.zeros((len(counts), len(self._no) + 1))
        np.cumsum(counts[:, self._no], axis=1, out=no[:, 1:])
        beaten = np.einsum("ij,ij->i", yes, no[:, self._below] + no[:, self._not_above]) / 2
        return _ratio(beaten, yes.sum(axis=1) * no[:, -1])


def _ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> Replicates:
    """`above / below`, NaN where `below` is 0."""
    undefined: Replicates = np.full(len(below), np.nan)
    return np.divide(above, below, out=undefined, where=below > 0)
