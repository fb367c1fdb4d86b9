"""What means think of an item: two predictions that cost nothing, to stand beside each recommendation."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from palate.baselines.retriever import Longs, Past, RetrieverData

WEIGHT = 5.0
"""Ratings that the mean of all counts for in the mean of one item, and no deviation in that of one user."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Means:
    """Ratings as means predict them, on the scale of the ratings.

        item_mean(j) = (Σ r_j + 5 μ) / (n_j + 5)                          over the ratings that may be known
        user_item(j) = item_mean(j) + Σ (r_i − item_mean(i)) / (n + 5)    over the n items i of the user's past

    `item_mean` (items,) float64, `item_count` (items,) int64 are by row of the item table.
    """

    item_mean: Floats
    item_count: Longs

    @classmethod
    def fit(cls, known: RetrieverData) -> "Means":
        """Add up."""
        count = np.bincount(known.item, minlength=known.items)
        total = np.bincount(known.item, known.rating, minlength=known.items)
        overall = known.rating.mean() if known.rating.size else 0.0
        return cls((total + WEIGHT * overall) / (count + WEIGHT), count)

    def user_item(self, past: Past) -> Floats:
        """Of every item for one user, (items,) float64; it may leave the scale."""
        bias = (past.rating - self.item_mean[past.item]).sum() / (past.rating.size + WEIGHT)
        return np.asarray(self.item_mean + bias)
