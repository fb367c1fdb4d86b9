"""Features of the items' text, from vectors of the candidate and of the user's rated items.

With cos the cosine of the candidate and a rated item, r the residual of the rating and ū the mean residual:

    taste 4, taste 10   Σ w (r − ū) / (Σ w + λ) with w = exp(β (cos − 1)) for β = 4 and 10
    likeness            ln Σ w for β = 10
    nearest liked, nearest disliked
                        the greatest cosine to an item that the user liked, and to one that the user disliked
    text ridge          a regression of the user's residuals so far on `RIDGE` principal components
    text prior          a regression of the items' mean ratings on their vectors
    text 1, 2, …        the candidate's first principal components

All but the last three exist for the whole past and for the last ratings, those in a prompt. All but the last two read
only the user's own past. The prior of an item is fitted on other items (`PARTS` parts) by users of other folds: so no
rating of the candidate is part of it, and it means the same for items without ratings.
"""

import numpy as np
from numpy.typing import NDArray

from palate.baselines.statistics import FOLDS, BaselineData, Floats
from palate.samples.context import WEIGHT
from palate.samples.queries import Queries

KERNELS = {4.0: 0.5, 10.0: 0.01}
"""β and λ of each taste. Validation of ml-latest-small chose λ, `PENALTY` and `PRIOR_PENALTY` among three to five
values: the correlation with what item mean and user mean leave of a rating."""
RIDGE = 32
"""Principal components of the regression on a user's residuals."""
PENALTY = 5.0
"""Its L2 penalty, for components with a mean squared norm of 1."""
PRIOR_PENALTY = 10.0
"""L2 penalty of the prior's regression on vectors of unit length."""
SHOWN = 12
"""Principal components among the features."""
PARTS = 5
"""Parts of items in the cross-fit of the prior."""


def text_features(data: BaselineData, queries: Queries) -> dict[str, Floats]:
    """The columns of n queries, float64 (n,) each; NaN for a nearest item that does not exist; none without vectors."""
    from palate.baselines.text_scans import ridge_scores

    if data.vectors is None:
        return {}
    anchor, item = queries.anchor, queries.item
    order = np.argsort(anchor, kind="stable")
    x = ridge_columns(data.log or data)
    columns = _tastes(data, queries, data.vectors.centred)
    columns["text ridge"] = ridge_scores(anchor, item, order, data.first, data.item, data.residual, x, PENALTY)
    columns["text prior"] = text_prior(data)[data.fold[anchor], item]
    for c, component in enumerate(data.vectors.components.T[:SHOWN]):
        columns[f"text {c + 1}"] = component[item]
    return columns


def _tastes(data: BaselineData, queries: Queries, vectors: NDArray[np.float32]) -> dict[str, Floats]:
    """The columns by kernels and nearest items, for the whole past and the last ratings."""
    from palate.baselines.text_scans import kernel_sums

    betas = np.array(list(KERNELS))
    anchor, first = queries.anchor, data.first[queries.anchor]
    columns: dict[str, Floats] = {}
    for name, window in (("", len(data.rating)), (" of the last", data.samples.history_len)):
        begin = np.maximum(first, anchor - window)
        sums = kernel_sums(anchor, queries.item, begin, data.item, data.residual, data.liked, vectors, betas)
        residual, weight, nearest, mean = sums[:, :2], sums[:, 2:4], sums[:, 4:6], sums[:, 6:]
        taste = (residual - mean * weight) / (weight + np.array(list(KERNELS.values())))
        columns |= {f"taste {beta:g}{name}": values for beta, values in zip(KERNELS, taste.T, strict=True)}
        columns[f"likeness{name}"] = np.log(weight[:, 1] + 1e-6)
        columns[f"nearest liked{name}"], columns[f"nearest disliked{name}"] = nearest.T
    return columns


def ridge_columns(data: BaselineData) -> Floats:
    """The first `RIDGE` components, with a mean squared norm of 1, float64 (items, c); computed once for `data`."""
    if data.vectors is None:
        raise ValueError("the data have no vectors")
    if "columns of ridge" not in data.sums:
        x = data.vectors.components[:, :RIDGE]
        data.sums["columns of ridge"] = np.ascontiguousarray(x / max(np.sqrt((x**2).sum(axis=1).mean()), 1e-12))
    return data.sums["columns of ridge"]


def text_prior(data: BaselineData) -> Floats:
    """The expected mean rating of each item from its vector, for each fold of users, float64 (folds, items).

    A weighted ridge regression on the mean ratings of the items in other parts, by the users outside the fold; an item
    with n of these ratings has the weight n / (n + `WEIGHT`).
    """
    if data.vectors is None:
        raise ValueError("the data have no vectors")
    if data.log is not None:
        return text_prior(data.log)
    if "prior of text" not in data.sums:
        data.sums["prior of text"] = _text_prior(data, data.vectors.centred.astype(np.float64))
    return data.sums["prior of text"]


def _text_prior(data: BaselineData, vectors: Floats) -> Floats:
    rows = np.flatnonzero(data.allowed)
    item, fold, rating = data.item[rows], data.fold[rows], data.rating[rows]
    x = np.hstack([np.ones((len(vectors), 1)), vectors])
    penalty = np.diag(np.append(1e-3, np.full(vectors.shape[1], PRIOR_PENALTY)))
    parts = [np.arange(part, len(x), PARTS) for part in range(PARTS)]
    found = np.empty((FOLDS, len(x)))
    for f in range(FOLDS):
        others = fold != f
        count = np.bincount(item[others], minlength=len(x))
        total = np.bincount(item[others], rating[others], len(x))
        weight, target = count / (count + WEIGHT), total / np.maximum(count, 1)
        own = [_normal(x[among], weight[among], target[among]) for among in parts]
        for part, among in enumerate(parts):
            # A sum of the others: the difference from the sum of all has the part's ratings in its last bits.
            squares, products = (sum(each) for each in zip(*own[:part], *own[part + 1 :], strict=True))
            found[f, among] = x[among] @ np.linalg.solve(squares + penalty, products)
    return found


def _normal(x: Floats, weight: Floats, target: Floats) -> tuple[Floats, Floats]:
    """The matrix and the right side of weighted normal equations."""
    weighted = (x * weight[:, None]).T
    return weighted @ x, weighted @ target
