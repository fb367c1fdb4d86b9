"""Metrics of recommended lists that ignore relevance: coverage, popularity bias, novelty, diversity.

For the first k items of each of u users, n_i being the training users who rated item i, of n:

    coverage@k     share of the catalogue in any of the lists; it grows with u
    popularity@k   mean of n_i / n over the listed items: the popularity bias
    novelty@k      mean of −log2((n_i + 1) / (n + 1)) over the listed items, in bits (Zhou et al. 2010)
    diversity@k    mean of 1 − |g_i ∩ g_j| / |g_i ∪ g_j| over the pairs of a list, g_i the genres of an item (Ziegler
                   et al. 2005); without pairs that lack genres

Means are over a list first, then over users. A seeded random draw decides among tied items.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from palate.baselines.statistics import BaselineData
from palate.samples.queries import RowNumbers, Scores

LENGTH = 10
"""Items per list."""


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Data of the items: `raters` (items,) int64, training users who rated each; `genres` (items,) uint64, bit g for
    genre g."""

    raters: RowNumbers
    users: int
    """Users with a training rating."""
    genres: NDArray[np.uint64]

    @classmethod
    def of(cls, data: BaselineData) -> Self:
        """The catalogue of samples."""
        rated = data.training
        user, item = np.divmod(np.unique(rated.user * rated.items + rated.item), rated.items)
        return cls(np.bincount(item, minlength=rated.items), len(np.unique(user)), data.content.genres)


def top_items(
    user: RowNumbers, item: RowNumbers, score: Scores, rng: np.random.Generator, length: int = LENGTH
) -> RowNumbers:
    """The `length` items of highest score of each user, (users, length) int64, unordered; −1 fills shorter lists.

    `user` (n,) numbers users from 0, ascending, `item` (n,) are rows of the item table. `rng` decides among tied items.
    """
    counts = np.bincount(user)
    place = np.arange(len(user)) - (np.cumsum(counts) - counts)[user]
    shape = len(counts), max(length, int(counts.max(initial=0)))
    scores, lot, items = np.full(shape, -np.inf), np.full(shape, -1.0), np.full(shape, -1)
    scores[user, place], lot[user, place], items[user, place] = score, rng.random(len(user)), item
    least = np.partition(scores, -length, axis=1)[:, -length, None]
    # Items above the lowest listed score are in, items equal to it are drawn at random, items below are out.
    key = np.where(scores > least, 2.0, np.where(scores == least, lot, -2.0))
    chosen = np.argpartition(key, -length, axis=1)[:, -length:]
    top: RowNumbers = np.take_along_axis(items, chosen, axis=1)
    return top


def list_metrics(top: RowNumbers, catalogue: Catalogue) -> Mapping[str, float | None]:
    """The metrics of lists (users, length) from `top_items`; None for an undefined metric."""
    length, exists = top.shape[1], top >= 0
    raters = catalogue.raters[top]
    similarity = _genre_similarity(top, catalogue.genres)
    found = {
        "coverage": np.unique(top[exists]).size / catalogue.raters.size if exists.any() else None,
        "popularity": _mean(raters / max(1, catalogue.users), exists),
        "novelty": _mean(np.log2((catalogue.users + 1) / (raters + 1)), exists),
        "diversity": _mean(1 - similarity, ~np.isnan(similarity)),
    }
    return {f"{name}@{length}": value for name, value in found.items()}


def _genre_similarity(top: RowNumbers, genres: NDArray[np.uint64]) -> NDArray[np.float64]:
    """The Jaccard similarity of the genres of two listed items, (users, pairs); NaN if an item or its genres miss."""
    one, other = np.triu_indices(top.shape[1], 1)
    bits = np.where(top >= 0, genres[top], np.uint64(0))
    first, second = bits[:, one], bits[:, other]
    union = np.bitwise_count(first | second).astype(np.float64)
    defined = (first > 0) & (second > 0)
    shared = np.bitwise_count(first & second) / np.where(defined, union, 1)
    similarity: NDArray[np.float64] = np.where(defined, shared, np.nan)
    return similarity


def _mean(values: NDArray[np.float64], exists: NDArray[np.bool_]) -> float | None:
    """The mean over users of each row's mean of existing values; None if no value exists."""
    count = exists.sum(axis=1)
    if not count.any():
        return None
    return float((np.where(exists, values, 0).sum(axis=1)[count > 0] / count[count > 0]).mean())
