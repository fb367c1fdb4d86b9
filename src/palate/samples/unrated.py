"""Unrated pairs: items that a training sample's user never rated, with the sample's history, for a teacher to label.

An unrated pair of a sample of user u at time t is an item that u rated in no split, drawn in proportion to its number
of ratings up to t that models may learn from (roles "warmup" and "train"). So no held-out answer decides which items
are drawn, and none of them is new at that time. A sample's pairs are distinct; one with fewer such items has all.
"""

from dataclasses import replace

import numpy as np
import polars as pl

from palate.errors import InputError
from palate.ratings.likes import Likes
from palate.samples.build import Samples, check_in_memory, with_negatives
from palate.samples.negatives import Longs, negatives_of
from palate.samples.queries import Queries, item_rows


def with_unrated(samples: Samples, each: int, seed: int) -> Samples:
    """The samples, each of training followed by up to `each` unrated pairs; without signals.

    The pairs are in `negative`, as the negatives of likes. Raises `InputError` for a log of likes, and for one on the
    disk.
    """
    if samples.negative is not None:
        raise InputError(
            "these are likes with negatives, which the user never took either: expected 0", "train.unrated"
        )
    check_in_memory(samples, "draws unrated pairs")
    train, timeline = samples.of("train"), samples.timeline
    known = timeline["split"].is_in(["warmup", "train"]).to_numpy()
    of, item = negatives_of(
        samples.user, item_rows(samples), timeline["timestamp"].to_numpy(), samples.position[train],
        Likes("popularity", each), seed, known,
    )  # fmt: skip
    return with_negatives(replace(samples, signals=None), train[of], item)


def rated_sample(samples: Samples) -> Longs:
    """The number among the rated training samples of each training sample of `with_unrated`, or of its pair's, (n,)."""
    assert samples.negative is not None
    return np.asarray(np.cumsum(samples.negative[samples.of("train")] < 0) - 1)


def unrated_pairs(samples: Samples) -> Queries:
    """The unrated pairs of `with_unrated`, in order."""
    assert samples.negative is not None
    rows = np.flatnonzero(samples.negative >= 0)
    return Queries(samples.position[rows], samples.negative[rows])


def with_signals(samples: Samples, rated: pl.DataFrame, unrated: pl.DataFrame) -> Samples:
    """The samples of `with_unrated` with the signals of the rated ones and of the pairs, in order each."""
    assert samples.negative is not None
    order = np.argsort(samples.negative >= 0, kind="stable")
    return replace(samples, signals=pl.concat([rated, unrated])[np.argsort(order)])
