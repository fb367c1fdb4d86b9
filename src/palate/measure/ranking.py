"""Ranking metrics of each user's candidates, exact in expectation where scores are tied.

Items with equal scores have no order. A metric here is its mean over all orders of the ties (McSherry & Najork 2008,
"Computing Information Retrieval Performance Measures Efficiently in the Presence of Tied Scores"), in closed form: a
constant score gets the value of random order, and the order of the item table has no influence.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from palate.measure.candidates import CandidateSets
from palate.measure.lists import Catalogue, list_metrics, top_items
from palate.samples.queries import Labels, Queries, Scores

KS = (5, 10, 20)
"""Default list lengths."""

Predict = Callable[[Queries], Scores]
"""Returns a score for every query, (n,) float; only the order of scores counts."""


@dataclass(frozen=True, eq=False)
class Ranked:
    """The ranking metrics of one model, per user.

    `values` has (users,) float64 in the order of `sets.anchor`, for each k `ndcg@k`, `hr@k`, `recall@k`, and `mrr`.
    """

    sets: CandidateSets
    values: dict[str, NDArray[np.float64]]
    lists: Mapping[str, float | None] = field(default_factory=dict)
    """Metrics of the first items of all users that ignore relevance; see `palate.measure.lists`."""


def rank(
    sets: CandidateSets,
    predict: Predict,
    *,
    ks: Sequence[int] = KS,
    catalogue: Catalogue | None = None,
) -> Ranked:
    """Score every candidate of every user and compute the ranking metrics; with a `catalogue`, also list metrics.

    Each call of `predict` gets all candidates of one or more users, grouped by user. Raises `ValueError` if it does not
    return one number per pair.
    """
    blocks, tops, rng = [], [], np.random.default_rng(sets.seed)
    for _, user, queries, relevant in sets.chunks():
        score = predict(queries)
        blocks.append(expected(user, score, relevant, ks=ks))
        if catalogue is not None:
            tops.append(top_items(user, queries.item, score, rng))
    values = {name: np.concatenate([np.empty(0), *(block[name] for block in blocks)]) for name in _names(ks)}
    lists = {} if catalogue is None or not tops else list_metrics(np.concatenate(tops), catalogue)
    return Ranked(sets, values, lists)


def expected(
    user: NDArray[np.int64], score: Scores, relevant: Labels, *, ks: Sequence[int] = KS
) -> dict[str, NDArray[np.float64]]:
    """Each metric of each user, (users,) float64, expected over all orders of tied scores.

    `user` (n,) int64 numbers users from 0, ascending; each has a relevant item. With R relevant items of a user and the
    first at rank f (from 1):

        recall@k = relevant items among the first k / R
        hr@k = 1 if f <= k else 0
        mrr = 1 / f
        ndcg@k = sum over the relevant items' ranks i <= k of 1 / log2(i + 1), divided by the maximum for R items
    """
    if score.shape != user.shape or np.isnan(score).any():
        raise ValueError(f"scores {score.shape} of {user.shape} pairs, expected a number for each")
    if not len(user):
        return {name: np.empty(0) for name in _names(ks)}
    total = np.bincount(user, relevant)
    if not total.all():
        raise ValueError("a user has no relevant item, expected at least one of each")
    of, above, size, hits = _ties(user, score, relevant)
    share, last = hits / size, above + size
    reachable = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, max(ks) + 2)))])
    first = np.flatnonzero(np.diff(of, prepend=-1))
    found = {}
    for k in ks:
        begin, end = above.clip(max=k), last.clip(max=k)
        ideal = reachable[total.astype(np.int64).clip(max=k)]
        found[f"ndcg@{k}"] = np.bincount(of, weights=share * (reachable[end] - reachable[begin])) / ideal
        found[f"hr@{k}"] = 1 - _none_among(end[first] - begin[first], size[first], hits[first], k)
        found[f"recall@{k}"] = np.bincount(of, weights=share * (end - begin)) / total
    found["mrr"] = _reciprocal(above[first], size[first], hits[first])
    return {name: found[name] for name in _names(ks)}


def _names(ks: Sequence[int]) -> list[str]:
    """The metrics in the order of tables."""
    return [f"{metric}@{k}" for metric in ("ndcg", "hr", "recall") for k in ks] + ["mrr"]


def _ties(user: NDArray[np.int64], score: Scores, relevant: Labels) -> tuple[NDArray[np.int64], ...]:
    """The groups of equal scores with a relevant item, by user, best first; each array (groups,) int64.

    The arrays: a group's user, the user's items that score above it, its size, and its relevant items. The function
    sorts the scores alone, which is several times as fast as an argsort, and looks up the relevant ones.
    """
    counts = np.bincount(user)
    width = int(counts.max())
    table = np.full((len(counts), width), np.inf)
    table[user, np.arange(len(user)) - (np.cumsum(counts) - counts)[user]] = score
    table.sort(axis=1)
    of, level = user[relevant], score[relevant]
    order = np.lexsort((-level, of))
    of, level = of[order], level[order]
    new = np.ones(len(of), dtype=bool)
    new[1:] = (of[1:] != of[:-1]) | (level[1:] != level[:-1])
    start = np.flatnonzero(new)
    hits = np.diff(start, append=len(of))
    of, level = of[start], level[start]
    levels = np.split(level, np.flatnonzero(np.diff(of)) + 1)
    rows = [table[one, : counts[one]] for one in np.unique(of)]
    below, not_above = (
        np.concatenate([np.searchsorted(row, level, side) for row, level in zip(rows, levels, strict=True)])
        for side in ("left", "right")
    )
    return of, counts[of] - not_above, not_above - below, hits


def _none_among(
    drawn: NDArray[np.int64], size: NDArray[np.int64], hits: NDArray[np.int64], k: int
) -> NDArray[np.float64]:
    """The probability that `drawn` (at most k) of `size` items in random order include no hit; arrays are (users,)."""
    step = np.arange(k)
    missed = (size - hits)[:, None] - step
    still = np.cumprod(missed.clip(min=0) / (size[:, None] - step).clip(min=1), axis=1)
    return np.column_stack([np.ones(len(size)), still])[np.arange(len(size)), drawn]


def _reciprocal(above: NDArray[np.int64], size: NDArray[np.int64], hits: NDArray[np.int64]) -> NDArray[np.float64]:
    """The mean of 1 / rank of the first of `hits` items among `size` in random order, `above` of them before it.

    The first hit is at place x among the tied items with probability C(size - x, hits - 1) / C(size, hits).
    """
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, size.max() + 1)))])

    def log_choose(n: NDArray[np.int64], k: NDArray[np.int64]) -> NDArray[np.float64]:
        chosen: NDArray[np.float64] = log_factorial[n] - log_factorial[k] - log_factorial[n - k]
        return chosen

    places = size - hits + 1
    of = np.repeat(np.arange(len(size)), places)
    x = np.arange(len(of)) - np.repeat(np.cumsum(places) - places, places) + 1
    chance = np.exp(log_choose(size[of] - x, hits[of] - 1) - log_choose(size, hits)[of])
    return np.bincount(of, weights=chance / (above[of] + x)).astype(np.float64)
