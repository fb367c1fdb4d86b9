"""Models that learn: weights of a few statistics, logistic regression (scikit-learn), boosted trees (LightGBM).

    online     w₁ · item mean + w₂ · mean residual of the past + w₃ · mean residual of the history that is shown
    item-knn   the same, + w₄ · what the ratings of similar items in the past come to

A residual is a rating less its item's mean; item means and similarities are out of folds of users. The others learn
from groups of features.

Fitted on the training samples; the trees are stopped early on validation, and both are Platt-scaled on it. Where
validation has not both classes, the trees stop after `ROUNDS`. The trees draw rows and features, so their score is the
mean of `SEEDS` fits.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palate.baselines.features import features_of, item_mean, neighbour_score, past_residual, recent_residual
from palate.baselines.platt import SEEDS, Predict, base_rate, both_classes, platt
from palate.baselines.statistics import BaselineData, Floats
from palate.samples.queries import Labels, Queries

Matrix = NDArray[np.float32]

STOP = 40
"""Trees in a row that validation gains nothing from, after which no more are grown."""
ROUNDS = 100
"""Trees where validation cannot say how many."""
TREES = {
    "objective": "binary",
    "learning_rate": 0.1,
    "num_leaves": 31,
    "min_data_in_leaf": 100,
    "feature_fraction": 0.3,
    "bagging_fraction": 0.6,
    "bagging_freq": 1,
    "lambda_l2": 10.0,
    "deterministic": True,
    "force_row_wise": True,
    "verbose": -1,
}


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


def logistic_regression(groups: Sequence[str]) -> Callable[[BaselineData], Predict]:
    """Fits a logistic regression on groups of features."""

    def fit(known: BaselineData) -> Predict:
        x, liked = _fitted_on(known, "train", groups)
        if not both_classes(liked):
            return base_rate(known)
        logit = _linear(x, liked)
        return platt(known, lambda asked: logit(features_of(known, asked, groups)[1]))

    return fit


def boosted_trees(groups: Sequence[str]) -> Callable[[BaselineData], Predict]:
    """Fits LightGBM on groups of features, from the logit of their logistic regression on.

    What is linear need not be put together from steps: that takes half the time.
    """

    def fit(known: BaselineData) -> Predict:
        import lightgbm

        x, liked = _fitted_on(known, "train", groups)
        if not both_classes(liked):
            return base_rate(known)
        logit = _linear(x, liked)
        training = lightgbm.Dataset(x, liked, init_score=logit(x))
        other, answer = _fitted_on(known, "val", groups)
        watched = None
        if both_classes(answer):
            watched = lightgbm.Dataset(other, answer, reference=training, init_score=logit(other))
        models = [_trees(known.seed + n, training, watched) for n in range(SEEDS)]

        def score(asked: Queries) -> Floats:
            if not len(asked):
                return np.empty(0)
            x = features_of(known, asked, groups)[1]
            grown = np.mean([model.predict(x, raw_score=True) for model in models], axis=0, dtype=np.float64)
            return logit(x) + grown

        return platt(known, score)

    return fit


def _trees(seed: int, training: Any, watched: Any | None) -> Any:
    """Trees (`lightgbm.Booster`) grown with one seed on a `lightgbm.Dataset`, stopped early on another."""
    import lightgbm

    options = TREES | {"seed": seed}
    if watched is None:
        return lightgbm.train(options, training, ROUNDS)
    stop = lightgbm.early_stopping(STOP, verbose=False)
    return lightgbm.train(options, training, 1000, valid_sets=[watched], callbacks=[stop])


def _linear(x: Matrix, liked: Labels) -> Callable[[Matrix], Floats]:
    """The logit of a logistic regression on standardized features, for which one that is not defined is its mean."""
    from sklearn.linear_model import LogisticRegression

    there = ~np.isnan(x)
    mean = np.where(there, x, 0).sum(axis=0, dtype=np.float64) / np.maximum(there.sum(axis=0), 1)
    square = np.where(there, (x - mean) ** 2, 0).sum(axis=0) / np.maximum(there.sum(axis=0), 1)
    std = np.where(square > 0, np.sqrt(square), 1)

    def standard(x: Matrix) -> Floats:
        scaled: Floats = np.nan_to_num((x - mean) / std)
        return scaled

    model = LogisticRegression(C=0.1, max_iter=300).fit(standard(x), liked)
    weights, constant = model.coef_[0], float(model.intercept_[0])

    def logit(x: Matrix) -> Floats:
        # Row by row, so that no question's last bits depend on how many others are asked.
        found: Floats = np.einsum("nc,c->n", standard(x), weights) + constant
        return found

    return logit


def _fitted_on(known: BaselineData, split: str, groups: Sequence[str]) -> tuple[Matrix, Labels]:
    """Features and labels of the samples of a split; a group's features are made once for all models."""
    asked, liked = known.drawn(split)
    for group in groups:
        if (split, group) not in known.kept:
            known.kept[split, group] = features_of(known, asked, [group])[1]
    return np.hstack([known.kept[split, group] for group in groups]), liked
