"""What recommended lists hold, whether or not it is relevant: coverage, popularity bias, novelty, diversity.

For the first k items of each of u users, n_i being the training users who rated item i, of n:

    coverage@k     share of the catalogue that stands in any of the lists; it grows with u
    popularity@k   mean of n_i / n over the listed items: the popularity bias
    novelty@k      mean of −log2((n_i + 1) / (n + 1)) over them, in bits (Zhou et al. 2010)
    diversity@k    mean of 1 − |g_i ∩ g_j| / |g_i ∪ g_j| over the pairs of a list, g_i the genres of an item (Ziegler
                   et al. 2005); pairs without genres are left out

Means are over a list first, then over users. Of tied items chance lists some, with a seed of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from palate.baselines.statistics import BaselineData
from palate.samples.queries import RowNumbers, Scores

LENGTH = 10
"""Items of a list."""


@dataclass(frozen=True, eq=False)
class Catalogue:
    """What is known of the items: `raters` (items,) int64, training users who rated each; `genres` (items,) uint64,
    bit g for genre g."""

    raters: RowNumbers
    users: int
    """Users with a training rating."""
    genres: NDArray[np.uint64]

    @classmethod
    def of(cls, known: BaselineData) -> Self:
        """The catalogue of some samples."""
        rated = known.training
        user, item = np.divmod(np.unique(rated.user * rated.items + rated.item), rated.items)
        return cls(np.bincount(item, minlength=rated.items), len(np.unique(user)), known.content.genres)


def top_items(
    user: RowNumbers, item: RowNumbers, score: Scores, rng: np.random.Generator, length: int = LENGTH
) -> RowNumbers:
    """The `length` items of highest score of each user, (users, length) int64, in no order; −1 where there are fewer.

    `user` (n,) counts users from 0, ascending, `item` (n,) are rows of the item table. Of tied items `rng` draws some.
    """
    counts = np.bincount(user)
    place = np.arange(len(user)) - (np.cumsum(counts) - counts)[user]
    shape = len(counts), max(length, int(counts.max(initial=0)))
    scores, lot, items = np.full(shape, -np.inf), np.full(shape, -1.0), np.full(shape, -1)
    scores[user, place], lot[user, place], items[user, place] = score, rng.random(len(user)), item
    least = np.partition(scores, -length, axis=1)[:, -length, None]
    # Above the least score that is listed: surely in; equal to it: by lot; below: out.
    key = np.where(scores > least, 2.0, np.where(scores == least, lot, -2.0))
    chosen = np.argpartition(key, -length, axis=1)[:, -length:]
    top: RowNumbers = np.take_along_axis(items, chosen, axis=1)
    return top


def list_metrics(top: RowNumbers, catalogue: Catalogue) -> Mapping[str, float | None]:
    """The metrics of lists (users, length), as `top_items` gives them; None where nothing defines one."""
    length, there = top.shape[1], top >= 0
    raters = catalogue.raters[top]
    alike = _alike(top, catalogue.genres)
    found = {
        "coverage": np.unique(top[there]).size / catalogue.raters.size if there.any() else None,
        "popularity": _mean(raters / max(1, catalogue.users), there),
        "novelty": _mean(np.log2((catalogue.users + 1) / (raters + 1)), there),
        "diversity": _mean(1 - alike, ~np.isnan(alike)),
    }
    return {f"{name}@{length}": value for name, value in found.items()}


def _alike(top: RowNumbers, genres: NDArray[np.uint64]) -> NDArray[np.float64]:
    """The share of genres that two items of a list have in common, (users, pairs); NaN without both or genres."""
    one, other = np.triu_indices(top.shape[1], 1)
    bits = np.where(top >= 0, genres[top], np.uint64(0))
    first, second = bits[:, one], bits[:, other]
    union = np.bitwise_count(first | second).astype(np.float64)
    defined = (first > 0) & (second > 0)
    shared = np.bitwise_count(first & second) / np.where(defined, union, 1)
    alike: NDArray[np.float64] = np.where(defined, shared, np.nan)
    return alike


def _mean(values: NDArray[np.float64], there: NDArray[np.bool_]) -> float | None:
    """The mean over users of each row's mean of the values that are there; None where none is."""
    count = there.sum(axis=1)
    if not count.any():
        return None
    return float((np.where(there, values, 0).sum(axis=1)[count > 0] / count[count > 0]).mean())
