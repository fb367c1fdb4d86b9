"""Metrics of P(like) against the labels: ranking, decisions and calibration.

The bootstrap, paired tests, slices, tables and pages read one list, `METRICS`. To add a metric, add it there and as a
field of `Metrics`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from palate.measure.curves import bin_of
from palate.samples.queries import Labels, Scores

CLIP = 1e-7
"""Log loss clips probabilities to [CLIP, 1 − CLIP], so that one wrong certainty does not make it infinite."""
ECE_BINS = 15
FLOOR_DRAWS = 100
"""Draws of labels behind `Metrics.ece_floor`."""
RECALIBRATION_STEPS = 100
"""Maximum number of Newton steps; a fit that has not converged by then does not exist."""
RECALIBRATION_REACH = 2.0
"""The longest step, in standard deviations of the logit; a longer one may leave the region of convergence."""
DECISION = 0.5

Users = NDArray[np.int64]
Place = Literal["terminal", "card", "page", "folded", "verdict", "pairs", "forest", "slices"]


@dataclass(frozen=True)
class Metrics:
    """The metrics of one model on one set of rows; None for an undefined metric.

    AUC and GAUC need both classes, F1 needs a positive label or prediction, every metric needs a row.
    """

    n: int
    users: int
    base_rate: float | None
    """Share of liked rows."""
    auc: float | None
    gauc: float | None
    """Per-user AUC, weighted by rows, over users with both classes (Zhu et al. 2017, "Optimized Cost per Click")."""
    gauc_mean: float | None
    """Per-user AUC, each user counting once."""
    gauc_users: int
    """Users with both classes; the means exclude the others, who have no AUC."""
    accuracy: float | None
    """At P(like) >= 0.5."""
    f1: float | None
    """Of the liked class, at P(like) >= 0.5."""
    log_loss: float | None
    """In nats."""
    brier: float | None
    ece: float | None
    """Expected calibration error over 15 equal-width bins; never zero on few rows, see `ece_floor`."""
    ece_floor: float | None = None
    """The expected `ece` of a perfectly calibrated model: the noise of this number of rows."""
    pair_auc: float | None = None
    """Per-user AUC, weighted by pairs of a liked and a disliked row; it hardly depends on the number of rows."""
    slope: float | None = None
    """Of the logistic recalibration, see `recalibration`; 1 if calibrated, below 1 if overconfident."""
    intercept: float | None = None
    """Of the logistic recalibration; 0 if calibrated, above 0 if P(like) is too low."""


class Rows:
    """n labelled scores, and the statistics that several metrics share."""

    def __init__(self, y: Labels, p: Scores, users: Users) -> None:
        self.y, self.p = y, p
        self.users = np.unique(users, return_inverse=True)[1].astype(np.int64)
        self.aucs, counts, self.pairs = per_user_auc(y, p, users)
        self.counts = counts.astype(np.float64)
        self.ranked = ~np.isnan(self.aucs)

    @property
    def predicted(self) -> Labels:
        """The decisions, (n,)."""
        return self.p >= DECISION

    @cached_property
    def line(self) -> tuple[float, float] | None:
        """The intercept and slope of `recalibration`."""
        return recalibration(self.y, self.p)

    def per_user(self, values: Scores | Labels) -> Scores:
        """The sums (users,) of values (n,)."""
        return np.bincount(self.users, weights=values, minlength=len(self.counts)).astype(np.float64)


Value = Callable[[Rows], float | None]
Sums = Callable[[Rows], tuple[Scores, Scores]]


@dataclass(frozen=True)
class Metric:
    """A metric: its name, its functions, and the places that show it."""

    key: str
    """Its field in `Metrics`."""
    label: str
    value: Value
    sums: Sums | None = None
    """For a ratio of sums over users: each user's part of numerator and denominator, (users,), for the bootstrap."""
    lower: bool = False
    """Whether lower is better."""
    interval: bool = True
    """Whether the bootstrap gives it an interval."""
    shown: str = ""
    """The `Place`s that show it, separated by spaces."""
    sampled: bool = False
    """Whether it keeps its meaning against sampled negatives: it does not depend on how many there are."""


def _auc(rows: Rows) -> float | None:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(rows.y, rows.p)) if rows.y.any() and not rows.y.all() else None


