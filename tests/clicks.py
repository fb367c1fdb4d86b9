"""A log of clicks: users who take items of a taste of their own, and popular ones."""

from pathlib import Path

import numpy as np
import polars as pl

from palate.ratings.likes import Likes
from palate.ratings.load import Ratings


def clicks(users: int = 40, items: int = 60, seed: int = 0) -> pl.DataFrame:
    """`user_id`, `item_id`, `timestamp`, in any order; each user takes 12 to 25 items once."""
    rng = np.random.default_rng(seed)
    popularity = 1 / np.arange(2, items + 2)
    rows = []
    for user in range(users):
        weight = popularity * np.where(np.arange(items) % 3 == user % 3, 6.0, 1.0)
        size = int(rng.integers(12, 26))
        taken = rng.choice(items, size, replace=False, p=weight / weight.sum())
        rows += [(user, item, int(time)) for item, time in zip(taken, rng.integers(0, 10_000, size), strict=True)]
    schema = {"user_id": pl.Int64, "item_id": pl.Int64, "timestamp": pl.Int64}
    return pl.DataFrame(rows, schema, orient="row").sample(fraction=1.0, shuffle=True, seed=seed)


def items_of(items: int = 60) -> pl.DataFrame:
    """`item_id`, `title` and `genres`; the genre is the taste."""
    names = [f"{('Red', 'Green', 'Blue')[n % 3]} thing {n}" for n in range(items)]
    return pl.DataFrame(
        {"item_id": range(items), "title": names, "genres": [("A", "B", "C")[n % 3] for n in range(items)]}
    )


LIKES = Likes("popularity", 4)


def click_ratings(likes: Likes = LIKES) -> Ratings:
    """The log as it is read."""
    frame = clicks().select("user_id", "item_id", pl.lit(1.0).alias("rating"), "timestamp")
    return Ratings(frame, items_of(), "clicks", {"clicks.csv": "0" * 64}, (0.0, 1.0), likes=likes)


def write_clicks(folder: Path) -> Path:
    """The log as two tables of a shop; returns that of the clicks."""
    folder.mkdir(parents=True, exist_ok=True)
    clicks().rename({"user_id": "customer_id", "item_id": "sku"}).write_csv(folder / "interactions.csv")
    items_of().rename({"item_id": "sku"}).write_csv(folder / "items.csv")
    return folder / "interactions.csv"
