"""Candidate sets: which items are ranked for which user, and which of them the user came to like.

Ranking among a few sampled items is another measure than ranking among all: its expectation bends the whole curve, and
two models can change places (Krichene & Rendle 2020, "On Sampled Metrics for Item Recommendation"). All items are the
default, and sets that are sampled say so.
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
"""Pairs of user and item held at once (some 30 MiB with their scores); affects speed and memory, not results."""


@dataclass(frozen=True, eq=False)
class CandidateSets:
    """For each of u users the items to rank, as one would have asked before the first rating of a split.

    `anchor` (u,) int64 is the position of the user's first sample of the split: what lies before it is known, and the
    items rated there are no candidates. `start` (u,) int64 is the user's first row of the timeline, `rated`
    (timeline rows,) int64 the item row of each. `user` and `item` (r,) int64 are the relevant pairs, by user: items
    that the user liked in the split, each once.
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
    """Users with samples in the split of which none is liked: no order of items is better for them than another."""
    seed: int

    def __len__(self) -> int:
        return len(self.anchor)

    def chunks(self) -> Iterator[tuple[slice, NDArray[np.int64], Queries, NDArray[np.bool_]]]:
        """All pairs, some whole users at a time: which users, and of each pair the user among them (n,), what is
        asked (n,), and whether it is relevant (n,); users in order, their candidates by item row.

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
        """Which items are relevant for some users and which are candidates, each (users, items)."""
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
    """What to rank for the users of a split, or for those of them whose ids are `users`.

    A user without a liked sample in the split is left out and counted, in `unranked`. A liked item that the user had
    rated before is no candidate, so it is not relevant either. `negatives` asks for that many sampled items a user,
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
    asked, first = np.unique(code[position], return_index=True)
    anchor = position[first]
    items = samples.items.height
    anchor_of = np.zeros(int(code.max(initial=-1)) + 1, np.int64)
    anchor_of[asked] = anchor
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
        unranked=len(asked) - len(ranked),
        seed=seed,
    )


def _wanted(samples: Samples, position: RowNumbers, users: pl.Series) -> NDArray[np.bool_]:
    """Which samples are of the wanted users; an `InputError` for a user who has none."""
    there = samples.timeline["user_id"].gather(position)
    missing = users.filter(~users.is_in(there.implode()))
    if len(missing):
        raise InputError(f"user {missing[0]!r} has no samples in the split, expected users who do", "users")
    wanted: NDArray[np.bool_] = there.is_in(users.implode()).to_numpy()
    return wanted
