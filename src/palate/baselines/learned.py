"""Learned baselines: weighted statistics and logistic regression (scikit-learn), and boosted trees (LightGBM).

    online     w₁ · item mean + w₂ · mean residual of the past + w₃ · mean residual of the shown history
    item-knn   as online, + w₄ · the item-kNN score of the user's past ratings of similar items

A residual is a rating less its item's mean. Item means and similarities are out of folds of users. The other models
learn from groups of features.

Each model is fitted on the training samples and Platt-scaled on validation. The trees stop early on validation, or
after `ROUNDS` if validation lacks a class. The trees sample rows and features, so their score is the mean of `fits`
fits.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palate.baselines.features import features_of, item_mean, neighbour_score, past_residual, recent_residual
from palate.baselines.platt import Fit, State, Statistic, both_classes
from palate.baselines.statistics import BaselineData, Floats
from palate.baselines.trees import Trees
from palate.samples.queries import Labels, Queries, RowNumbers

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
    "force_col_wise": True,  # the same trees as row by row, in two thirds of the time: a tree reads few columns
    "num_threads": 1,  # the fits of several seeds run side by side
    "verbose": -1,
}
SMALL_TREES = {"learning_rate": 0.07, "num_leaves": 15, "max_bin": 63}
"""More and smaller trees on coarser bins: for many features that are predictions already."""


def online_means(data: BaselineData, queries: Queries) -> list[Floats]:
    """The item's mean and the user's mean residuals so far."""
    return [item_mean(data, queries), past_residual(data, queries), recent_residual(data, queries)]


def online_means_then(data: BaselineData, queries: Queries) -> list[Floats]:
    """The same from ratings before the query's time only."""
    then = data.earlier(queries.anchor, queries.item).mean
    return [then, *(residual(data, queries, "residual_then") for residual in (past_residual, recent_residual))]


def item_neighbours(data: BaselineData, queries: Queries) -> list[Floats]:
    """The same with item-kNN over the user's whole past."""
    return [*online_means(data, queries), neighbour_score(data, queries, near=False)[0]]


def item_neighbours_then(data: BaselineData, queries: Queries) -> list[Floats]:
    """The same as of the query's time; the similarities are those of the last snapshot before it."""
    names, _ = features_of(data, queries.take(slice(0)), ["alike-then"])
    nearest = _features(data, queries, ["alike-then"])[:, names.index("nearest then")]
    return [*online_means_then(data, queries), nearest.astype(np.float64)]


def liked_neighbours(data: BaselineData, queries: Queries) -> list[Floats]:
    """The sum of the similarities of the last likes, those in a prompt; older ones only add noise."""
    return [neighbour_score(data, queries, near=True)[1]]


def weighted(statistics: Callable[[BaselineData, Queries], list[Floats]]) -> tuple[Fit, Statistic]:
    """A sum of statistics, weighted by a logistic regression."""

    def fit(data: BaselineData) -> State | None:
        from sklearn.linear_model import LogisticRegression

        queries, liked = data.fitted_on("train")
        if not both_classes(liked):
            return None
        return {"weights": LogisticRegression().fit(np.column_stack(statistics(data, queries)), liked).coef_[0]}

    def score(data: BaselineData, state: State) -> Callable[[Queries], Floats]:
        return lambda queries: np.column_stack(statistics(data, queries)) @ state["weights"]

    return fit, score


def logistic_regression(groups: Sequence[str]) -> tuple[Fit, Statistic]:
    """A logistic regression on groups of features."""

    def fit(data: BaselineData) -> State | None:
        x, liked = _features_and_labels(data, "train", groups)
        return _fit_linear(data, groups, x, liked) if both_classes(liked) else None

    def score(data: BaselineData, state: State) -> Callable[[Queries], Floats]:
        return lambda queries: _linear(state, _features(data, queries, groups))

    return fit, score


def boosted_trees(groups: Sequence[str], **options: Any) -> tuple[Fit, Statistic]:
    """LightGBM on groups of features, with the logit of their logistic regression as initial score.

    The trees need not approximate the linear part by steps, which halves the time. `options` change `TREES`.
    """

    def fit(data: BaselineData) -> State | None:
        import lightgbm

        chosen = options | {"seed": data.seed, "fits": data.fits}
        shared = (*groups, "trees", *(f"{name}={value}" for name, value in sorted(chosen.items())))
        if shared in data.linear:
            return data.linear[shared]
        x, liked = _features_and_labels(data, "train", groups)
        if not both_classes(liked):
            return None
        linear = _fit_linear(data, groups, x, liked)
        bins = {"verbose": -1} | {name: options[name] for name in options if name == "max_bin"}
        training = lightgbm.Dataset(x, liked, init_score=_linear(linear, x), params=bins)
        training.construct()
        # A validation set for each fit: LightGBM names its features anew in each, while another fit may read the names.
        validations: list[Any] = [None] * data.fits
        val_x, val_liked = _features_and_labels(data, "val", groups)
        if both_classes(val_liked):
            given: dict[str, Any] = {"reference": training, "init_score": _linear(linear, val_x), "params": bins}
            validations = [lightgbm.Dataset(val_x, val_liked, **given).construct() for _ in range(data.fits)]
        with ThreadPoolExecutor(min(data.fits, os.cpu_count() or 1)) as pool:
            seeds = [options | {"seed": data.seed + n} for n in range(data.fits)]
            texts = pool.map(lambda seed, held: _trees(seed, training, held).model_to_string(), seeds, validations)
            trees = {f"trees {n}": np.frombuffer(text.encode(), np.uint8) for n, text in enumerate(texts)}
        data.linear[shared] = linear | trees
        return data.linear[shared]

    def score(data: BaselineData, state: State) -> Callable[[Queries], Floats]:
        trees = _read([state[name] for name in state if name.startswith("trees ")])

        def sum_of_trees(queries: Queries) -> Floats:
            if not len(queries):
                return np.empty(0)
            x = _features(data, queries, groups)
            found: Floats = _linear(state, x) + np.mean(trees.sums(x), axis=0)
            return found

        return sum_of_trees

    return fit, score


