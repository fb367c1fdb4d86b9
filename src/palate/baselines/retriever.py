"""Retrievers find candidates for a user: by popularity, or by item-kNN over the items that the user liked."""

from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from palate.samples.build import Samples, check_in_memory
from palate.samples.queries import Labels, RowNumbers, item_rows

Floats = NDArray[np.float64]

NEIGHBOURS = 100
"""Neighbours stored per item; `benchmarks/retrieve.py` compares values."""


@dataclass(frozen=True)
class RetrieverData:
    """The ratings with the role `warmup` or `train`: no validation or test label, and none after a time cutoff.

    `user` (n,) int64 numbers the users from 0, `item` (n,) int64 are rows of the item table, `rating` (n,) float64 and
    `liked` (n,) bool. `users` and `items` are the numbers of both.
    """

    user: RowNumbers
    item: RowNumbers
    rating: Floats
    liked: Labels
    users: int
    items: int

    @classmethod
    def of(cls, samples: Samples) -> Self:
        """The training ratings of samples; raises `InputError` for a log on the disk."""
        check_in_memory(samples, "finds candidates")
        rows = samples.timeline["split"].is_in(["warmup", "train"]).arg_true().to_numpy()
        rating = samples.timeline["rating"].gather(rows).to_numpy().astype(np.float64)
        users = int(samples.user.max(initial=-1)) + 1
        item = item_rows(samples, rows)
        return cls(samples.user[rows], item, rating, samples.liked[rows], users, samples.items.height)


@dataclass(frozen=True)
class Past:
    """The ratings of one user, oldest first: `item` (rows of the item table), `rating` and `liked`, (r,) each."""

    item: RowNumbers
    rating: Floats
    liked: Labels


class Retriever(Protocol):
    """Finds candidates for a user; the same past gives the same candidates in the same order."""

    def top(self, past: Past, n: int, barred: RowNumbers) -> RowNumbers:
        """The best `n` items (rows of the item table) outside `barred`, best first; fewer if no more qualify."""


@dataclass(frozen=True)
class Popularity:
    """Items by their number of likes, then by their number of ratings, then in the order of the item table.

    `likes` (items,) int64; `order` (items,) int64 are all rows of the item table, most popular first; `rank` (items,)
    int64 is its inverse.
    """

    likes: RowNumbers
    order: RowNumbers
    rank: RowNumbers

    @classmethod
    def fit(cls, data: RetrieverData) -> Self:
        """Count likes and ratings."""
        ratings = np.bincount(data.item, minlength=data.items)
        likes = np.bincount(data.item[data.liked], minlength=data.items)
        order = np.lexsort((-ratings, -likes))
        return cls(likes, order, np.argsort(order))

    def top(self, past: Past, n: int, barred: RowNumbers) -> RowNumbers:
        """See `Retriever`; `past` has no effect."""
        likely = self.order[: n + barred.size]
        return likely[~np.isin(likely, barred)][:n]


@dataclass(frozen=True)
class ItemKNN:
    """Items by the sum of their similarities to the user's likes (Sarwar et al. 2001; Deshpande & Karypis 2004).

        score(j) = Σ_i cos(x_i, x_j)   over the items i that the user liked and that have j among their neighbours

    x_i has, for each user who liked item i, the weight log(1 + items / (1 + likes of that user)), so users who like
    everything count little. Items without a score follow by popularity, so a user without likes gets popular items.
    `implicit` finds the neighbours; `similarity` is a scipy CSR matrix (items, items).
    """

    similarity: Any
    popular: Popularity

    @classmethod
    def fit(cls, data: RetrieverData, neighbours: int = NEIGHBOURS) -> Self:
        """Find each item's neighbours."""
        from implicit.nearest_neighbours import ItemItemRecommender
        from scipy.sparse import csr_matrix

        user, item = data.user[data.liked], data.item[data.liked]
        weight = np.log1p(data.items / (1 + np.bincount(user, minlength=data.users)))[user]
        length = np.sqrt(np.bincount(item, weight**2, minlength=data.items))
        liked = csr_matrix((weight / length[item], (user, item)), (data.users, data.items))
        model = ItemItemRecommender(neighbours)
        model.fit(liked, show_progress=False)
        return cls(model.similarity, Popularity.fit(data))

    def top(self, past: Past, n: int, barred: RowNumbers) -> RowNumbers:
        """See `Retriever`."""
        near = self.similarity[np.unique(past.item[past.liked])]
        score = np.bincount(near.indices, near.data, minlength=self.popular.order.size)
        score[barred] = 0.0
        found = np.flatnonzero(score > 0)
        found = found[np.lexsort((self.popular.rank[found], -score[found]))][:n]
        return np.concatenate([found, self.popular.top(past, n - found.size, np.concatenate([barred, found]))])
