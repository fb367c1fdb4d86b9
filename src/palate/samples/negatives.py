"""Negatives: for each like of a log that has no dislikes, items that its user never took.

A negative of a like of user u at time t is an item that u takes at no time of the log, drawn among the items that
someone had taken by t. With n(i) the number of likes of item i up to t:

    uniform      each of these items is equally likely
    popularity   in proportion to n(i)

A like's negatives are distinct. A like with fewer such items than wanted has all of them.

The first like of an item by anyone is no sample: by the rule no negative is of an item that nobody had taken, so that
"nobody took it before" would tell a like from its negatives.
"""

import numpy as np
from numpy.typing import NDArray

from palate.ratings.likes import Likes

FILE = "negatives.parquet"
"""Prepared data's negatives: `row` (Int64), the row of the like in `ratings.parquet`, and `item_id`, by row."""

Longs = NDArray[np.int64]

BLOCK = 1 << 20
"""Draws in memory at a time."""
ROUNDS = 20
"""Draws for each negative that may hit an item of the user, before `_exactly` lists all items instead."""
CELLS = 1 << 22
"""Pairs of like and item in memory at a time, in `_exactly`."""


def negatives_of(
    user: Longs, item: Longs, time: Longs, like: Longs, likes: Likes, seed: int, known: NDArray[np.bool_] | None = None
) -> tuple[Longs, Longs]:
    """The negatives of some likes: the index in `like` of each, ascending, and its item, (m,) each.

    `user`, `item` (numbers from 0) and `time` (rows,) are the whole log, `like` (n,) the rows that get negatives. Items
    are drawn from the rows that are `known` (rows,), as all of `like` are; None: from all. The same arguments give the
    same negatives.
    """
    order = np.argsort(time, kind="stable")
    if known is not None:
        order = order[known[order]]
    if likes.rule == "uniform":  # each item once, at its first like
        order = order[np.sort(np.unique(item[order], return_index=True)[1])]
    pool, size = item[order], np.searchsorted(time[order], time[like], side="right")
    items = int(item.max(initial=0)) + 1
    taken = np.unique(user * items + item)
    rng = np.random.default_rng(seed)
    of, found = [like[:0]], [item[:0]]
    step = max(1, BLOCK // likes.per_like)
    for begin in range(0, like.size, step):
        own = slice(begin, begin + step)
        drawn = _drawn(rng, user[like[own]] * items, size[own], pool, taken, likes.per_like)
        row, slot = np.nonzero(drawn >= 0)
        of.append(begin + row)
        found.append(drawn[row, slot])
    return np.concatenate(of), np.concatenate(found)


def _drawn(rng: np.random.Generator, first: Longs, size: Longs, pool: Longs, taken: Longs, count: int) -> Longs:
    """`count` distinct items for each like, (n, count) int64; −1 where there are no more.

    An item is one of the first `size` (n,) of `pool`, and `first` (n,) plus the item is not in `taken`, which ascends.
    """
    drawn = np.full((size.size, count), -1, np.int64)
    row, slot = np.divmod(np.arange(drawn.size), count)
    items = int(pool.max(initial=0)) + 1
    for _ in range(ROUNDS):
        if not row.size:
            return drawn
        found = pool[rng.integers(size[row])]
        new = np.flatnonzero(~_is_in(taken, first[row] + found) & (drawn[row] != found[:, None]).all(axis=1))
        # Of equal items that a like draws at once, the first one counts.
        new = new[np.sort(np.unique(row[new] * items + found[new], return_index=True)[1])]
        drawn[row[new], slot[new]] = found[new]
        row, slot = np.delete(row, new), np.delete(slot, new)
    _exactly(rng, np.unique(row), drawn, first, size, pool, taken)
    return drawn


def _exactly(
    rng: np.random.Generator, rows: Longs, drawn: Longs, first: Longs, size: Longs, pool: Longs, taken: Longs
) -> None:
    """Fill the rows of `drawn` that have gaps, with the weights of all items listed.

    The largest log-weights plus Gumbel noise are a weighted draw without replacement (Yellott 1977), as the repeated
    draws of `_drawn` are.
    """
    by_item = np.argsort(pool, kind="stable")
    key = pool[by_item] * (pool.size + 1) + by_item
    each = np.arange(int(pool.max(initial=0)) + 1)
    begin = np.searchsorted(key, each * (pool.size + 1))
    for start in range(0, rows.size, max(1, CELLS // each.size)):
        some = rows[start : start + max(1, CELLS // each.size)]
        weight = np.searchsorted(key, each * (pool.size + 1) + size[some][:, None]) - begin
        weight[_is_in(taken, first[some][:, None] + each)] = 0
        row, slot = np.nonzero(drawn[some] >= 0)
        weight[row, drawn[some][row, slot]] = 0
        score = np.log(weight, where=weight > 0, out=np.full(weight.shape, -np.inf)) + rng.gumbel(size=weight.shape)
        best = np.argsort(-score, axis=1)[:, : drawn.shape[1]]
        best[np.isinf(np.take_along_axis(score, best, axis=1))] = -1
        both = np.hstack([drawn[some], best])
        place = np.argsort(both < 0, axis=1, kind="stable")[:, : drawn.shape[1]]
        drawn[some] = np.take_along_axis(both, place, axis=1)


def _is_in(ascending: Longs, values: Longs) -> NDArray[np.bool_]:
    """Whether each value is in an ascending array that is not empty."""
    at = np.minimum(np.searchsorted(ascending, values), ascending.size - 1)
    found: NDArray[np.bool_] = ascending[at] == values
    return found