def _mean_auc(weights: Callable[[Rows], Scores]) -> tuple[Value, Sums]:
    """The mean of the users' AUCs; users with one class have none."""

    def value(rows: Rows) -> float | None:
        of = rows.ranked
        return float(np.average(rows.aucs[of], weights=weights(rows)[of])) if of.any() else None

    def sums(rows: Rows) -> tuple[Scores, Scores]:
        weight = np.where(rows.ranked, weights(rows), 0.0)
        return np.where(rows.ranked, rows.aucs * weight, 0.0), weight

    return value, sums


def _mean(of_row: Callable[[Rows], Scores | Labels]) -> tuple[Value, Sums]:
    """The mean over rows."""
    return lambda rows: float(of_row(rows).mean()), lambda rows: (rows.per_user(of_row(rows)), rows.counts)


def _nats(rows: Rows) -> Scores:
    return nats(rows.y, rows.p)


def _squares(rows: Rows) -> Scores:
    return (rows.p - rows.y) ** 2


def _ece_of(rows: Rows) -> float:
    return _ece(rows.y, rows.p, bin_of(rows.p, ECE_BINS))


def _f1(rows: Rows) -> float | None:
    above, below = _f1_sums(rows)
    return float(above.sum() / below.sum()) if below.any() else None


def _f1_sums(rows: Rows) -> tuple[Scores, Scores]:
    return 2 * rows.per_user(rows.predicted & rows.y), rows.per_user(rows.predicted) + rows.per_user(rows.y)


def _brier(rows: Rows) -> float:
    from sklearn.metrics import brier_score_loss

    return float(brier_score_loss(rows.y, rows.p, pos_label=True))


METRICS = (
    Metric("auc", "AUC", _auc, shown="terminal card page verdict pairs forest slices", sampled=True),
    Metric(
        "gauc", "GAUC", *_mean_auc(lambda rows: rows.counts), shown="terminal page verdict pairs slices", sampled=True
    ),
    Metric(
        "pair_auc", "AUC over pairs", *_mean_auc(lambda rows: rows.pairs), shown="folded verdict pairs", sampled=True
    ),
    Metric("accuracy", "accuracy", *_mean(lambda rows: rows.predicted == rows.y), shown="terminal card page pairs"),
    Metric("f1", "F1", _f1, _f1_sums, shown="page pairs"),
    Metric("log_loss", "log loss", *_mean(_nats), lower=True, shown="terminal card page pairs forest slices"),
    Metric("brier", "Brier", _brier, _mean(_squares)[1], lower=True, shown="page pairs"),
    Metric("ece", "ECE", _ece_of, lower=True, interval=False, shown="terminal card page folded"),
    Metric("slope", "slope", lambda rows: rows.line and rows.line[1], shown="folded"),
    Metric("intercept", "intercept", lambda rows: rows.line and rows.line[0], shown="folded"),
)
METRIC_LABELS = {metric.key: metric.label for metric in METRICS}
LOWER_IS_BETTER = frozenset(metric.key for metric in METRICS if metric.lower)


def metrics_in(place: Place, *, sampled: bool = False) -> list[Metric]:
    """The metrics that one place shows, in order; with `sampled` those with a meaning against sampled negatives."""
    return [metric for metric in METRICS if place in metric.shown.split() and (metric.sampled or not sampled)]


def measure(y: Labels, p: Scores, users: Users, *, sampled: bool = False) -> Metrics:
    """All metrics of `p` (float64, in [0, 1]) for labels `y` (bool) of `users` (any integers); each of shape (n,).

    With `sampled` the negatives are sampled: metrics without a meaning then (`Metric.sampled`) are None. Raises
    `ValueError` if the lengths differ or a `p` is outside [0, 1].
    """
    if not len(y) == len(p) == len(users):
        raise ValueError(f"{len(y)} labels, {len(p)} scores, {len(users)} users: expected as many of each")
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError("a score is not within [0, 1], expected probabilities")
    rows, some = Rows(y, p, users), bool(len(y))
    return Metrics(
        n=len(y),
        users=len(rows.aucs),
        base_rate=float(y.mean()) if some else None,
        gauc_mean=float(rows.aucs[rows.ranked].mean()) if rows.ranked.any() else None,
        gauc_users=int(rows.ranked.sum()),
        ece_floor=ece_floor(p) if some and not sampled else None,
        **{metric.key: metric.value(rows) if some and (metric.sampled or not sampled) else None for metric in METRICS},
    )


