"""Means that cost nothing. μ is the mean of all known ratings; a known rating has the role "warmup" or "train".

    constant       the training base rate
    user-mean      the mean of the user's known ratings
    item-mean      (sum of the item's known ratings + 5 μ) / (count + 5)
    user-item      the item's mean, plus the user's residuals from such means: their sum / (count + 5)
    history-mean   the mean of the ratings that the prompt shows

Who or what has no known rating takes the mean of all. The first four are static: they know no other rating. Their
statistics are of all known ratings, the user's own included, as these baselines are usually defined.
"""

import numpy as np

from palate.baselines.features import last_rows
from palate.baselines.platt import Predict, base_rate, platt
from palate.baselines.statistics import SHRINKAGE, BaselineData, Floats
from palate.samples.queries import Queries

constant = base_rate


def user_mean(known: BaselineData) -> Predict:
    """The user's mean rating."""
    rows = np.flatnonzero(known.allowed)
    users = int(known.user[-1]) + 1
    count = np.bincount(known.user[rows], minlength=users)
    total = np.bincount(known.user[rows], known.rating[rows], users)
    mean = np.where(count > 0, total / np.maximum(count, 1), known.rating[rows].mean())
    return platt(known, lambda asked: mean[known.user[asked.anchor]])


def item_mean(known: BaselineData) -> Predict:
    """The item's mean rating, shrunk."""
    mean = _item_means(known)
    return platt(known, lambda asked: mean[asked.item])


def user_item(known: BaselineData) -> Predict:
    """Item mean and user bias."""
    item = _item_means(known)
    rows = np.flatnonzero(known.allowed)
    users = int(known.user[-1]) + 1
    residual = known.rating[rows] - item[known.item[rows]]
    count = np.bincount(known.user[rows], minlength=users)
    bias = np.bincount(known.user[rows], residual, users) / (count + SHRINKAGE)
    return platt(known, lambda asked: item[asked.item] + bias[known.user[asked.anchor]])


def history_mean(known: BaselineData) -> Predict:
    """The mean of the ratings that the prompt shows, the mean of all for an empty history."""
    overall = float(known.rating[known.allowed].mean())

    def mean(asked: Queries) -> Floats:
        rows, there = last_rows(known, asked)
        count = there.sum(axis=1)
        shown = (known.rating[rows] * there).sum(axis=1) / np.maximum(count, 1)
        # Rounded, or a sum's last bits would tell apart histories whose means are equal.
        return np.where(count > 0, shown.round(9), overall)

    return platt(known, mean)


def _item_means(known: BaselineData) -> Floats:
    """The shrunk mean of each item, (items,)."""
    rows = np.flatnonzero(known.allowed)
    items = len(known.samples.items)
    count = np.bincount(known.item[rows], minlength=items)
    total = np.bincount(known.item[rows], known.rating[rows], items)
    means: Floats = (total + SHRINKAGE * known.rating[rows].mean()) / (count + SHRINKAGE)
    return means
