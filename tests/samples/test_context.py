"""Contexts against what they are said to be, and against any rating that must not be in them."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st
from tests.prompt_rows import contexts_of

from palate.config import PrepareConfig
from palate.errors import InputError
from palate.prompt import PromptSpec
from palate.ratings.load import Ratings
from palate.samples import Samples, build_samples, iter_examples
from palate.samples.context import STEPS, context_of

PROMPT = PromptSpec(
    history_line="{n}. {title}, {item_mean:.1f} by {item_count}",
    candidate_line="{title}, {item_mean:.1f} by {item_count}",
)
"""Shows contexts and no ratings, so that nothing else in its text can depend on a rating."""
SPLITS = ("user-time", "global-time")
SCORES = st.sampled_from([0.5, 1.0, 3.7, 4.0, 5.0])


@st.composite
def logs(draw: st.DrawFn) -> Ratings:
    """Some users who rated few items at few moments."""
    rows = [
        (user, draw(st.integers(0, 3)), draw(SCORES), draw(st.integers(0, 12)))
        for user in range(draw(st.integers(2, 6)))
        for _ in range(draw(st.integers(1, 9)))
    ] + [(9, 0, 4.0, time) for time in range(5)]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "rating", "timestamp"], orient="row")
    items = pl.DataFrame({"item_id": range(4), "title": ["Heat (1995)", "M (1931)", "Alien (1979)", "Se7en (1995)"]})
    return Ratings(frame, items, "test", {}, (0.5, 5))


def samples_of(ratings: Ratings, split: str) -> Samples:
    try:
        return build_samples(ratings, PrepareConfig(history_len=2, split=split, val_ratio=0.2, test_ratio=0.3))
    except InputError:  # all that is drawn happens at one moment, and nothing is left to train on
        reject()


def told_of(samples: Samples) -> dict[str, list[dict[str, Any]]]:
    """All examples of all splits, without their answers."""
    return {
        split: [row for chunk in iter_examples(samples, split, PROMPT) for row in chunk.drop("output").to_dicts()]
        for split in ("train", "val", "test")
    }


def mean_and_count(timeline: list[dict[str, Any]], row: dict[str, Any]) -> tuple[float, int]:
    """What is said of a row, from the definition."""
    before = [r for r in timeline if r["split"] in ("warmup", "train") and r["timestamp"] < row["timestamp"]]
    own = [r["rating"] for r in before if r["item_id"] == row["item_id"]]
    overall = sum(r["rating"] for r in before) / len(before) if before else 0
    return (sum(own) + 5 * overall) / (len(own) + 5), len(own)


def coarse(count: int) -> int:
    return max(step for step in STEPS.tolist() if step <= count)


@given(ratings=logs(), split=st.sampled_from(SPLITS))
def test_a_context_is_what_its_definition_says(ratings: Ratings, split: str) -> None:
    samples = samples_of(ratings, split)
    timeline = samples.timeline.to_dicts()

    for row, told in zip(timeline, contexts_of(samples), strict=True):
        mean, count = mean_and_count(timeline, row)
        assert abs(told["item_mean"] - mean) < 0.05 + 1e-9
        assert told["item_mean"] == round(told["item_mean"], 1)
        assert told["item_count"] == coarse(count)


@given(ratings=logs(), split=st.sampled_from(SPLITS), data=st.data())
def test_a_rating_that_is_not_trained_on_is_in_no_prompt(ratings: Ratings, split: str, data: st.DataObject) -> None:
    samples = samples_of(ratings, split)
    secret = samples.timeline["split"].is_in(["val", "test", "unused"])
    planted = _with_ratings(samples.timeline, secret, data)

    other = samples_of(Ratings(planted, ratings.items, "test", {}, (0.5, 5)), split)
    assert other.timeline["split"].equals(samples.timeline["split"])
    assert told_of(other) == told_of(samples)


@given(ratings=logs(), split=st.sampled_from(SPLITS), data=st.data())
def test_no_rating_of_its_own_time_or_later_is_in_a_prompt(ratings: Ratings, split: str, data: st.DataObject) -> None:
    samples = samples_of(ratings, split)
    number = data.draw(st.integers(0, samples.position.size - 1))
    at = int(samples.position[number])
    now = samples.timeline["timestamp"][at]
    planted = _with_ratings(samples.timeline, samples.timeline["timestamp"] >= now, data)  # the target's is among them

    other = samples_of(Ratings(planted, ratings.items, "test", {}, (0.5, 5)), split)
    name = ("train", "val", "test")[samples.split[number]]
    place = samples.of(name).tolist().index(number)
    assert told_of(other)[name][place] == told_of(samples)[name][place]


def _with_ratings(timeline: pl.DataFrame, where: pl.Series, data: st.DataObject) -> pl.DataFrame:
    """The ratings with others drawn for those of some rows."""
    drawn = [data.draw(SCORES) if hidden else rating for hidden, rating in zip(where, timeline["rating"], strict=True)]
    return timeline.drop("split").with_columns(rating=pl.Series(drawn))


def test_a_prompt_tells_the_ratings_that_came_before(make_ratings) -> None:
    times = [(1, "b", 4, 0), (1, "c", 3, 1), (2, "a", 5, 2), (2, "b", 1, 3), (2, "c", 3, 4), (3, "b", 2, 5)]
    rows = [*times, (1, "a", 1, 9), (1, "d", 2, 9), (3, "c", 5, 10), (3, "a", 4, 11)]
    options = PrepareConfig(history_len=2, val_ratio=0, test_ratio=0)
    samples = build_samples(make_ratings(rows, title=list("BCAD")), options)
    (train,) = iter_examples(samples, "train", PROMPT)
    inputs = [text.splitlines() for text in train["input"]]

    # User 1's first target: one 5 for the item, and (4 + 3 + 5 + 1 + 3 + 2) / 6 = 3 for all: (5 + 5 · 3) / 6.
    assert inputs[0][1:3] == ["1. B, 0.0 by 0", "2. C, 4.0 by 0"]
    assert inputs[0][5] == "A, 3.3 by 1"
    # Their second is of the same moment, and does not see the first; the 1 that they gave it is in user 3's.
    assert inputs[1][5] == "D, 3.0 by 0"
    # (5 + 1 + 5 · (18 + 1 + 2 + 5) / 9) / 7
    assert inputs[3][5] == "A, 2.9 by 2"


@pytest.mark.parametrize("split", SPLITS)
def test_the_contexts_of_ml_latest_small(ml_latest_small: Ratings, split: str) -> None:
    samples = build_samples(ml_latest_small, PrepareConfig(split=split))
    told, timeline = contexts_of(samples), samples.timeline
    item, time, rating = (timeline[name].to_numpy() for name in ("item_id", "timestamp", "rating"))
    allowed = timeline["split"].is_in(["warmup", "train"]).to_numpy()

    for row in np.random.default_rng(1).integers(0, timeline.height, 500):
        before = allowed & (time < time[row])
        own = rating[before & (item == item[row])]
        mean = (own.sum() + 5 * rating[before].mean()) / (own.size + 5)
        assert abs(told[row]["item_mean"] - mean) < 0.05 + 1e-9
        assert told[row]["item_count"] == coarse(own.size)
    planted = pl.Series(np.where(allowed, rating, 5.5 - rating))
    other = build_samples(
        Ratings(timeline.drop("split").with_columns(rating=planted), ml_latest_small.items, "test", {}, (0.5, 5)),
        PrepareConfig(split=split),
    )
    assert contexts_of(other) == told


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5), st.booleans()), min_size=9), st.sampled_from([7, 2**60])
)
def test_times_that_leave_no_room_beside_the_items_are_sorted_all_the_same(
    rows: list[tuple[int, int, bool]], step: int
) -> None:
    item, time, allowed = (np.array(column) for column in zip(*rows, strict=True))
    rating = np.arange(item.size) % 5.0

    near = context_of(item.astype(np.uint32), time, rating, allowed)
    far = context_of(item.astype(np.uint32), time * step, rating, allowed)
    assert far.values[far.code].equals(near.values[near.code])


def test_counts_are_told_in_steps() -> None:
    count = np.arange(1001)
    context = context_of(np.zeros(1001, np.uint32), count, np.ones(1001), np.ones(1001, bool))
    told = context.values[context.code]["item_count"]
    assert told.gather([0, 1, 2, 4, 5, 9, 10, 999, 1000]).to_list() == [0, 1, 2, 2, 5, 5, 10, 500, 1000]
