"""From a statistic to a probability: Platt scaling (Platt 1999) on validation."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palate.baselines.statistics import BaselineData, Floats
from palate.samples.queries import Queries, Scores

Predict = Callable[[Queries], Scores]
"""P(like) of n queries, float64 (n,)."""
State = dict[str, NDArray[Any]]
"""What a fit found: numbers by name, and LightGBM's text as bytes. It predicts for any `BaselineData` of the ratings
that it was fitted on."""
Fit = Callable[[BaselineData], State | None]
"""Fits a model; None if training has one class only."""
Statistic = Callable[[BaselineData, State], Callable[[Queries], Floats]]
"""The score of queries, float64 (n,), before it is scaled to a probability."""


LEAST = 1e-3
"""The slope of a statistic that must rise and does not in the fit: P(like) is nearly constant, in the right order."""


def fit_scale(data: BaselineData, statistic: Callable[[Queries], Floats], *, rises: bool = False) -> State:
    """`scale`: slope and intercept of a logistic regression on one statistic, fitted on validation.

    If validation has a single class, the regression uses training instead, although training rows may be part of
    their own statistics. If training has a single class too, the result is the base rate. With `rises` the slope is at
    least `LEAST`.
    """
    from sklearn.linear_model import LogisticRegression

    samples = data.fitted_on if data.apart else data.drawn
    fitted_on = next((part for split in ("val", "train") if both_classes((part := samples(split))[1])), None)
    if fitted_on is None:
        return base_rate(data)
    queries, liked = fitted_on
    # scikit-learn's default L2 penalty of 1: negligible on thousands of rows, and it keeps the slope finite on a few.
    x = statistic(queries)
    model = LogisticRegression().fit(x[:, None], liked)
    if rises and model.coef_[0, 0] < LEAST:
        rate = liked.mean()
        return {"scale": np.array([LEAST, np.log(rate / (1 - rate)) - LEAST * x.mean()])}
    return {"scale": np.array([model.coef_[0, 0], model.intercept_[0]])}


def scaled(scale: Floats, statistic: Callable[[Queries], Floats]) -> Predict:
    """P(like) = 1 / (1 + exp(−(slope · statistic + intercept)))."""
    from scipy.special import expit

    def predict(queries: Queries) -> Scores:
        p: Scores = expit(scale[0] * statistic(queries) + scale[1])
        return p

    return predict


def base_rate(data: BaselineData) -> State:
    """`rate`: the training base rate."""
    queries, liked = data.of_split("train")
    if data.apart:
        liked = liked[data.learned(queries)]
    return {"rate": np.array(liked.mean() if liked.size else 0.5)}


def both_classes(liked: np.ndarray) -> bool:
    """Whether the labels contain both classes."""
    return bool(liked.any() and not liked.all())
