"""Split samples: the last ones of each user, all after one cutoff in time, or those of items held out."""

import numpy as np
from numpy.typing import NDArray

from palate.errors import InputError
from palate.store.scratch import blocks_of

SPLITS = ("train", "val", "test")
TRAIN, VAL, TEST = range(3)


def split_by_user(counts: NDArray[np.int64], val_ratio: float, test_ratio: float) -> NDArray[np.uint8]:
    """Each user's last samples are test, those before them validation, the rest training.

    `counts` (u,) are the users' numbers of samples, all positive; returns (sum of counts,) uint8. Of n samples
    max(1, ⌊test_ratio·n⌋) are test and max(1, ⌊val_ratio·n⌋) validation; none if the ratio is 0. A user with too few
    samples for all three gets a training sample first, then a test sample.
    """
    test = np.minimum(_share(counts, test_ratio), counts - 1)
    val = np.minimum(_share(counts, val_ratio), counts - 1 - test)
    splits = np.array([TRAIN, VAL, TEST], np.uint8)
    return np.repeat(np.tile(splits, counts.size), np.column_stack([counts - val - test, val, test]).ravel())


def _share(counts: NDArray[np.int64], ratio: float) -> NDArray[np.int64]:
    """max(1, ⌊ratio·n⌋) in floating point, the same as `int(ratio * n)`; 0 for a ratio of 0."""
    if ratio == 0:
        return np.zeros_like(counts)
    return np.maximum(1, (ratio * counts).astype(np.int64))


def split_by_time(
    times: NDArray[np.int64], val_ratio: float, test_ratio: float
) -> tuple[NDArray[np.uint8], tuple[int | None, int | None]]:
    """One cutoff for all users: samples from the later cutoff on are test, from the earlier one on validation.

    `times` (n,) in any order; returns (n,) uint8 and the two cutoffs (val, test), None for a ratio of 0. All samples at
    a cutoff's time go to the later side, so every test sample is later than every other sample. Raises `InputError` if
    no samples are left to train on.
    """
    cutoffs = time_cutoffs(times, val_ratio, test_ratio)
    return split_at(times, cutoffs), cutoffs


def time_cutoffs(times: NDArray[np.int64], val_ratio: float, test_ratio: float) -> tuple[int | None, int | None]:
    """The cutoffs of `split_by_time`, which raises the same; the times are counted, not sorted."""
    rest = times.size
    cutoffs: list[int | None] = []
    for ratio in (test_ratio, val_ratio):
        if ratio == 0 or rest == 0:
            cutoffs.append(None)
            continue
        cutoff = _of_rank(times, max(0, rest - max(1, int(ratio * times.size))))
        rest = sum(int(np.count_nonzero(times[block] < cutoff)) for block in blocks_of(times.size))
        cutoffs.append(cutoff)
    if rest == 0:
        raise InputError(
            f"one cutoff in time leaves none of {times.size:,} samples to train on, expected ratings at more times",
            "prepare.split",
        )
    return cutoffs[1], cutoffs[0]


def split_at(times: NDArray[np.int64], cutoffs: tuple[int | None, int | None]) -> NDArray[np.uint8]:
    """The split of samples at these times (n,) by the cutoffs (val, test), (n,) uint8."""
    split = np.full(times.size, TRAIN, np.uint8)
    for cutoff, which in zip(cutoffs, (VAL, TEST), strict=True):
        if cutoff is not None:
            split[times >= cutoff] = which
    return split


def _of_rank(values: NDArray[np.int64], rank: int) -> int:
    """The value with `rank` values before it in order: each pass counts those in 65,536 ranges and takes one range."""
    low, high = int(values.min()), int(values.max())
    while low < high:
        shift = max(0, (high - low).bit_length() - 16)
        counts = np.zeros((high - low >> shift) + 1, np.int64)
        for block in blocks_of(values.size):
            within = values[block][(values[block] >= low) & (values[block] <= high)]
            counts += np.bincount(within - low >> shift, minlength=counts.size)
        ends = np.cumsum(counts)
        chosen = int(np.searchsorted(ends, rank, side="right"))
        rank -= int(ends[chosen] - counts[chosen])
        low, high = low + (chosen << shift), min(high, low + (chosen + 1 << shift) - 1)
    return low


def cold_items(items: int, share: float, seed: int) -> NDArray[np.uint8]:
    """The only split that each of `items` items may appear in, (items,) uint8; `TRAIN` for items without a limit.

    A `share` of the items, drawn with the seed and rounded to at least one, is `TEST`, and as many others are `VAL`.
    """
    count = max(1, round(share * items))
    drawn = np.random.default_rng(seed).permutation(items)
    only = np.full(items, TRAIN, np.uint8)
    only[drawn[:count]] = TEST
    only[drawn[count : 2 * count]] = VAL
    return only
