"""A log without leaks, and samples whose roles are changed by hand."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from palate.config import PrepareConfig
from palate.ratings.load import Ratings
from palate.samples import Samples, build_samples
from palate.samples.build import ROLES

USERS, EACH, ITEMS = 30, 40, 80


def clean_log(seed: int = 0, users: int = USERS, each: int = EACH) -> pl.DataFrame:
    """Users who come and go and rate different items at different times; users and items differ in what they get."""
    rng = np.random.default_rng(seed)
    item = np.concatenate([rng.permutation(ITEMS)[:each] for _ in range(users)])
    user = np.repeat(np.arange(users), each)
    time = np.argsort(np.argsort(rng.uniform(0, 2, users)[user] + rng.random(user.size)))
    pleases = rng.normal(size=ITEMS)[item] + rng.normal(size=users)[user] + rng.normal(size=item.size)
    rating = np.clip(np.round(2 * (3.7 + 0.6 * pleases)) / 2, 0.5, 5)
    return pl.DataFrame({"user_id": user, "item_id": item, "rating": rating, "timestamp": 10_000 + 10 * time})


def ratings_of(log: pl.DataFrame, **columns: Sequence[Any]) -> Ratings:
    """The log with a table of its items, ascending, and further columns of that."""
    ids = log["item_id"].unique().sort()
    items = pl.DataFrame({"item_id": ids, "title": [f"Film {n}" for n in ids], **columns})
    return Ratings(log, items, "test", {}, (0.5, 5.0))


def samples_of(log: pl.DataFrame, split: str = "user-time", **columns: Sequence[Any]) -> Samples:
    """The log's samples."""
    return build_samples(ratings_of(log, **columns), PrepareConfig(split=split))  # type: ignore[arg-type]


def replaced(samples: Samples, **columns: Any) -> Samples:
    """The samples of the timeline with other columns, whatever that breaks."""
    timeline = samples.timeline.with_columns(**{name: pl.Series(values) for name, values in columns.items()})
    timeline = timeline.with_columns(pl.col("split").cast(ROLES))
    role = timeline["split"].to_physical().to_numpy()
    position = np.flatnonzero((role >= 1) & (role <= 3))
    return replace(samples, timeline=timeline, position=position, split=(role[position] - 1).astype("u1"))
