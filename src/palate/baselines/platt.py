"""From a statistic to a probability: Platt scaling (Platt 1999) on validation."""

from collections.abc import Callable

import numpy as np

from palate.baselines.statistics import BaselineData, Floats
from palate.samples.queries import Queries, Scores

Predict = Callable[[Queries], Scores]
"""P(like) of n queries, float64 (n,)."""

SEEDS = 5
"""Number of fits that a randomized baseline averages, so that no model is compared with one lucky seed."""


def platt(data: BaselineData, statistic: Callable[[Queries], Floats]) -> Predict:
    """P(like) by logistic regression on one statistic, float64 (n,), fitted on validation.

    If validation has a single class, the regression uses training instead, although training rows may be part of
    their own statistics. If training has a single class too, the result is the base rate.
    """
    from sklearn.linear_model import LogisticRegression

    fitted_on = next((part for split in ("val", "train") if both_classes((part := data.drawn(split))[1])), None)
    if fitted_on is None:
        return base_rate(data)
    queries, liked = fitted_on
    # scikit-learn's default L2 penalty of 1: negligible on thousands of rows, and it keeps the slope finite on a few.
    model = LogisticRegression().fit(statistic(queries)[:, None], liked)

    def predict(queries: Queries) -> Scores:
        if not len(queries):
            return np.empty(0)
        p: Scores = model.predict_proba(statistic(queries)[:, None])[:, 1]
        return p

    return predict


def base_rate(data: BaselineData) -> Predict:
    """The training base rate for every query."""
    rate = float(data.of_split("train")[1].mean())
    return lambda queries: np.full(len(queries), rate)


def both_classes(liked: np.ndarray) -> bool:
    """Whether the labels contain both classes."""
    return bool(liked.any() and not liked.all())
