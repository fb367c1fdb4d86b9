"""Random ratings, split as the guide splits them."""

import numpy as np
import polars as pl

HISTORY_LEN = 15


def split_by_user_and_time(ratings: pl.DataFrame, history_len: int = HISTORY_LEN) -> pl.DataFrame:
    """The guide's split, for ratings with user_id, item_id, rating, timestamp."""
    ordered = ratings.sort("user_id", "timestamp", maintain_order=True)
    samples = pl.len().over("user_id").cast(pl.Int64) - history_len
    position = pl.int_range(pl.len()).over("user_id") - history_len
    test = pl.max_horizontal(1, (samples * 0.1).floor().cast(pl.Int64))
    val = pl.max_horizontal(1, (samples * 0.05).floor().cast(pl.Int64))
    return ordered.with_columns(
        split=pl.when(samples <= 0)
        .then(pl.lit("unused"))
        .when(position < 0)
        .then(pl.lit("warmup"))
        .when(position >= samples - test)
        .then(pl.lit("test"))
        .when(position >= samples - test - val)
        .then(pl.lit("val"))
        .otherwise(pl.lit("train"))
    )


def random_timeline(users: int = 40, items: int = 60, seed: int = 0) -> pl.DataFrame:
    """Ratings of users of differing generosity for items of differing quality; the last user is too short."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(HISTORY_LEN + 4, items, size=users)
    sizes[-1] = HISTORY_LEN
    user = np.repeat(np.arange(users), sizes)
    item = np.concatenate([rng.permutation(items)[:size] for size in sizes])
    taste, quality = rng.normal(0, 0.8, users), rng.normal(0, 0.8, items)
    rating = np.clip(np.round(2 * (3.5 + taste[user] + quality[item] + rng.normal(0, 0.5, len(user)))) / 2, 0.5, 5.0)
    return split_by_user_and_time(
        pl.DataFrame({"user_id": user, "item_id": item, "rating": rating, "timestamp": np.arange(len(user))})
    )
