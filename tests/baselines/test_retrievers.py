"""First stages: what they may know, in what order they answer, and that they answer the same every time."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.examples import examples

from palate.baselines.retriever import ItemKNN, Past, Popularity, Retriever, RetrieverData
from palate.config import PrepareConfig
from palate.ratings.load import Ratings
from palate.samples import Samples, build_samples

NONE = np.zeros(0, np.int64)
Fit = Callable[[RetrieverData], Retriever]
BOTH = pytest.mark.parametrize("fit", [Popularity.fit, ItemKNN.fit])


def known(rows: Sequence[tuple[int, int, float]], items: int) -> RetrieverData:
    """What is known from (user, item, rating)."""
    user, item, rating = (np.array(column) for column in zip(*rows, strict=True))
    return RetrieverData(user, item, rating.astype(np.float64), rating >= 4, int(user.max()) + 1, items)


def past(*pairs: tuple[int, float]) -> Past:
    rating = np.array([r for _, r in pairs], np.float64)
    return Past(np.array([i for i, _ in pairs], np.int64), rating, rating >= 4)


def test_the_popular_come_by_likes_then_by_ratings_then_as_the_item_table_has_them() -> None:
    model = Popularity.fit(known([(0, 3, 5), (1, 3, 5), (0, 1, 4), (1, 2, 4.5), (0, 2, 1), (2, 4, 1)], items=6))
    assert model.top(past(), 6, NONE).tolist() == [3, 2, 1, 4, 0, 5]
    assert model.top(past((3, 5.0)), 2, np.array([3, 1])).tolist() == [2, 4]


def test_neighbours_of_what_was_liked_come_first_then_the_popular() -> None:
    # Users 0 to 3 like items 0 and 1 together, users 4 and 5 items 2 and 3; item 4 is the most popular by far.
    together = [(u, i, 5.0) for u in range(4) for i in (0, 1)] + [(u, i, 5.0) for u in (4, 5) for i in (2, 3)]
    rows = together + [(u, 4, 5.0) for u in range(6, 16)]
    model = ItemKNN.fit(known(rows, items=6))
    assert model.top(past((0, 5.0)), 3, np.array([0])).tolist() == [1, 4, 2]
    assert model.top(past((2, 5.0)), 3, np.array([2])).tolist() == [3, 4, 0]
    assert model.top(past((2, 1.0)), 2, np.array([2])).tolist() == [4, 0], "what was disliked is no neighbour's reason"
    assert model.top(past(), 2, NONE).tolist() == [4, 0]


def test_similarities_are_the_cosines_of_weighted_likes() -> None:
    draw = np.random.default_rng(0)
    likes = draw.random((30, 12)) < 0.3
    user, item = np.nonzero(likes)
    model = ItemKNN.fit(known([(u, i, 5.0) for u, i in zip(user, item, strict=True)], items=12), neighbours=12)
    weighted = likes * np.log1p(12 / (1 + likes.sum(1)))[:, None]
    unit = weighted / np.linalg.norm(weighted, axis=0)
    np.testing.assert_allclose(model.similarity.toarray(), unit.T @ unit, atol=1e-12)


rated = st.tuples(st.integers(0, 7), st.integers(0, 9), st.sampled_from([1.0, 4.0, 5.0]))


@BOTH
@examples(40)
@given(rows=st.lists(rated, min_size=1, max_size=60, unique_by=lambda r: r[:2]), data=st.data())
def test_a_retriever_gives_as_many_different_items_as_there_are_and_none_that_is_barred(
    fit: Fit, rows: list[tuple[int, int, float]], data: st.DataObject
) -> None:
    model = fit(known(rows, items=10))
    own = past(*data.draw(st.lists(st.tuples(st.integers(0, 9), st.sampled_from([1.0, 5.0])), max_size=6)))
    barred = np.array(data.draw(st.lists(st.integers(0, 9), unique=True)), np.int64)
    n = data.draw(st.integers(0, 12))
    found = model.top(own, n, barred)
    assert found.size == min(n, 10 - barred.size)
    assert len({*found.tolist()} - {*barred.tolist()}) == found.size
    np.testing.assert_array_equal(found, fit(known(rows, items=10)).top(own, n, barred))
    np.testing.assert_array_equal(found[:2], model.top(own, min(n, 2), barred))


@pytest.fixture
def samples() -> Samples:
    draw = np.random.default_rng(1)
    rows = [(u, int(i), float(draw.integers(1, 6)), t) for u in range(8) for t, i in enumerate(draw.permutation(20))]
    schema = {"user_id": pl.Int64, "item_id": pl.Int64, "rating": pl.Float64, "timestamp": pl.Int64}
    items = pl.DataFrame({"item_id": range(20), "title": [f"Film {i}" for i in range(20)]})
    ratings = Ratings(pl.DataFrame(rows, schema=schema, orient="row"), items, "test", {}, (1, 5))
    return build_samples(ratings, PrepareConfig(history_len=3, val_ratio=0.2, test_ratio=0.3))


@BOTH
def test_what_validation_and_test_say_is_not_known(samples: Samples, fit: Fit) -> None:
    hidden = pl.col("split").is_in(["val", "test", "unused"])
    turned = pl.when(hidden).then(6 - pl.col("rating")).otherwise("rating").alias("rating")
    other = replace(samples, timeline=samples.timeline.with_columns(turned))
    assert not other.timeline.equals(samples.timeline)
    own: dict[str, Any] = {"past": past((0, 5.0), (7, 4.0)), "n": 20, "barred": NONE}
    found = [fit(RetrieverData.of(each)).top(**own).tolist() for each in (samples, other)]
    assert found[0] == found[1]


def test_what_is_known_are_the_rows_of_warmup_and_training(samples: Samples) -> None:
    rows = samples.timeline.filter(pl.col("split").is_in(["warmup", "train"]))
    found = RetrieverData.of(samples)
    assert found.item.tolist() == rows["item_id"].to_list()
    assert found.user.tolist() == rows["user_id"].to_list()
    assert found.liked.tolist() == (rows["rating"] >= 4).to_list()
