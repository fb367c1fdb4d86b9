"""Online baselines of a few weights: the user's past up to the moment, and how others rated the item.

    online     w₁ · item mean + w₂ · mean residual of the past + w₃ · mean residual of the history that is shown
    item-knn   the same, + w₄ · what the ratings of similar items in the past come to

A residual is a rating less its item's mean; item means and similarities are out of folds of users. The weights are
those of a logistic regression on the training samples; Platt scaling follows on validation.
"""

from collections.abc import Callable

import numpy as np

from palate.baselines.features import item_mean, neighbour_score, past_residual, recent_residual
from palate.baselines.platt import Predict, base_rate, both_classes, platt
from palate.baselines.statistics import BaselineData, Floats
from palate.samples.queries import Queries


def online_means(known: BaselineData) -> Predict:
    """The user's mean so far, and the item's mean."""
    return _weighted(known, lambda asked: _means(known, asked))


def item_neighbours(known: BaselineData) -> Predict:
    """Item-kNN over the user's whole past."""

    def statistics(asked: Queries) -> list[Floats]:
        return [*_means(known, asked), neighbour_score(known, asked, near=False)[0]]

    return _weighted(known, statistics)


def _means(known: BaselineData, asked: Queries) -> list[Floats]:
    return [item_mean(known, asked), past_residual(known, asked), recent_residual(known, asked)]


def _weighted(known: BaselineData, statistics: Callable[[Queries], list[Floats]]) -> Predict:
    from sklearn.linear_model import LogisticRegression

    asked, liked = known.drawn("train")
    if not both_classes(liked):
        return base_rate(known)
    weights: Floats = LogisticRegression().fit(np.column_stack(statistics(asked)), liked).coef_[0]
    return platt(known, lambda asked: np.column_stack(statistics(asked)) @ weights)
