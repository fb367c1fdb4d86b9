"""Baselines that are means of training ratings (role "warmup" or "train"); μ is the mean of all of them.

    constant       the training base rate
    user-mean      the mean of the user's training ratings
    item-mean      (sum of the item's training ratings + 5 μ) / (count + 5)
    user-item      the item's mean, plus (sum of the user's residuals from item means) / (count + 5)
    history-mean   the mean of the ratings in the prompt

A user or item without a training rating takes the mean of all. The first four are static: they use training ratings
only. Their statistics include the user's own training ratings, as is usual for these baselines.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np

from palate.baselines.features import last_rows
from palate.baselines.platt import State
from palate.baselines.retriever import Past, Popularity, RetrieverData
from palate.baselines.statistics import BaselineData, Floats
from palate.samples.context import WEIGHT, shrunk
from palate.samples.queries import Queries, RowNumbers


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


Score = Callable[[Queries], Floats]


def fit_user_mean(data: BaselineData) -> State:
    """The mean rating of each user, and last that of all."""
    rated = data.training
    count = np.bincount(rated.user, minlength=rated.users)
    total = np.bincount(rated.user, rated.rating, rated.users)
    overall = rated.rating.mean()
    return {"user": np.append(np.where(count > 0, total / np.maximum(count, 1), overall), overall)}


def user_mean(data: BaselineData, state: State) -> Score:
    """The user's mean rating."""
    return lambda queries: state["user"][known_users(data, queries, state["user"])]


def fit_item_mean(data: BaselineData) -> State:
    """The mean rating of each item, shrunk."""
    return {"item": Means.fit(data.training).item_mean}


def item_mean(data: BaselineData, state: State) -> Score:
    """The item's mean rating, shrunk."""
    return lambda queries: state["item"][queries.item]


def fit_user_item(data: BaselineData) -> State:
    """Item means and user biases, last the bias of an unknown user."""
    rated = data.training
    item = Means.fit(rated).item_mean
    total = np.bincount(rated.user, rated.rating - item[rated.item], rated.users)
    bias = shrunk(total, np.bincount(rated.user, minlength=rated.users))
    return {"item": item, "user": np.append(bias, 0.0)}


def user_item(data: BaselineData, state: State) -> Score:
    """Item mean and user bias."""
    return lambda queries: state["item"][queries.item] + state["user"][known_users(data, queries, state["user"])]


def fit_history_mean(data: BaselineData) -> State:
    """The mean of all ratings, for an empty history."""
    return {"overall": np.array(data.training.rating.mean())}


def history_mean(data: BaselineData, state: State) -> Score:
    """The mean of the ratings in the prompt; the mean of all for an empty history."""

    def mean(queries: Queries) -> Floats:
        rows, exists = last_rows(data, queries)
        count = exists.sum(axis=1)
        shown = (data.rating[rows] * exists).sum(axis=1) / np.maximum(count, 1)
        # Without rounding, the last bits of the sums would make equal means differ.
        return np.where(count > 0, shown.round(9), state["overall"])

    return mean


def fit_popularity(data: BaselineData) -> State:
    """The number of likes of each item, as log(1 + likes)."""
    return {"item": np.log1p(Popularity.fit(data.training).likes)}


def known_users(data: BaselineData, queries: Queries, of_users: Floats) -> RowNumbers:
    """The row of each query's user in an array of the fitted users, whose last row is for all others."""
    return np.minimum(data.user[queries.anchor], len(of_users) - 1)
