"""Statistics of an item's earlier training ratings, for the fields `{item_mean}` and `{item_count}` of a prompt.

The plain item mean of the training ratings contains the label of every training prompt, but of no test prompt. A model
would learn to trust it too much. Excluding only the prompt's own rating leaks the label too: the remaining mean is
lower if the answer is Yes and higher if it is No. The mean of earlier ratings has no such leak and means the same in
training and test (ordered target statistics of CatBoost, Prokhorenkova et al. 2018).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

WEIGHT = 5.0
"""Pseudo-count: a mean is shrunk to its prior as if this many values equalled the prior."""
STEPS = np.array([0, *(digit * 10**power for power in range(12) for digit in (1, 2, 5))])
"""Values of `item_count`; other counts are rounded down to the next one."""
UNIT = 1 << 20
"""Ratings are summed as integer multiples of 1/UNIT, because an integer sum does not depend on the order."""

Longs = NDArray[np.int64]
Numbers = NDArray[np.int64] | NDArray[np.float64]


def shrunk(total: Numbers, count: Numbers, prior: NDArray[np.float64] | float = 0.0) -> NDArray[np.float64]:
    """Shrunk means (total + WEIGHT · prior) / (count + WEIGHT) of `count` values with the sum `total`."""
    means: NDArray[np.float64] = (total + WEIGHT * prior) / (count + WEIGHT)
    return means


@dataclass(frozen=True)
class Context:
    """The statistics of each timeline row's item at the time of that row.

    `code` (rows,) uint32 is a row of the table `values`, whose rows are distinct: `item_mean` (Float64, tenths) and
    `item_count` (Int64, one of `STEPS`).
    """

    code: NDArray[np.uint32]
    values: pl.DataFrame


def context_of(
    item: NDArray[np.uint32], time: Longs, rating: NDArray[np.float64], allowed: NDArray[np.bool_]
) -> Context:
    """The context of rows (n,) in any order; a row is `allowed` if models may learn from it.

    Let n and s be the number and the sum of the item's allowed ratings strictly earlier than the row, and μ the mean of
    all items' allowed ratings strictly earlier (0 if there are none):

        item_mean = (s + 5 μ) / (n + 5), rounded to a tenth
        item_count = the largest of 0, 1, 2, 5, 10, 20, 50, … up to n

    A row's context has neither its own rating nor others of the same time.
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
    """The number of allowed rows of each row's group at earlier times, and their sum of amounts; each (n,) int64."""
    order = _order(group, time)
    new_group, new_time = _changes(group[order]), _changes(time[order])
    first_of_group, first_of_time = _first(new_group), _first(new_group | new_time)

    def earlier(values: NDArray[Any]) -> Longs:
        values = values[order]
        before = np.cumsum(values, dtype=np.int64)
        before -= values
        sums = np.empty_like(before)
        sums[order] = before[first_of_time] - before[first_of_group]
        return sums

    return earlier(allowed), earlier(amount)


def _order(group: NDArray[np.uint32], time: Longs) -> NDArray[np.uint32]:
    """Rows by group, then time; if both fit into one integer, that is sorted instead, which is faster."""
    early = int(time.min(initial=0))
    bits = (int(time.max(initial=0)) - early).bit_length()
    if int(group.max(initial=0)).bit_length() + bits > 63:
        return np.lexsort((time, group)).astype(np.uint32)
    return np.argsort(group.astype(np.int64) << bits | time - early).astype(np.uint32)


def _changes(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether each value differs from the one before; False for the first."""
    changes = np.zeros(values.size, bool)
    np.not_equal(values[1:], values[:-1], out=changes[1:])
    return changes


def _first(new: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """The first row of each row's run, from whether each row begins a new run."""
    first = np.arange(new.size, dtype=np.uint32)
    first[~new] = 0
    return np.maximum.accumulate(first, out=first)
