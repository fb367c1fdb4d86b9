"""AUC with an interval for rows that come in clusters: the rows of a user are not independent.

Obuchowski 1997, "Nonparametric analysis of clustered ROC curve data" (Biometrics 53): the variance of the
Mann-Whitney statistic from each cluster's sum of placements. No resampling, so nothing depends on a seed or on the
order of the users, and one sort is all that it takes.
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
    """The AUC of cells of rows that share a score, ties counting half, and its interval over clusters.

    All of shape (cells,): the score, how many rows are liked, how many are not, and the cluster as a number from 0.
    None without both classes, or where either comes from fewer than two clusters: their spread is then unknown.

    With V10 the share of No rows that a Yes row beats, V01 the share of Yes rows that beat a No row, X and Y their sums
    in a cluster of m Yes and n No rows, M and N all of those, I (I10, I01) the clusters (with Yes, with No rows):

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
    # To nine digits: the order in which clusters are added up must not show.
    return Auc(round(value, 9), round(max(0.0, value - spread), 9), round(min(1.0, value + spread), 9))