def nats(y: Labels, p: Scores) -> Scores:
    """The log loss of each row, (n,), with `p` clipped to [CLIP, 1 − CLIP]."""
    clipped = p.clip(CLIP, 1 - CLIP)
    losses: Scores = -np.log(np.where(y, clipped, 1 - clipped))
    return losses


def logit(p: Scores) -> Scores:
    """ln(p / (1 − p)), with `p` clipped to [CLIP, 1 − CLIP]."""
    clipped = p.clip(CLIP, 1 - CLIP)
    found: Scores = np.log(clipped) - np.log1p(-clipped)
    return found


def recalibration(y: Labels, p: Scores) -> tuple[float, float] | None:
    """Intercept a and slope b of the maximum-likelihood fit P(y) = σ(a + b · logit(p)) (Cox 1958).

    (0, 1) in expectation for a calibrated `p`. None if no finite fit exists: labels of one class, a constant `p`, or a
    threshold of `p` that separates the classes.
    """
    if y.all() or not y.any():
        return None
    z = logit(p)
    spread = float(z.std())
    if spread < CLIP:
        return None
    if min(z[y]) >= max(z[~y]) or max(z[y]) <= min(z[~y]):
        return None
    x = np.column_stack((np.ones_like(z), (z - z.mean()) / spread))
    line = np.array([np.log(y.mean() / (1 - y.mean())), 0.0])
    for _ in range(RECALIBRATION_STEPS):
        q = _sigmoid(x @ line)
        step = np.linalg.solve((x * (q * (1 - q))[:, None]).T @ x, x.T @ (y - q))
        line = line + step * min(1.0, RECALIBRATION_REACH / max(float(np.abs(step).max()), CLIP))
        if np.abs(step).max() < 1e-9:
            slope = float(line[1] / spread)
            return float(line[0] - slope * z.mean()), slope
    return None


def _sigmoid(z: Scores) -> Scores:
    found: Scores = 0.5 * (1 + np.tanh(z / 2))
    return found


def ece_floor(p: Scores) -> float:
    """The expected ECE of a perfectly calibrated model with the probabilities `p` (float64, (n,), n > 0).

    The mean over seeded draws of labels, each true with probability `p`; an ECE near it shows no miscalibration.
    """
    rng = np.random.default_rng(0)
    bins = bin_of(p, ECE_BINS)
    return float(np.mean([_ece(rng.random(len(p)) < p, p, bins) for _ in range(FLOOR_DRAWS)]))


def _ece(y: Labels, p: Scores, bins: NDArray[np.int64]) -> float:
    """The gap between mean prediction and mean label in each of `bins`, weighted by rows."""
    return float(np.abs(np.bincount(bins, weights=p - y)).sum() / len(y))


def per_user_auc(
    y: Labels, p: Scores, users: Users
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Each user's AUC, number of rows, and number of pairs of a liked and a disliked row.

    All have shape (distinct users,), in ascending order of user. The AUC is the Mann-Whitney statistic on ranks within
    the user, with mean ranks for ties; NaN for a user with one class.
    """
    codes = np.unique(users, return_inverse=True)[1]
    order = np.lexsort((p, codes))
    codes, scores, liked = codes[order], p[order], y[order].astype(np.float64)
    counts = np.bincount(codes)
    first_of_user = np.cumsum(counts) - counts
    new = np.ones(len(p), dtype=bool)
    new[1:] = (codes[1:] != codes[:-1]) | (scores[1:] != scores[:-1])
    start = np.flatnonzero(new)
    size = np.diff(start, append=len(p))
    rank = np.repeat(start + (size + 1) / 2, size) - first_of_user[codes]
    positives = np.bincount(codes, weights=liked)
    pairs = positives * (counts - positives)
    above = np.bincount(codes, weights=rank * liked) - positives * (positives + 1) / 2
    return np.divide(above, pairs, out=np.full(len(counts), np.nan), where=pairs > 0), counts, pairs
