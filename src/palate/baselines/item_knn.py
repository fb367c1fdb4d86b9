"""Item-kNN: items that were liked by the users who liked what this user liked."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from palate.baselines.popularity import Popularity
from palate.baselines.retriever import Longs, Past, RetrieverData

NEIGHBOURS = 100
"""Items that each item is near to; `benchmarks/retrieve.py` compares."""


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
    threshold: float

    @classmethod
    def fit(cls, known: RetrieverData, neighbours: int = NEIGHBOURS) -> "ItemKNN":
        """Find each item's neighbours."""
        from implicit.nearest_neighbours import ItemItemRecommender
        from scipy.sparse import csr_matrix

        user, item = known.user[known.liked], known.item[known.liked]
        weight = np.log1p(known.items / (1 + np.bincount(user, minlength=known.users)))[user]
        length = np.sqrt(np.bincount(item, weight**2, minlength=known.items))
        liked = csr_matrix((weight / length[item], (user, item)), (known.users, known.items))
        model = ItemItemRecommender(neighbours)
        model.fit(liked, show_progress=False)
        return cls(model.similarity, Popularity.fit(known), known.threshold)

    def top(self, past: Past, n: int, barred: Longs) -> Longs:
        """See `Retriever`."""
        liked = np.unique(past.item[past.rating >= self.threshold])
        near = self.similarity[liked]
        score = np.bincount(near.indices, near.data, minlength=self.popular.order.size)
        score[barred] = 0.0
        found = np.flatnonzero(score > 0)
        found = found[np.lexsort((self.popular.rank[found], -score[found]))][:n]
        rest = self.popular.first(n - found.size, np.concatenate([barred, found]))
        return np.concatenate([found, rest])
