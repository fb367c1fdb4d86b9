"""Newest: the samples of a newer run from which an older run did not learn either, for both to be measured on."""

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate.samples.build import ROLES, Samples
from palate.samples.split import SPLITS

Longs = NDArray[np.int64]
_PAIR = ["user_id", "item_id"]
_KEY = [*_PAIR, "timestamp"]
_LEARNED = ["warmup", "train"]


@dataclass(frozen=True)
class Newest:
    """n test samples of a newer run, each after the last rating that the older run learned from.

    `before` are the older run's samples with all newer ratings in their users' timelines, as a service with the older
    models sees them. Nothing is learned from these: their roles are "test", or "unused" where the history is too
    short. The last `guests` users are unknown to the older run. `old` and `new` (n,) are the samples' timeline rows in
    `before`, ascending, and in the newer run.
    """

    before: Samples
    guests: int
    old: Longs
    new: Longs
    newer: int
    """Ratings that the older run lacks."""
    left_out: int
    """Test samples of items that the older run lacks, or behind too few ratings of items that it knows."""


def newest(old: Samples, new: Samples) -> Newest:
    """The newest samples of two runs; `new` has the ratings of `old` and newer ones.

    A user's second rating of an item is none of them, as the older run knows the first.
    """
    then, now = _in_words(old.timeline), _in_words(new.timeline)
    last = old.timeline.filter(pl.col("split").cast(pl.String).is_in(_LEARNED))["timestamp"].max()
    newer = now.join(then, on=_KEY, how="anti", maintain_order="left")
    known = newer.filter(pl.col("item_id").is_in(old.items["item_id"].cast(pl.String).implode()))
    both = pl.concat([then, known.with_columns(split=pl.lit(None, ROLES))])
    users = both.select("user_id").unique(maintain_order=True).with_row_index("user")
    both = both.join(users, on="user_id", how="left", maintain_order="left").sort(
        "user", "timestamp", maintain_order=True
    )
    late = pl.int_range(pl.len()).over("user") >= old.history_len
    role = pl.when(late).then(pl.lit("test", ROLES)).otherwise(pl.lit("unused", ROLES))
    both = both.with_columns(pl.col("split").fill_null(role), old=pl.int_range(pl.len(), dtype=pl.Int64))
    position = new.position[new.of("test")]
    asked = now[position].with_columns(new=position).filter(pl.col("timestamp") > (-1 if last is None else last))
    asked = asked.join(newer.select(_KEY), on=_KEY, how="semi").join(then.select(_PAIR), on=_PAIR, how="anti")
    found = asked.join(both.filter(split="test").select(*_KEY, "old"), on=_KEY).sort("old")
    return Newest(
        _samples(old, both),
        int(users.height - then["user_id"].n_unique()),
        found["old"].to_numpy(),
        found["new"].to_numpy(),
        newer.height,
        asked.height - found.height,
    )


def _in_words(timeline: pl.DataFrame) -> pl.DataFrame:
    """The timeline with ids as text, since those of two runs may have different types."""
    columns = [pl.col(_PAIR).cast(pl.String), "rating", pl.col("timestamp").cast(pl.Int64), "split"]
    return timeline.select(columns)


def _samples(old: Samples, both: pl.DataFrame) -> Samples:
    """The samples of a longer timeline, whose users are texts."""
    item = pl.col("item_id").cast(old.timeline.schema["item_id"])
    timeline = both.select("user_id", item, "rating", "timestamp", "split")
    role = timeline["split"].to_physical().to_numpy().astype(np.int64)
    position = np.flatnonzero((role >= 1) & (role <= len(SPLITS)))
    split = (role[position] - 1).astype(np.uint8)
    return replace(old, timeline=timeline, position=position, split=split, context=None, signals=None, history=None)
