"""Means that cost nothing. μ is the mean of all known ratings; a known rating has the role "warmup" or "train".

    constant       the training base rate
    user-mean      the mean of the user's known ratings
    item-mean      (sum of the item's known ratings + 5 μ) / (count + 5)
    user-item      the item's mean, plus the user's residuals from such means: their sum / (count + 5)
    history-mean   the mean of the ratings that the prompt shows

Who or what has no known rating takes the mean of all. The first four are static: they know no other rating. Their
statistics are of all known ratings, the user's own included, as these baselines are usually defined.
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
    """The shrunk mean of each item's known ratings, and their number: (items,) float64 and int64."""

    item_mean: Floats
    item_count: RowNumbers

    @classmethod
    def fit(cls, known: RetrieverData) -> Self:
        """Add up."""
        count = np.bincount(known.item, minlength=known.items)
        total = np.bincount(known.item, known.rating, minlength=known.items)
        return cls(shrunk(total, count, known.rating.mean() if known.rating.size else 0.0), count)

    def user_item(self, past: Past) -> Floats:
        """User-item of every item for a user with this past, (items,) float64; it may leave the scale of ratings."""
        bias = (past.rating - self.item_mean[past.item]).sum() / (past.rating.size + WEIGHT)
        return np.asarray(self.item_mean + bias)


def user_mean(known: BaselineData) -> Predict:
    """The user's mean rating."""
    rated = known.training
    count = np.bincount(rated.user, minlength=rated.users)
    total = np.bincount(rated.user, rated.rating, rated.users)
    mean = np.where(count > 0, total / np.maximum(count, 1), rated.rating.mean())
    return platt(known, lambda asked: mean[known.user[asked.anchor]])


def item_mean(known: BaselineData) -> Predict:
    """The item's mean rating, shrunk."""
    mean = Means.fit(known.training).item_mean
    return platt(known, lambda asked: mean[asked.item])


def user_item(known: BaselineData) -> Predict:
    """Item mean and user bias."""
    rated = known.training
    item = Means.fit(rated).item_mean
    total = np.bincount(rated.user, rated.rating - item[rated.item], rated.users)
    bias = shrunk(total, np.bincount(rated.user, minlength=rated.users))
    return platt(known, lambda asked: item[asked.item] + bias[known.user[asked.anchor]])


def history_mean(known: BaselineData) -> Predict:
    """The mean of the ratings that the prompt shows, the mean of all for an empty history."""
    overall = float(known.training.rating.mean())

    def mean(asked: Queries) -> Floats:
        rows, there = last_rows(known, asked)
        count = there.sum(axis=1)
        shown = (known.rating[rows] * there).sum(axis=1) / np.maximum(count, 1)
        # Rounded, or a sum's last bits would tell apart histories whose means are equal.
        return np.where(count > 0, shown.round(9), overall)

    return platt(known, mean)
