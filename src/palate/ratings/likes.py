"""Likes: a log of clicks, purchases or play counts, which has no dislikes, read as ratings of 1."""

import dataclasses
import sys
from typing import Literal, NamedTuple

import polars as pl

from palate.ratings.rating_table import RatingTable

SCALE = (0.0, 1.0)
NO_LIKE, REPEATED = "no like", "repeated like"
"""The reasons for which a row is left out."""
COUNTS = (0.0, sys.float_info.max)
"""The range of a number of plays."""


class Likes(NamedTuple):
    """How the likes of a log get negatives, see `palate.samples.negatives`."""

    rule: Literal["uniform", "popularity"]
    per_like: int


def first_likes(table: RatingTable) -> RatingTable:
    """Each user's first like of each item, as a rating of 1; the other rows are left out.

    Every row is a like, or, if the table counts plays, every row with a count above zero.
    """
    taken = table.frame.with_row_index("row").filter(pl.col("rating") > 0)
    first = taken.sort("timestamp", maintain_order=True).unique(["user_id", "item_id"], keep="first")["row"].implode()
    reason = (
        pl.when(pl.col("rating") <= 0).then(pl.lit(NO_LIKE)).when(~pl.int_range(pl.len()).is_in(first))
        .then(pl.lit(REPEATED))
    )  # fmt: skip
    kept = table.without(table.frame.select(reason.alias("reason")).to_series())
    return dataclasses.replace(kept, frame=kept.frame.with_columns(rating=pl.lit(1.0)))