READ: dict[tuple[int, ...], tuple[Sequence[NDArray[Any]], Trees]] = {}
"""The trees of the last models that were read, by the identities of their texts, which are kept: reading takes time."""


def _read(texts: Sequence[NDArray[Any]]) -> Trees:
    """The trees in texts of LightGBM."""
    key = tuple(map(id, texts))
    found = READ.get(key)
    if found is None:
        found = READ[key] = texts, Trees.read([text.tobytes().decode() for text in texts])
        for oldest in list(READ)[:-8]:
            READ.pop(oldest, None)
    return found[1]


def _trees(options: Mapping[str, Any], training: Any, validation: Any | None) -> Any:
    """Fit a `lightgbm.Booster` on a `lightgbm.Dataset`; stop early on `validation` if there is one."""
    import lightgbm

    options = {**TREES, **options}
    if validation is None:
        return lightgbm.train(options, training, ROUNDS)
    stop = lightgbm.early_stopping(STOP, verbose=False)
    return lightgbm.train(options, training, 1000, valid_sets=[validation], callbacks=[stop])


def _fit_linear(data: BaselineData, groups: Sequence[str], x: Matrix, liked: Labels) -> State:
    """A logistic regression on standardized features; an undefined feature takes its mean.

    Models of the same groups share it.
    """
    from sklearn.linear_model import LogisticRegression

    if tuple(groups) in data.linear:
        return data.linear[tuple(groups)]
    defined = ~np.isnan(x)
    mean = np.where(defined, x, 0).sum(axis=0, dtype=np.float64) / np.maximum(defined.sum(axis=0), 1)
    square = np.where(defined, (x - mean) ** 2, 0).sum(axis=0) / np.maximum(defined.sum(axis=0), 1)
    state = {"mean": mean, "std": np.where(square > 0, np.sqrt(square), 1)}
    model = LogisticRegression(C=0.1, max_iter=300).fit(_standard(state, x), liked)
    data.linear[tuple(groups)] = state | {"weights": model.coef_[0], "constant": model.intercept_[0]}
    return data.linear[tuple(groups)]


def _standard(state: State, x: Matrix) -> Floats:
    scaled: Floats = np.nan_to_num((x - state["mean"]) / state["std"])
    return scaled


def _linear(state: State, x: Matrix) -> Floats:
    """The logit of the logistic regression."""
    # Row by row: a matrix product's last bits would depend on the number of queries.
    found: Floats = np.einsum("nc,c->n", _standard(state, x), state["weights"]) + state["constant"]
    return found


def _features(data: BaselineData, queries: Queries, groups: Sequence[str]) -> Matrix:
    """Features of queries; those of the training samples are computed once for all fits."""
    drawn, _ = data.drawn("train")
    if not len(queries) or not len(drawn):
        return features_of(data, queries, groups)[1]
    at = _places(data, drawn, queries)
    if not ((drawn.anchor[at] == queries.anchor).all() and (drawn.item[at] == queries.item).all()):
        return features_of(data, queries, groups)[1]
    if 2 * len(queries) >= len(drawn):
        _features_and_labels(data, "train", groups)
    if any(("train", group) not in data.features for group in groups):
        return features_of(data, queries, groups)[1]
    return np.hstack([data.features["train", group][at] for group in groups])


def _places(data: BaselineData, drawn: Queries, queries: Queries) -> RowNumbers:
    """Where in `drawn` each query would be, (n,); drawn queries of a log of ratings differ in their anchors."""
    if data.samples.negative is None:
        return np.minimum(np.searchsorted(drawn.anchor, queries.anchor), len(drawn) - 1)
    items = len(data.samples.items)
    key = drawn.anchor * items + drawn.item
    order = np.argsort(key)
    at = np.searchsorted(key, queries.anchor * items + queries.item, sorter=order)
    return order[np.minimum(at, len(drawn) - 1)]


def _features_and_labels(data: BaselineData, split: str, groups: Sequence[str]) -> tuple[Matrix, Labels]:
    """Features and labels of the samples of a split that a fit uses; all models share the features of a group."""
    queries, liked = data.drawn(split)
    for group in groups:
        if (split, group) not in data.features:
            data.features[split, group] = features_of(data, queries, [group])[1]
    x = np.hstack([data.features[split, group] for group in groups])
    if data.without is None or (split != "train" and not data.apart):
        return x, liked
    kept = data.learned(queries)
    return x[kept], liked[kept]
