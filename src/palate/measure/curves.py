"""Curves of one model's scores: reliability, ROC and the histogram by class, small enough for JSON."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from palate.samples.queries import Labels, Scores


@dataclass(frozen=True)
class ReliabilityBin:
    """One bin of predicted probability: its edges, number of rows, mean prediction and share of likes."""

    low: float
    high: float
    count: int
    mean_p: float | None
    """Mean prediction of the rows in the bin; None for an empty bin."""
    share_liked: float | None
    """Share of the rows in the bin whose label is true; None for an empty bin."""


@dataclass(frozen=True)
class HistogramBin:
    """Scores in one bin, counted by class."""

    low: float
    high: float
    liked: int
    disliked: int


def bin_of(p: Scores, bins: int) -> NDArray[np.int64]:
    """The equal-width bin of each probability, shape (n,): [0, 1/bins) is 0, and 1.0 falls in the last."""
    return np.minimum((p * bins).astype(np.int64), bins - 1)


def reliability(y: Labels, p: Scores, bins: int = 15) -> list[ReliabilityBin]:
    """The reliability curve over equal-width bins (Guo et al. 2017, "On Calibration of Modern Neural Networks").

    `y` and `p` have shape (n,), `p` in [0, 1]. Always `bins` entries, empty ones with None.
    """
    where = bin_of(p, bins)
    count = np.bincount(where, minlength=bins)
    predicted = np.bincount(where, weights=p, minlength=bins)
    liked = np.bincount(where, weights=y, minlength=bins)
    return [
        ReliabilityBin(b / bins, (b + 1) / bins, int(n), float(s / n) if n else None, float(k / n) if n else None)
        for b, (n, s, k) in enumerate(zip(count, predicted, liked, strict=True))
    ]


def histogram(y: Labels, p: Scores, bins: int = 20) -> list[HistogramBin]:
    """Rows in equal-width bins of `p`, counted by class; `y` and `p` have shape (n,), `p` in [0, 1]."""
    liked = np.bincount(bin_of(p[y], bins), minlength=bins)
    disliked = np.bincount(bin_of(p[~y], bins), minlength=bins)
    return [
        HistogramBin(b / bins, (b + 1) / bins, int(yes), int(no))
        for b, (yes, no) in enumerate(zip(liked, disliked, strict=True))
    ]


def roc(y: Labels, p: Scores, max_points: int = 200) -> list[tuple[float, float]]:
    """The ROC curve as (false positive rate, true positive rate), from (0, 0) to (1, 1).

    At most `max_points` points, chosen at equal steps along the curve, ends kept. Empty where a class is missing.
    """
    if not (y.any() and (~y).any()):
        return []
    from sklearn.metrics import roc_curve

    fpr, tpr, _ = roc_curve(y, p)
    if len(fpr) > max_points:
        along = fpr + tpr
        kept = np.unique(np.searchsorted(along, np.linspace(0, along[-1], max_points)).clip(max=len(fpr) - 1))
        fpr, tpr = fpr[kept], tpr[kept]
    return list(zip(fpr.round(5).tolist(), tpr.round(5).tolist(), strict=True))
