"""From a statistic to a probability: Platt scaling (Platt 1999) on validation."""

from collections.abc import Callable

import numpy as np

from palate.baselines.statistics import BaselineData, Floats
from palate.samples.queries import Queries, Scores

Predict = Callable[[Queries], Scores]
"""P(like) of n questions, float64 (n,)."""

SEEDS = 5
"""Fits that a baseline with randomness is the mean of, so that no lucky seed is what a model must beat."""


def platt(known: BaselineData, statistic: Callable[[Queries], Floats]) -> Predict:
    """P(like) by logistic regression on one statistic, which is float64 (n,).

    Where validation has one class alone, which fits no slope, on training. That is the poor second choice: its rows
    may be part of their own statistics. Where that has one class too: the base rate.
    """
    from sklearn.linear_model import LogisticRegression

    fitted_on = next((part for split in ("val", "train") if both_classes((part := known.drawn(split))[1])), None)
    if fitted_on is None:
        return base_rate(known)
    asked, liked = fitted_on
    # An L2 penalty of 1 on the slope, scikit-learn's default: nothing on thousands of rows, and finite on a few.
    model = LogisticRegression().fit(statistic(asked)[:, None], liked)

    def predict(asked: Queries) -> Scores:
        if not len(asked):
            return np.empty(0)
        p: Scores = model.predict_proba(statistic(asked)[:, None])[:, 1]
        return p

    return predict


def base_rate(known: BaselineData) -> Predict:
    """The training base rate, whatever is asked."""
    rate = float(known.asked("train")[1].mean())
    return lambda asked: np.full(len(asked), rate)


def both_classes(liked: np.ndarray) -> bool:
    """Whether there is a Yes and a No."""
    return bool(liked.any() and not liked.all())
