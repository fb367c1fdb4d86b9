"""Bootstrap over users: how far each metric would move had other users been asked.

A user's rows stand or fall together, so whole users are resampled (a cluster bootstrap; Efron & Tibshirani 1993,
chapter 8). A resample is a count for every user, never a copy of rows, and all models see the same resamples: the
difference between two of them is paired.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from palate.measure.metrics import CLIP, DECISION, Users, logit, per_user_auc, recalibration
from palate.samples.queries import Labels, Scores

Replicates = NDArray[np.float64]
"""One metric's value in every resample, shape (resamples,); NaN where the resample does not define it."""

POWER = 2.8
"""Standard errors that a true difference must measure to be found in 80 % of cases by a two-sided test at 5 %."""
BLOCK = 1 << 20
"""Row weights held at once (8 MiB); affects speed and memory, not results."""


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
    keys are the fields of `Metrics`: auc, gauc, pair_auc, accuracy, f1, log_loss, brier, slope, intercept. The last
    two take one Newton step from the line of all rows (Moulton & Zeger 1991). ECE is left out: noise only adds to it,
    so its replicates lie above the estimate and their interval often excludes it. Memory does not grow with
    `resamples` times n: resamples are drawn and measured block by block.
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

    None where there is nothing to trust: no resamples (fewer than two users give none), or most of them undefined.
    """
    if replicates is None or not len(replicates):
        return None
    defined = replicates[~np.isnan(replicates)]
    if 2 * len(defined) < len(replicates):
        return None
    low, high = np.percentile(defined, [2.5, 97.5])
    return Interval(float(low), float(high))


def detectable(between: Interval) -> float:
    """The smallest true difference that these rows find in four of five cases, from the interval of a difference.

    (1.96 + 0.84) standard errors, for a two-sided test at 5 % with a power of 80 %; the interval is 2 · 1.96 wide.
    """
    return POWER * (between.high - between.low) / (2 * 1.96)


def user_counts(users: int, resamples: int, block: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """How often each user was drawn, block by block of shape (at most `block`, users).

    All draws come from one stream in one order, so the size of the blocks does not change them.
    """
    if users < 2:  # one cluster resampled is always itself: an interval of width zero would be a lie
        return
    rng = np.random.default_rng(seed)
    for first in range(0, resamples, block):
        size = min(block, resamples - first)
        drawn = rng.integers(users, size=(size, users)) + users * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * users).reshape(size, users).astype(np.float64)


class _Model:
    """What one model's metrics need of its rows, added up per user or sorted by score, once for all resamples."""

    def __init__(self, y: Labels, p: Scores, codes: Users) -> None:
        n_users = int(codes.max()) + 1 if len(codes) else 0

        def per_user(values: NDArray[np.float64] | Labels) -> NDArray[np.float64]:
            sums: NDArray[np.float64] = np.bincount(codes, weights=values, minlength=n_users).astype(np.float64)
            return sums

        predicted = p >= DECISION
        clipped = p.clip(CLIP, 1 - CLIP)
        aucs, rows, pairs = per_user_auc(y, p, codes)
        defined = ~np.isnan(aucs)
        columns = {
            "rows": rows.astype(np.float64),
            "ranked_rows": np.where(defined, rows, 0),
            "ranked": np.where(defined, aucs * rows, 0),
            "pairs": pairs,
            "ordered": np.where(defined, aucs * pairs, 0),
            "correct": per_user(predicted == y),
            "hits": per_user(predicted & y),
            "claimed": per_user(predicted) + per_user(y),
            "nats": per_user(-np.log(np.where(y, clipped, 1 - clipped))),
            "squares": per_user((p - y) ** 2),
        }
        self._line = recalibration(y, p)
        if self._line is not None:
            z = logit(p)
            q = 0.5 * (1 + np.tanh((self._line[0] + self._line[1] * z) / 2))
            residual, weight = y - q, q * (1 - q)
            terms = {"g0": residual, "g1": residual * z, "h00": weight, "h01": weight * z, "h11": weight * z * z}
            columns |= {name: per_user(values) for name, values in terms.items()}
        self._names = list(columns)
        self._per_user = np.column_stack(list(columns.values()))
        self._auc = _SortedScores(y, p, codes)

    def replicates(self, counts: NDArray[np.float64]) -> dict[str, Replicates]:
        """Every metric under `counts` of shape (resamples, users)."""
        sums = counts @ self._per_user
        of = {name: sums[:, i] for i, name in enumerate(self._names)}
        return {
            "auc": self._auc.weighted(counts),
            "gauc": _ratio(of["ranked"], of["ranked_rows"]),
            "pair_auc": _ratio(of["ordered"], of["pairs"]),
            "accuracy": _ratio(of["correct"], of["rows"]),
            "f1": _ratio(2 * of["hits"], of["claimed"]),
            "log_loss": _ratio(of["nats"], of["rows"]),
            "brier": _ratio(of["squares"], of["rows"]),
            **self._recalibrated(of),
        }

    def _recalibrated(self, of: Mapping[str, NDArray[np.float64]]) -> dict[str, Replicates]:
        """Intercept and slope of each resample: one Newton step from those of all rows."""
        if self._line is None:
            return {}
        determinant = of["h00"] * of["h11"] - of["h01"] ** 2
        intercept = _ratio(of["h11"] * of["g0"] - of["h01"] * of["g1"], determinant)
        slope = _ratio(of["h00"] * of["g1"] - of["h01"] * of["g0"], determinant)
        return {"intercept": self._line[0] + intercept, "slope": self._line[1] + slope}


class _SortedScores:
    """Rows sorted by score once, so that the AUC of a resample is one pass over its weights."""

    def __init__(self, y: Labels, p: Scores, codes: Users) -> None:
        level = np.unique(p, return_inverse=True)[1]
        order = np.argsort(level, kind="stable")
        level, liked = level[order], y[order]
        self._codes = codes[order]
        self._yes, self._no = np.flatnonzero(liked), np.flatnonzero(~liked)
        self._below = np.searchsorted(level[self._no], level[self._yes], side="left")
        self._not_above = np.searchsorted(level[self._no], level[self._yes], side="right")

    def weighted(self, counts: NDArray[np.float64]) -> Replicates:
        """The AUC under `counts` (resamples, users): liked rows against disliked ones, ties counting half.

        All sums are of integers or halves below 2**53, so they are exact in float64.
        """
        yes = counts[:, self._codes[self._yes]]
        no = np.zeros((len(counts), len(self._no) + 1))
        np.cumsum(counts[:, self._codes[self._no]], axis=1, out=no[:, 1:])
        beaten = np.einsum("ij,ij->i", yes, no[:, self._below] + no[:, self._not_above]) / 2
        return _ratio(beaten, yes.sum(axis=1) * no[:, -1])


def _ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> Replicates:
    """`above / below`, NaN where there is nothing below."""
    undefined: Replicates = np.full(len(below), np.nan)
    return np.divide(above, below, out=undefined, where=below > 0)
