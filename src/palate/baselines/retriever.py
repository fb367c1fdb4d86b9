"""First stages, which find candidates for a user: by popularity, or by item-kNN over what the user liked."""

from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from palate.samples.build import Samples
from palate.samples.queries import Labels, RowNumbers, item_rows

Floats = NDArray[np.float64]

NEIGHBOURS = 100
"""Items that each item is near to; `benchmarks/retrieve.py` compares."""


@dataclass(frozen=True)
class RetrieverData:
    """The ratings with the role `warmup` or `train`: no validation or test label, and none that is later than a cutoff.

    `user` (n,) int64 counts the users from 0, `item` (n,) int64 are rows of the item table, `rating` (n,) float64 and
    `liked` (n,) bool. `users` and `items` say how many there are.
    """

    user: RowNumbers
    item: RowNumbers
    rating: Floats
    liked: Labels
    users: int
    items: int

    @classmethod
    def of(cls, samples: Samples) -> Self:
        """What may be known of some samples."""
        rows = samples.timeline["split"].is_in(["warmup", "train"]).arg_true().to_numpy()
        rating = samples.timeline["rating"].gather(rows).to_numpy().astype(np.float64)
        users = int(samples.user.max(initial=-1)) + 1
        item = item_rows(samples, rows)
        return cls(samples.user[rows], item, rating, samples.liked[rows], users, samples.items.height)


@dataclass(frozen=True)
class Past:
    """What one user rated, oldest first: `item` rows of the item table, `rating` and `liked`, (r,) each."""

    item: RowNumbers
    rating: Floats
    liked: Labels


class Retriever(Protocol):
    """Finds candidates for a user; the same past gives the same candidates in the same order."""

    def top(self, past: Past, n: int, barred: RowNumbers) -> RowNumbers:
        """The `n` best items (rows of the item table) that are not `barred`, best first; fewer if there are no more."""


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
    def fit(cls, known: RetrieverData) -> Self:
        """Count."""
        ratings = np.bincount(known.item, minlength=known.items)
        likes = np.bincount(known.item[known.liked], minlength=known.items)
        order = np.lexsort((-ratings, -likes))
        return cls(likes, order, np.argsort(order))

    def top(self, past: Past, n: int, barred: RowNumbers) -> RowNumbers:
        """See `Retriever`; the past does not matter."""
        likely = self.order[: n + barred.size]
        return likely[~np.isin(likely, barred)][:n]


@dataclass(frozen=True)
class ItemKNN:
    """Items by the sum of their similarities to what the user liked (Sarwar et al. 2001; Deshpande & Karypis 2004).

        score(j) = Σ_i cos(x_i, x_j)   over the items i that the user liked, j being among i's `NEIGHBOURS` nearest

    x_i holds for each user who liked item i the weight log(1 + items / (1 + likes of that user)): who likes everything
    says little. Items that are near to nothing that was liked follow by popularity, so that a user without likes is
    given what is popular. The neighbours come from `implicit`; `similarity` is a scipy CSR matrix (items, items).
    """

    similarity: Any
    popular: Popularity

    @classmethod
    def fit(cls, known: RetrieverData, neighbours: int = NEIGHBOURS) -> Self:
        """Find each item's neighbours."""
        from implicit.nearest_neighbours import ItemItemRecommender
        from scipy.sparse import csr_matrix

        user, item = known.user[known.liked], known.item[known.liked]
        weight = np.log1p(known.items / (1 + np.bincount(user, minlength=known.users)))[user]
        length = np.sqrt(np.bincount(item, weight**2, minlength=known.items))
        liked = csr_matrix((weight / length[item], (user, item)), (known.users, known.items))
        model = ItemItemRecommender(neighbours)
        model.fit(liked, show_progress=False)
        return cls(model.similarity, Popularity.fit(known))

    def top(self, past: Past, n: int, barred: RowNumbers) -> RowNumbers:
        """See `Retriever`."""
        near = self.similarity[np.unique(past.item[past.liked])]
        score = np.bincount(near.indices, near.data, minlength=self.popular.order.size)
        score[barred] = 0.0
        found = np.flatnonzero(score > 0)
        found = found[np.lexsort((self.popular.rank[found], -score[found]))][:n]
        return np.concatenate([found, self.popular.top(past, n - found.size, np.concatenate([barred, found]))])
