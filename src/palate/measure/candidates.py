"""Candidate sets: the items to rank for each user, and the relevant ones among them.

Metrics on sampled candidates are not consistent with metrics on all items: two models can change places (Krichene &
Rendle 2020, "On Sampled Metrics for Item Recommendation"). All items are the default, and sampled sets are labelled.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate.errors import InputError
from palate.samples import Samples
from palate.samples.queries import Queries, RowNumbers, item_rows

PAIRS = 1 << 19
"""Pairs of user and item in memory at once (about 30 MiB with scores); affects speed and memory, not results."""


@dataclass(frozen=True, eq=False)
class CandidateSets:
    """For each of u users the items to rank just before the user's first rating of a split.

    `anchor` (u,) int64 is the position of the user's first sample of the split: the history ends before it, and items
    rated in the history are excluded. `start` (u,) int64 is the user's first timeline row, `rated` (timeline rows,)
    int64 the item row of each timeline row. `user` and `item` (r,) int64 are the relevant pairs, by user: the distinct
    items that the user liked in the split.
    """

    anchor: RowNumbers
    start: RowNumbers
    rated: RowNumbers
    user: RowNumbers
    item: RowNumbers
    items: int
    """Items in the catalogue."""
    negatives: int | None
    """Items sampled for each user beside the relevant ones; None: every item that the user had not rated before."""
    unranked: int
    """Users without a liked sample in the split, for whom ranking metrics are undefined."""
    seed: int

    def __len__(self) -> int:
        return len(self.anchor)

    def chunks(self) -> Iterator[tuple[slice, NDArray[np.int64], Queries, NDArray[np.bool_]]]:
        """All pairs in chunks of whole users: the slice of users, and for each pair the user's number within the chunk
        (n,), the query (n,), and whether the item is relevant (n,). Users are in order, their candidates by item row.

        Equal seeds give equal candidates, whatever `PAIRS`.
        """
        rng = np.random.default_rng(self.seed)
        step = max(1, PAIRS // max(1, self.items))
        for first in range(0, len(self), step):
            users = slice(first, min(first + step, len(self)))
            relevant, candidate = self._masks(users, rng)
            user, item = np.nonzero(candidate)
            yield users, user, Queries(self.anchor[users][user], item), relevant[candidate]

    def _masks(self, users: slice, rng: np.random.Generator) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Masks of the relevant items and of the candidates of some users, each (users, items)."""
        start, anchor = self.start[users], self.anchor[users]
        counts = anchor - start
        seen = np.repeat(anchor - np.cumsum(counts), counts) + np.arange(counts.sum())
        candidate = np.ones((len(anchor), self.items), dtype=bool)
        candidate[np.repeat(np.arange(len(anchor)), counts), self.rated[seen]] = False
        own = slice(*np.searchsorted(self.user, [users.start, users.stop]))
        relevant = np.zeros_like(candidate)
        relevant[self.user[own] - users.start, self.item[own]] = True
        if self.negatives is None or self.negatives >= self.items:
            return relevant, candidate
        lot = rng.random(candidate.shape)
        lot[~candidate | relevant] = np.inf
        drawn = np.argpartition(lot, self.negatives, axis=1)[:, : self.negatives]
        chosen = relevant.copy()
        np.put_along_axis(chosen, drawn, True, axis=1)
        return relevant, candidate & chosen


def candidate_sets(
    samples: Samples,
    *,
    split: str = "test",
    users: pl.Series | Sequence[Any] | None = None,
    negatives: int | None = None,
    seed: int = 13,
) -> CandidateSets:
    """The candidate sets of the users of a split, or of the users with the ids `users`.

    The sets exclude users without a liked sample in the split; `unranked` counts them. A liked item that the user had
    rated before is neither a candidate nor relevant. With `negatives`, each user gets that many items, sampled
    uniformly without replacement, instead of all.

    Raises `InputError` for an item that the item table lacks, and for users without samples in the split.
    """
    if negatives is not None and negatives < 1:
        raise InputError(f"{negatives} sampled candidates, expected at least one", "negatives")
    rated = item_rows(samples)
    code = samples.user
    own = samples.of(split)
    position, liked = samples.position[own], samples.label[own]
    if users is not None:
        wanted = _wanted(samples, position, pl.Series(users))
        position, liked = position[wanted], liked[wanted]
    sampled, first = np.unique(code[position], return_index=True)
    anchor = position[first]
    items = samples.items.height
    anchor_of = np.zeros(int(code.max(initial=-1)) + 1, np.int64)
    anchor_of[sampled] = anchor
    before = np.flatnonzero(np.arange(len(code)) < anchor_of[code])
    pairs = np.unique(code[position[liked]] * items + rated[position[liked]])
    pairs = np.setdiff1d(pairs, code[before] * items + rated[before], assume_unique=False)
    ranked = np.unique(pairs // items)
    return CandidateSets(
        anchor=anchor_of[ranked],
        start=samples.first[anchor_of[ranked]],
        rated=rated,
        user=np.searchsorted(ranked, pairs // items),
        item=pairs % items,
        items=items,
        negatives=negatives,
        unranked=len(sampled) - len(ranked),
        seed=seed,
    )


def _wanted(samples: Samples, position: RowNumbers, users: pl.Series) -> NDArray[np.bool_]:
    """A mask of the samples of the wanted users; raises `InputError` for a user without samples."""
    present = samples.timeline["user_id"].gather(position)
    missing = users.filter(~users.is_in(present.implode()))
    if len(missing):
        raise InputError(f"user {missing[0]!r} has no samples in the split, expected users who do", "users")
    wanted: NDArray[np.bool_] = present.is_in(users.implode()).to_numpy()
    return wanted
