"""Samples of ratings whose split is given, with items that have a year and genres."""

import numpy as np
import polars as pl

from palate.samples import Samples
from palate.samples.split import SPLITS

GENRES = ["Comedy", "Drama", "Comedy|Drama", "Horror", "(no genres listed)"]


def samples_of(timeline: pl.DataFrame, rating_threshold: float = 4.0, history_len: int = 15) -> Samples:
    """`timeline` has the columns of `ratings.parquet`; every row of a split is a sample."""
    ids = timeline["item_id"].unique().sort()
    number = np.arange(len(ids))
    titles = [f"Film {i} ({1960 + i % 50})" if i % 7 else f"Film {i}" for i in number.tolist()]
    items = pl.DataFrame({"item_id": ids, "title": titles, "genres": [GENRES[i % 5] for i in number.tolist()]})
    position = timeline["split"].is_in(SPLITS).arg_true().to_numpy().astype(np.int64)
    split = timeline["split"].gather(position).replace_strict(SPLITS, range(3), return_dtype=pl.UInt8).to_numpy()
    return Samples(timeline, items, position, split, rating_threshold, history_len)
