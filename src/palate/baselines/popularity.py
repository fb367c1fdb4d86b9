"""Popularity: what most users liked, the same for everyone."""

from dataclasses import dataclass

import numpy as np

from palate.baselines.retriever import Longs, Past, RetrieverData


@dataclass(frozen=True)
class Popularity:
    """Items by their number of likes, then by their number of ratings, then in the order of the item table.

    `order` (items,) int64 are all rows of the item table, most popular first; `rank` (items,) int64 its inverse.
    """

    order: Longs
    rank: Longs

    @classmethod
    def fit(cls, known: RetrieverData) -> "Popularity":
        """Count."""
        ratings = np.bincount(known.item, minlength=known.items)
        likes = np.bincount(known.item[known.liked], minlength=known.items)
        order = np.lexsort((-ratings, -likes))
        rank = np.empty(known.items, np.int64)
        rank[order] = np.arange(known.items)
        return cls(order, rank)

    def top(self, past: Past, n: int, barred: Longs) -> Longs:
        """See `Retriever`; the past does not matter."""
        return self.first(n, barred)

    def first(self, n: int, barred: Longs) -> Longs:
        """The `n` most popular items that are not `barred`."""
        likely = self.order[: n + barred.size]
        return likely[~np.isin(likely, barred)][:n]
