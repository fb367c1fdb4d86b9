"""Learned baselines: weighted statistics and logistic regression (scikit-learn), and boosted trees (LightGBM).

    online     w₁ · item mean + w₂ · mean residual of the past + w₃ · mean residual of the shown history
    item-knn   as online, + w₄ · the item-kNN score of the user's past ratings of similar items

A residual is a rating less its item's mean. Item means and similarities are out of folds of users. The other models
learn from groups of features.

Each model is fitted on the training samples and Platt-scaled on validation. The trees stop early on validation, or
after `ROUNDS` if validation lacks a class. The trees sample rows and features, so their score is the mean of `SEEDS`
fits.
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
"""Early stopping: the number of trees in a row without a gain on validation."""
ROUNDS = 100
"""Number of trees without early stopping."""
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


def online_means(data: BaselineData) -> Predict:
    """Logistic weights of the item's mean and the user's mean residuals so far."""
    return _weighted(data, lambda queries: _means(data, queries))


def item_neighbours(data: BaselineData) -> Predict:
    """Item-kNN over the user's whole past."""

    def statistics(queries: Queries) -> list[Floats]:
        return [*_means(data, queries), neighbour_score(data, queries, near=False)[0]]

    return _weighted(data, statistics)


def _means(data: BaselineData, queries: Queries) -> list[Floats]:
    return [item_mean(data, queries), past_residual(data, queries), recent_residual(data, queries)]


def _weighted(data: BaselineData, statistics: Callable[[Queries], list[Floats]]) -> Predict:
    from sklearn.linear_model import LogisticRegression

    queries, liked = data.drawn("train")
    if not both_classes(liked):
        return base_rate(data)
    weights: Floats = LogisticRegression().fit(np.column_stack(statistics(queries)), liked).coef_[0]
    return platt(data, lambda queries: np.column_stack(statistics(queries)) @ weights)


def logistic_regression(groups: Sequence[str]) -> Callable[[BaselineData], Predict]:
    """Fits a logistic regression on groups of features."""

    def fit(data: BaselineData) -> Predict:
        x, liked = _features_and_labels(data, "train", groups)
        if not both_classes(liked):
            return base_rate(data)
        logit = _linear(x, liked)
        return platt(data, lambda queries: logit(features_of(data, queries, groups)[1]))

    return fit


def boosted_trees(groups: Sequence[str]) -> Callable[[BaselineData], Predict]:
    """Fits LightGBM on groups of features, with the logit of their logistic regression as initial score.

    The trees need not approximate the linear part by steps, which halves the time.
    """

    def fit(data: BaselineData) -> Predict:
        import lightgbm

        x, liked = _features_and_labels(data, "train", groups)
        if not both_classes(liked):
            return base_rate(data)
        logit = _linear(x, liked)
        training = lightgbm.Dataset(x, liked, init_score=logit(x))
        val_x, val_liked = _features_and_labels(data, "val", groups)
        validation = None
        if both_classes(val_liked):
            validation = lightgbm.Dataset(val_x, val_liked, reference=training, init_score=logit(val_x))
        models = [_trees(data.seed + n, training, validation) for n in range(SEEDS)]

        def score(queries: Queries) -> Floats:
            if not len(queries):
                return np.empty(0)
            x = features_of(data, queries, groups)[1]
            trees = np.mean([model.predict(x, raw_score=True) for model in models], axis=0, dtype=np.float64)
            return logit(x) + trees

        return platt(data, score)

    return fit


def _trees(seed: int, training: Any, validation: Any | None) -> Any:
    """Fit a `lightgbm.Booster` on a `lightgbm.Dataset` with one seed; stop early on `validation` if there is one."""
    import lightgbm

    options = TREES | {"seed": seed}
    if validation is None:
        return lightgbm.train(options, training, ROUNDS)
    stop = lightgbm.early_stopping(STOP, verbose=False)
    return lightgbm.train(options, training, 1000, valid_sets=[validation], callbacks=[stop])


def _linear(x: Matrix, liked: Labels) -> Callable[[Matrix], Floats]:
    """The logit of a logistic regression on standardized features; an undefined feature takes its mean."""
    from sklearn.linear_model import LogisticRegression

    defined = ~np.isnan(x)
    mean = np.where(defined, x, 0).sum(axis=0, dtype=np.float64) / np.maximum(defined.sum(axis=0), 1)
    square = np.where(defined, (x - mean) ** 2, 0).sum(axis=0) / np.maximum(defined.sum(axis=0), 1)
    std = np.where(square > 0, np.sqrt(square), 1)

    def standard(x: Matrix) -> Floats:
        scaled: Floats = np.nan_to_num((x - mean) / std)
        return scaled

    model = LogisticRegression(C=0.1, max_iter=300).fit(standard(x), liked)
    weights, constant = model.coef_[0], float(model.intercept_[0])

    def logit(x: Matrix) -> Floats:
        # Row by row: a matrix product's last bits would depend on the number of queries.
        found: Floats = np.einsum("nc,c->n", standard(x), weights) + constant
        return found

    return logit


def _features_and_labels(data: BaselineData, split: str, groups: Sequence[str]) -> tuple[Matrix, Labels]:
    """Features and labels of the samples of a split; all models share the features of a group."""
    queries, liked = data.drawn(split)
    for group in groups:
        if (split, group) not in data.features:
            data.features[split, group] = features_of(data, queries, [group])[1]
    return np.hstack([data.features[split, group] for group in groups]), liked
