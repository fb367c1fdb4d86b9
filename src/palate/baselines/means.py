"""Baselines that are means of training ratings (role "warmup" or "train"); μ is the mean of all of them.

    constant       the training base rate
    user-mean      the mean of the user's training ratings
    item-mean      (sum of the item's training ratings + 5 μ) / (count + 5)
    user-item      the item's mean, plus (sum of the user's residuals from item means) / (count + 5)
    history-mean   the mean of the ratings in the prompt

A user or item without a training rating takes the mean of all. The first four are static: they use training ratings
only. Their statistics include the user's own training ratings, as is usual for these baselines.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from palate.baselines.features import last_rows
from palate.baselines.platt import Predict, base_rate, platt
from palate.baselines.retriever import Past, RetrieverData
from palate.baselines.statistics import BaselineData, Floats
from palate.samples.context import WEIGHT, shrunk
from palate.samples.queries import Queries, RowNumbers

constant = base_rate


@dataclass(frozen=True)
class Means:
    """The shrunk mean and the number of each item's training ratings: (items,) float64 and int64."""

    item_mean: Floats
    item_count: RowNumbers

    @classmethod
    def fit(cls, data: RetrieverData) -> Self:
        """Compute the means from ratings."""
        count = np.bincount(data.item, minlength=data.items)
        total = np.bincount(data.item, data.rating, minlength=data.items)
        return cls(shrunk(total, count, data.rating.mean() if data.rating.size else 0.0), count)

    def user_item(self, past: Past) -> Floats:
        """The user-item prediction of every item for a user with this past, (items,) float64, not clipped."""
        bias = (past.rating - self.item_mean[past.item]).sum() / (past.rating.size + WEIGHT)
        return np.asarray(self.item_mean + bias)


def user_mean(data: BaselineData) -> Predict:
    """The user's mean rating."""
    rated = data.training
    count = np.bincount(rated.user, minlength=rated.users)
    total = np.bincount(rated.user, rated.rating, rated.users)
    mean = np.where(count > 0, total / np.maximum(count, 1), rated.rating.mean())
    return platt(data, lambda queries: mean[data.user[queries.anchor]])


def item_mean(data: BaselineData) -> Predict:
    """The item's mean rating, shrunk."""
    mean = Means.fit(data.training).item_mean
    return platt(data, lambda queries: mean[queries.item])


def user_item(data: BaselineData) -> Predict:
    """Item mean and user bias."""
    rated = data.training
    item = Means.fit(rated).item_mean
    total = np.bincount(rated.user, rated.rating - item[rated.item], rated.users)
    bias = shrunk(total, np.bincount(rated.user, minlength=rated.users))
    return platt(data, lambda queries: item[queries.item] + bias[data.user[queries.anchor]])


def history_mean(data: BaselineData) -> Predict:
    """The mean of the ratings in the prompt; the mean of all for an empty history."""
    overall = float(data.training.rating.mean())

    def mean(queries: Queries) -> Floats:
        rows, exists = last_rows(data, queries)
        count = exists.sum(axis=1)
        shown = (data.rating[rows] * exists).sum(axis=1) / np.maximum(count, 1)
        # Without rounding, the last bits of the sums would make equal means differ.
        return np.where(count > 0, shown.round(9), overall)

    return platt(data, mean)
