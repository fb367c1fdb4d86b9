"""What a prompt may say of how an item was rated: by ratings that are trained on, and that came before.

The plain item mean of the training ratings holds the very label that a training prompt asks for, so a model learns to
trust a figure that knows the answer, and at test time it does not. Leaving only the own rating out is no remedy: what
is left is lower where the answer is Yes and higher where it is No. Ratings that came before know nothing of it, and
mean the same in training and in test (the ordered target statistics of CatBoost, Prokhorenkova et al. 2018).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

WEIGHT = 5.0
"""Imaginary values that a mean is drawn to its prior by; of items, to the mean of all."""
STEPS = np.array([0, *(digit * 10**power for power in range(12) for digit in (1, 2, 5))])
"""Numbers of ratings that are told; others are told as the next lower one."""
UNIT = 1 << 20
"""Ratings are summed up as multiples of 1/UNIT: integers' sums depend on nothing but what is in them."""

Longs = NDArray[np.int64]
Numbers = NDArray[np.int64] | NDArray[np.float64]


def shrunk(total: Numbers, count: Numbers, prior: NDArray[np.float64] | float = 0.0) -> NDArray[np.float64]:
    """Means of `count` values of sum `total`, drawn to `prior` by `WEIGHT` imaginary values."""
    means: NDArray[np.float64] = (total + WEIGHT * prior) / (count + WEIGHT)
    return means


@dataclass(frozen=True)
class Context:
    """What is known of the item of each timeline row at the time of that row.

    `code` (rows,) uint32 is which of the distinct `values` holds there. `values` has `item_mean` (Float64, tenths) and
    `item_count` (Int64, one of `STEPS`).
    """

    code: NDArray[np.uint32]
    values: pl.DataFrame


def context_of(
    item: NDArray[np.uint32], time: Longs, rating: NDArray[np.float64], allowed: NDArray[np.bool_]
) -> Context:
    """The context of rows (n,) in any order: items by number, times, ratings, and which rows may be learned from.

    With n and s the number and the sum of the item's allowed ratings at times strictly earlier than the row's, and μ
    the mean of all items' allowed ratings at such times (0 where there is none):

        item_mean = (s + 5 μ) / (n + 5), to a tenth
        item_count = the largest of 0, 1, 2, 5, 10, 20, 50, … that is not above n

    No row's own rating is in its context, nor another one of the same moment.
    """
    amount = np.rint(rating * UNIT).astype(np.int64)
    amount[~allowed] = 0
    count, total = _earlier(np.zeros(item.size, np.uint32), time, amount, allowed)
    prior = total / np.maximum(count, 1) / UNIT
    count, total = _earlier(item, time, amount, allowed)
    tenth = np.rint(10 * (total / UNIT + WEIGHT * prior) / (count + WEIGHT)).astype(np.int64)
    key = tenth * STEPS.size + np.searchsorted(STEPS, count, side="right") - 1
    distinct = pl.Series(key).unique().sort().to_numpy()
    values = pl.DataFrame({"item_mean": distinct // STEPS.size / 10, "item_count": STEPS[distinct % STEPS.size]})
    return Context(np.searchsorted(distinct, key).astype(np.uint32), values)


def _earlier(group: NDArray[np.uint32], time: Longs, amount: Longs, allowed: NDArray[np.bool_]) -> tuple[Longs, Longs]:
    """For each row how many rows of its group are allowed at earlier times, and the sum of amounts; each (n,) int64."""
    order = _order(group, time)
    new_group, new_moment = _changes(group[order]), _changes(time[order])
    first_of_group, first_of_moment = _first(new_group), _first(new_group | new_moment)

    def earlier(values: NDArray[Any]) -> Longs:
        values = values[order]
        before = np.cumsum(values, dtype=np.int64)
        before -= values
        own = np.empty_like(before)
        own[order] = before[first_of_moment] - before[first_of_group]
        return own

    return earlier(allowed), earlier(amount)


def _order(group: NDArray[np.uint32], time: Longs) -> NDArray[np.uint32]:
    """Rows by group, then time; group and time make one integer where they fit, which sorts faster."""
    early = int(time.min(initial=0))
    bits = (int(time.max(initial=0)) - early).bit_length()
    if int(group.max(initial=0)).bit_length() + bits > 63:
        return np.lexsort((time, group)).astype(np.uint32)
    return np.argsort(group.astype(np.int64) << bits | time - early).astype(np.uint32)


def _changes(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a value is another one than that before; not at the first."""
    changes = np.zeros(values.size, bool)
    np.not_equal(values[1:], values[:-1], out=changes[1:])
    return changes


def _first(new: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """Where the run that each row is in begins, given where new ones do."""
    first = np.arange(new.size, dtype=np.uint32)
    first[~new] = 0
    return np.maximum.accumulate(first, out=first)
