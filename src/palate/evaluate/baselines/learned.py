"""Models that learn from features: logistic regression (scikit-learn) and gradient-boosted trees (LightGBM).

Fitted on the training samples; the trees are stopped early on validation, and both are Platt-scaled on it. Where
validation has not both classes, the trees stop after `ROUNDS`.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from palate.evaluate.asked import Asked
from palate.evaluate.baselines.calibrated import Predict, base_rate, both_classes, platt
from palate.evaluate.curves import Labels
from palate.evaluate.features import features_of
from palate.evaluate.known import Floats, Known

Matrix = NDArray[np.float32]

TRAINING = 500_000
"""Samples that are learned from at most, drawn with the seed: what memory bears."""
STOP = 40
"""Trees in a row that validation gains nothing from, after which no more are grown."""
ROUNDS = 200
"""Trees where validation cannot say how many."""
TREES = {
    "objective": "binary",
    "learning_rate": 0.05,
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


def logistic_regression(groups: Sequence[str]) -> Callable[[Known], Predict]:
    """Fits a logistic regression on groups of features, each standardized; one that is not defined is its mean."""

    def fit(known: Known) -> Predict:
        from sklearn.linear_model import LogisticRegression

        x, liked = _fitted_on(known, "train", groups)
        if not both_classes(liked):
            return base_rate(known)
        mean, std = np.nanmean(x, axis=0), np.nanstd(x, axis=0)
        mean, std = np.nan_to_num(mean), np.where(std > 0, std, 1).astype(np.float32)

        def standard(x: Matrix) -> Matrix:
            scaled: Matrix = np.nan_to_num((x - mean) / std)
            return scaled

        model = LogisticRegression(C=0.1, max_iter=300).fit(standard(x), liked)
        weights: Floats = model.coef_[0]

        def score(asked: Asked) -> Floats:
            return standard(features_of(known, asked, groups)[1]) @ weights

        return platt(known, score)

    return fit


def boosted_trees(groups: Sequence[str]) -> Callable[[Known], Predict]:
    """Fits LightGBM on groups of features."""

    def fit(known: Known) -> Predict:
        import lightgbm

        x, liked = _fitted_on(known, "train", groups)
        if not both_classes(liked):
            return base_rate(known)
        training = lightgbm.Dataset(x, liked)
        options = TREES | {"seed": known.seed}
        other, answer = _fitted_on(known, "val", groups)
        if both_classes(answer):
            watched = lightgbm.Dataset(other, answer, reference=training)
            stop = lightgbm.early_stopping(STOP, verbose=False)
            model = lightgbm.train(options, training, 1000, valid_sets=[watched], callbacks=[stop])
        else:
            model = lightgbm.train(options, training, ROUNDS)

        def score(asked: Asked) -> Floats:
            if not len(asked):
                return np.empty(0)
            return np.asarray(model.predict(features_of(known, asked, groups)[1], raw_score=True), np.float64)

        return platt(known, score)

    return fit


def _samples(known: Known, split: str) -> tuple[Asked, Labels]:
    """The samples of a split, at most `TRAINING` of them."""
    asked, liked = known.asked(split)
    if len(asked) <= TRAINING:
        return asked, liked
    rows = np.sort(np.random.default_rng(known.seed).choice(len(asked), TRAINING, replace=False))
    return asked.take(rows), liked[rows]


def _fitted_on(known: Known, split: str, groups: Sequence[str]) -> tuple[Matrix, Labels]:
    """Features and labels of the samples of a split; a group's features are made once for all models."""
    asked, liked = _samples(known, split)
    for group in groups:
        if (split, group) not in known.kept:
            known.kept[split, group] = features_of(known, asked, [group])[1]
    return np.hstack([known.kept[split, group] for group in groups]), liked
