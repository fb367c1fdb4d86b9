"""Samples of made-up users and films, whose columns the slices and rankings read."""

import numpy as np
import polars as pl

from palate.config import PrepareConfig
from palate.ratings.load import Ratings
from palate.samples import Samples, build_samples

GENRES = ("Drama", "Comedy", "Comedy|Drama", "Horror", "(no genres listed)")


def film_samples(users: int = 30, items: int = 50, seed: int = 0, split: str = "user-time") -> Samples:
    """Users of differing generosity rate 20 to 40 of `items` films, one a second; the first users rate last."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(20, 41, size=users)
    user = np.repeat(np.arange(users), sizes)
    item = np.concatenate([rng.permutation(items)[:size] for size in sizes]) + 100
    rating = np.clip(np.round(2 * (3.5 + rng.normal(0, 0.8, users)[user] + rng.normal(0, 1, len(user)))) / 2, 0.5, 5.0)
    frame = pl.DataFrame(
        {"user_id": user, "item_id": item, "rating": rating, "timestamp": np.arange(len(user))[::-1].copy()}
    )
    films = pl.DataFrame(
        {
            "item_id": np.arange(items) + 100,
            "title": [f"Film {i} ({1950 + i})" for i in range(items)],
            "genres": [GENRES[i % len(GENRES)] for i in range(items)],
        }
    )
    ratings = Ratings(frame, films, "films", {"ratings.csv": "0" * 64}, (0.5, 5.0))
    return build_samples(ratings, PrepareConfig(split=split))
