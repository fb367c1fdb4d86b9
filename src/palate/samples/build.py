"""From ratings to samples: each user's ratings in order of time, and an index of what is asked of them."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate.config import PrepareConfig
from palate.errors import InputError
from palate.ratings import Ratings
from palate.samples.split import SPLITS, split_by_time, split_by_user

ROLES = pl.Enum(["warmup", *SPLITS, "unused"])
"""What becomes of a rating: a sample of a split, a user's warm-up, or nothing."""


@dataclass(frozen=True)
class Samples:
    """All samples, as an index into the users' timelines.

    `timeline` holds all ratings, users ascending, then by timestamp, ties in file order: `user_id`,
    `item_id`, `rating`, `timestamp` and `split` (`ROLES`). `position` (n,) int64 is the row of each
    sample's candidate in it, ascending; the sample's history are the `history_len` rows before. `split`
    (n,) uint8 is 0 for train, 1 for val, 2 for test; `label` (n,) bool is True for a Yes. `items` has
    `item_id`, `title` and what else is known of the items.

    What may be learned from is "warmup" and "train". A warm-up rating that comes after the cutoff of a
    global-time split is "unused" for that reason, though it is part of a history.
    """

    timeline: pl.DataFrame
    items: pl.DataFrame
    position: NDArray[np.int64]
    split: NDArray[np.uint8]
    label: NDArray[np.bool_]
    history_len: int

    def of(self, split: str) -> NDArray[np.int64]:
        """The samples of a split, as indices into `position`, in timeline order."""
        return np.flatnonzero(self.split == SPLITS.index(split))


def build_samples(ratings: Ratings, options: PrepareConfig) -> Samples:
    """Order the ratings, make every rating after a user's first `history_len` a sample, and split them.

    Raises `InputError` if the threshold is outside the ratings' scale, if no user is long enough, or if a global
    cutoff leaves nothing to train on.
    """
    low, high = ratings.scale
    if not low < options.rating_threshold <= high:
        every = "Yes" if options.rating_threshold <= low else "No"
        raise InputError(
            f"{options.rating_threshold:g} makes every answer {every}, expected one above {low:g} and up to {high:g}",
            "prepare.rating_threshold",
        )
    need = options.history_len
    timeline = ratings.frame.sort("user_id", "timestamp", maintain_order=True)
    counts = timeline["user_id"].rle().struct.field("len").to_numpy().astype(np.int64)
    longest = int(counts.max(initial=0))
    if longest <= need:
        raise InputError(
            f"no user has more than {need} ratings, the longest history has {longest}; "
            f"expected at least {need + 1}, or a smaller history_len",
            ratings.name,
        )
    rank = np.arange(timeline.height) - np.repeat(np.cumsum(counts) - counts, counts)
    long_enough = np.repeat(counts > need, counts)
    position = np.flatnonzero(long_enough & (rank >= need))
    role = np.where(long_enough, np.uint8(0), np.uint8(len(SPLITS) + 1))
    if options.split == "user-time":
        split = split_by_user(counts[counts > need] - need, options.val_ratio, options.test_ratio)
    else:
        times = timeline["timestamp"].to_numpy()
        split, cutoffs = split_by_time(times[position], options.val_ratio, options.test_ratio)
        reached = [cutoff for cutoff in cutoffs if cutoff is not None]
        if reached:
            role[long_enough & (times >= min(reached))] = len(SPLITS) + 1
    role[position] = split + 1
    return Samples(
        timeline.with_columns(split=pl.Series(ROLES.categories, dtype=ROLES).gather(role)),
        ratings.items,
        position,
        split,
        timeline["rating"].to_numpy()[position] >= options.rating_threshold,
        need,
    )
