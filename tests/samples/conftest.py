"""Small ratings to build samples from, and the slow and obvious way to build them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from palate.ratings.load import Ratings

SHARED = Path(__file__).parents[3] / "shared" / "data" / "ml-latest-small"


@pytest.fixture(scope="session")
def ml_latest_small() -> Ratings:
    from palate.ratings.load import load_ratings

    if not SHARED.is_dir():
        pytest.skip("ml-latest-small is not there")
    return load_ratings(str(SHARED))


@pytest.fixture
def make_ratings() -> Callable[..., Ratings]:
    """Ratings from (user, item, rating, time) rows; titles and other item columns by item."""

    def make(rows: Sequence[tuple[Any, ...]], **columns: Sequence[Any]) -> Ratings:
        frame = pl.DataFrame(rows, schema=["user_id", "item_id", "rating", "timestamp"], orient="row")
        frame = frame.with_columns(pl.col("rating").cast(pl.Float64))
        ids = frame["item_id"].unique(maintain_order=True)
        columns = columns or {"title": [f"Film {i}" for i in ids]}
        return Ratings(frame, pl.DataFrame({"item_id": ids, **columns}), "test", {"ratings.csv": "0" * 64}, (0.5, 5.0))

    return make


@pytest.fixture
def timeline_of() -> Callable[..., list[tuple[Any, ...]]]:
    """`count` ratings of one user, one a second, all of different items."""

    def timeline(user: Any, count: int, start: int = 0) -> list[tuple[Any, ...]]:
        return [(user, 100 + i, 1.0 + (i * 7 + start) % 5, start + i) for i in range(count)]

    return timeline
