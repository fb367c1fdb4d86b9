"""AUC with an interval for clustered rows: the rows of a user are dependent.

Obuchowski 1997, "Nonparametric analysis of clustered ROC curve data" (Biometrics 53): the variance of the Mann-Whitney
statistic from each cluster's sum of placements. The method needs one sort and no resampling, so the result does not
depend on a seed or on the order of the users.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Auc:
    """An AUC with its 95 % interval."""

    value: float
    low: float
    high: float


def clustered_auc(score: Floats, yes: Floats, no: Floats, cluster: NDArray[np.integer[Any]]) -> Auc | None:
    """The AUC of cells (rows of one cluster and score), with ties counting half, and its interval over clusters.

    All arguments have shape (cells,): the score, the numbers of liked and of other rows, and the cluster's number from
    0. Returns None if a class is missing or comes from fewer than two clusters, whose spread is then unknown.

    V10 is the share of No rows that a Yes row beats, V01 the share of Yes rows that beat a No row. X and Y are their
    sums in a cluster of m Yes and n No rows, M and N the totals of m and n, and I (I10, I01) the number of clusters
    (with Yes rows, with No rows):

        θ = Σ X / M
        var θ = S10 / M + S01 / N + 2 S11 / (M N)
        S10 = I10 / ((I10 - 1) M) Σ (X - m θ)²,  S01 likewise,  S11 = I / (I - 1) Σ (X - m θ)(Y - n θ)
    """
    all_yes, all_no = yes.sum(), no.sum()
    of_yes, of_no = np.bincount(cluster, yes), np.bincount(cluster, no)
    with_yes, with_no = int((of_yes > 0).sum()), int((of_no > 0).sum())
    if min(with_yes, with_no) < 2:
        return None
    level = np.unique(score, return_inverse=True)[1]
    yes_at, no_at = np.bincount(level, yes), np.bincount(level, no)
    beats = (np.cumsum(no_at) - no_at / 2)[level] / all_no
    beaten = (all_yes - np.cumsum(yes_at) + yes_at / 2)[level] / all_yes
    x, y = np.bincount(cluster, yes * beats), np.bincount(cluster, no * beaten)
    value = float(x.sum() / all_yes)
    off_x, off_y = x - of_yes * value, y - of_no * value
    both = int(((of_yes > 0) | (of_no > 0)).sum())
    s10 = with_yes / ((with_yes - 1) * all_yes) * (off_x**2).sum()
    s01 = with_no / ((with_no - 1) * all_no) * (off_y**2).sum()
    s11 = both / (both - 1) * (off_x * off_y).sum()
    spread = 1.96 * float(np.sqrt(max(0.0, s10 / all_yes + s01 / all_no + 2 * s11 / (all_yes * all_no))))
    # Nine digits hide the order of summation over clusters.
    return Auc(round(value, 9), round(max(0.0, value - spread), 9), round(min(1.0, value + spread), 9))
