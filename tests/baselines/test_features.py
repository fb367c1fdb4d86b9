"""Features against the same sums, one question at a time."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.examples import examples
from tests.rated import samples_of
from tests.timelines import random_timeline

from palate.baselines import features, statistics
from palate.baselines.features import GROUPS, features_of, neighbour_score
from palate.baselines.learned import item_neighbours_then, online_means_then
from palate.baselines.registry import STRONGEST_THEN
from palate.baselines.statistics import BaselineData
from palate.samples import Samples
from palate.samples.queries import Queries

SAMPLES = samples_of(random_timeline())
KNOWN = BaselineData.of(SAMPLES)


def some(count: int = 40, seed: int = 1) -> Queries:
    """Any rows of the timeline as anchors, but the users' first ones; any items."""
    rng = np.random.default_rng(seed)
    anchors = np.flatnonzero(KNOWN.first != np.arange(len(KNOWN.first)))
    return Queries(rng.choice(anchors, count), rng.integers(len(SAMPLES.items), size=count))


def column(name: str, asked: Queries, group: str) -> np.ndarray:
    names, matrix = features_of(KNOWN, asked, [group])
    return matrix[:, names.index(name)]


def others(row: int) -> np.ndarray:
    """The known rows of users outside the fold of a row's user."""
    return np.flatnonzero(KNOWN.allowed & (KNOWN.fold != KNOWN.fold[row]))


def naive_item_mean(item: int, row: int) -> float:
    rows = others(row)
    own = rows[KNOWN.item[rows] == item]
    return (KNOWN.rating[own].sum() + 5 * KNOWN.rating[rows].mean()) / (len(own) + 5)


@cache
def naive_item_means(fold: int) -> np.ndarray:
    row = int(np.flatnonzero(KNOWN.fold == fold)[0])
    return np.array([naive_item_mean(item, row) for item in range(60)])


@cache
def naive_similarity(i: int, j: int, fold: int) -> float:
    """By the residuals of the users who rated both."""
    row = int(np.flatnonzero(KNOWN.fold == fold)[0])
    rows = others(row)
    residual = KNOWN.rating[rows] - naive_item_means(int(KNOWN.fold[row]))[KNOWN.item[rows]]
    pairs = []
    for user in np.unique(KNOWN.user[rows]):
        own = KNOWN.user[rows] == user
        value = dict(zip(KNOWN.item[rows][own], residual[own] - residual[own].sum() / (own.sum() + 5), strict=True))
        if i in value and j in value:
            pairs.append((value[i], value[j]))
    if not pairs:
        return 0.0
    x, y = np.array(pairs).T
    n = len(pairs)
    return float((x * y).sum() / np.sqrt((x**2).sum() * (y**2).sum()) * (n - 1) / (n - 1 + 50))


def test_item_statistics_come_from_the_users_of_other_folds() -> None:
    asked = some()
    expected = [naive_item_mean(i, a) for a, i in zip(asked.anchor, asked.item, strict=True)]
    np.testing.assert_allclose(column("item mean", asked, "item"), expected, rtol=1e-6)
    liked = [
        (KNOWN.liked[rows][KNOWN.item[rows] == i].sum() + 5 * KNOWN.liked[rows].mean())
        / ((KNOWN.item[rows] == i).sum() + 5)
        for a, i in zip(asked.anchor, asked.item, strict=True)
        for rows in [others(a)]
    ]
    np.testing.assert_allclose(column("item liked", asked, "item"), liked, rtol=1e-6)


@pytest.mark.parametrize("near", [True, False])
def test_the_neighbours_score_is_the_weighted_mean_of_what_the_user_rated(near: bool) -> None:
    asked = some(8)
    score, weight = neighbour_score(KNOWN, asked, near=near)
    for q, (anchor, item) in enumerate(zip(asked.anchor, asked.item, strict=True)):
        past = np.arange(KNOWN.first[anchor], anchor)
        residual = KNOWN.rating[past] - naive_item_means(int(KNOWN.fold[anchor]))[KNOWN.item[past]]
        mean = residual[-15:].mean() if near else residual.sum() / (len(past) + 2)
        window = slice(-15, None) if near else slice(None)
        s = np.array(
            [naive_similarity(item, KNOWN.item[r], KNOWN.fold[anchor]) if KNOWN.item[r] != item else 0 for r in past]
        )
        s, residual = s[window], residual[window]
        assert weight[q] == pytest.approx(abs(s).sum(), abs=1e-5)
        expected = (s * (residual - mean)).sum() / (abs(s).sum() + (0.5 if near else 1.0))
        assert score[q] == pytest.approx(expected, abs=1e-5)


def test_of_many_neighbours_the_most_similar_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    every = BaselineData.of(SAMPLES).neighbours
    monkeypatch.setattr(statistics, "NEIGHBOURS", 10)
    few = BaselineData.of(SAMPLES).neighbours
    for fold in range(2):
        for item in range(5):
            of_all = abs(every.similarity[every.start[fold, item] : every.start[fold, item + 1]])
            kept = abs(few.similarity[few.start[fold, item] : few.start[fold, item + 1]])
            assert sorted(kept) == sorted(of_all)[-10:]


def test_a_genre_is_liked_as_far_as_its_past_ratings_lie_above_the_users_others() -> None:
    asked = some()
    found = column("genres' residual", asked, "past-item")
    genres = [set() if "(" in text else set(text.split("|")) for text in SAMPLES.items["genres"].to_list()]
    for q, (anchor, item) in enumerate(zip(asked.anchor, asked.item, strict=True)):
        past = np.arange(KNOWN.first[anchor], anchor)
        residual = KNOWN.residual[past] - KNOWN.residual[past].mean()
        liking = [
            (own := residual[[genre in genres[i] for i in KNOWN.item[past]]]).sum() / (len(own) + 5)
            for genre in genres[item]
        ]
        assert found[q] == pytest.approx(np.mean(liking) if liking else 0.0, abs=1e-5)


def test_the_past_is_told_by_its_count_mean_likes_and_deviation() -> None:
    asked = some()
    _, matrix = features_of(KNOWN, asked, ["past"])
    for q, anchor in enumerate(asked.anchor):
        past = KNOWN.rating[KNOWN.first[anchor] : anchor]
        expected = [np.log1p(len(past)), past.mean(), (past >= 4).mean(), past.std()]
        np.testing.assert_allclose(matrix[q], expected, atol=2e-4)


def test_an_empty_history_has_features_too() -> None:
    names, matrix = features_of(KNOWN, Queries(np.array([0]), np.array([3])), list(GROUPS))
    assert np.isnan(matrix[0, names.index("last mean")])
    assert np.isfinite(matrix[0, names.index("item mean + past residual")])


def test_items_of_which_only_the_title_is_known_have_no_columns_of_content() -> None:
    bare = BaselineData.of(replace(SAMPLES, items=SAMPLES.items.select("item_id", title=pl.lit("Film"))))
    names, matrix = features_of(bare, some(), list(GROUPS))
    assert not {"Comedy", "year", "alike in genre", "genres' residual"} & set(names)
    assert matrix.shape == (40, len(names))


def test_neither_the_order_of_questions_nor_the_size_of_chunks_changes_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = some(200)
    mixed = np.random.default_rng(2).permutation(200)
    _, whole = features_of(KNOWN, asked, list(GROUPS))
    monkeypatch.setattr(features, "CHUNK", 7)
    _, parts = features_of(KNOWN, asked.take(mixed), list(GROUPS))
    assert np.array_equal(whole[mixed], parts, equal_nan=True)


def with_another_future(samples: Samples, anchor: int, seed: int) -> Samples:
    """Everything from the anchor on is different for its user, and every test row for the others."""
    rng = np.random.default_rng(seed)
    timeline = samples.timeline
    row = np.arange(len(timeline))
    users = timeline["user_id"].to_numpy()
    later = (users == users[anchor]) & (row >= anchor) | (users != users[anchor]) & (
        timeline["split"] == "test"
    ).to_numpy()
    rating = np.where(later, rng.integers(1, 11, len(timeline)) / 2, timeline["rating"].to_numpy())
    item = np.where(later, rng.integers(60, size=len(timeline)), timeline["item_id"].to_numpy())
    return replace(samples, timeline=timeline.with_columns(rating=rating, item_id=item))


@examples(30)
@given(st.sampled_from(SAMPLES.position[SAMPLES.of("test")].tolist()), st.integers(0, 10**6))
def test_nothing_that_came_after_the_anchor_is_seen(anchor: int, seed: int) -> None:
    asked = Queries(np.full(60, anchor), np.arange(60))
    _, before = features_of(KNOWN, asked, list(GROUPS))
    _, after = features_of(BaselineData.of(with_another_future(SAMPLES, anchor, seed)), asked, list(GROUPS))
    assert np.array_equal(before, after, equal_nan=True)


def mixed_times(samples: Samples, moments: int = 120) -> Samples:
    """The same ratings, users among one another: few moments, so that many ratings share one."""
    row = np.arange(len(samples.timeline))
    start = np.random.default_rng(8).integers(moments // 2, size=1 + int(samples.timeline["user_id"].max()))  # type: ignore[arg-type]
    first = KNOWN.first
    time = start[samples.timeline["user_id"].to_numpy()] + (row - first) // 2
    return replace(samples, timeline=samples.timeline.with_columns(timestamp=time))


MIXED = BaselineData.of(mixed_times(SAMPLES))


def naive_earlier(anchor: int, item: int) -> tuple[float, float, int]:
    time = MIXED.samples.timeline["timestamp"].to_numpy()
    before = MIXED.allowed & (time < time[anchor])
    own = before & (MIXED.item == item)
    mean, liked = (MIXED.rating[before].mean(), MIXED.liked[before].mean()) if before.any() else (4.0, 0.5)
    count = int(own.sum())
    rated = (MIXED.rating[own].sum() + 5 * mean) / (count + 5), (MIXED.liked[own].sum() + 5 * liked) / (count + 5)
    return *rated, count


def test_statistics_of_then_are_of_earlier_ratings_alone() -> None:
    asked = some(200)
    found = MIXED.earlier(asked.anchor, asked.item)
    expected = [naive_earlier(a, i) for a, i in zip(asked.anchor.tolist(), asked.item.tolist(), strict=True)]
    np.testing.assert_allclose(np.column_stack(found), expected, rtol=1e-9)
    assert (found.ratings > 0).any()
    rows = np.random.default_rng(1).choice(len(MIXED.rating), 50)
    residual = [MIXED.rating[row] - naive_earlier(row, int(MIXED.item[row]))[0] for row in rows.tolist()]
    np.testing.assert_allclose(MIXED.residual_then[rows], residual, rtol=1e-9)


def with_other_ratings_later(anchor: int, seed: int) -> BaselineData:
    """Everything from the anchor's time on is rated differently, by whomever and whatever its split."""
    timeline = MIXED.samples.timeline
    time = timeline["timestamp"].to_numpy()
    later = (time >= time[anchor]) & ((MIXED.user != MIXED.user[anchor]) | (np.arange(len(time)) >= anchor))
    other = np.random.default_rng(seed).integers(1, 11, len(time)) / 2
    rating = np.where(later, other, timeline["rating"].to_numpy())
    return BaselineData.of(replace(MIXED.samples, timeline=timeline.with_columns(rating=rating)))


@examples(30)
@given(st.sampled_from(SAMPLES.position[SAMPLES.of("test")].tolist()), st.integers(0, 10**6))
def test_features_of_then_hold_no_later_rating_of_anybody(anchor: int, seed: int) -> None:
    asked, groups = Queries(np.full(60, anchor), np.arange(60)), STRONGEST_THEN
    before, after = (features_of(k, asked, groups)[1] for k in (MIXED, with_other_ratings_later(anchor, seed)))
    assert np.array_equal(before, after, equal_nan=True)


@pytest.mark.parametrize("statistics", [online_means_then, item_neighbours_then])
def test_sums_of_then_hold_no_later_rating_of_anybody(statistics: Callable[..., list[np.ndarray]]) -> None:
    anchor = int(SAMPLES.position[SAMPLES.of("test")][7])
    asked = Queries(np.full(60, anchor), np.arange(60))
    before, after = (np.column_stack(statistics(k, asked)) for k in (MIXED, with_other_ratings_later(anchor, 1)))
    assert np.array_equal(before, after)


@pytest.mark.parametrize("group", ["item", "alike", "spread"])
def test_statistics_of_folds_hold_later_training_ratings_of_others(group: str) -> None:
    test = SAMPLES.position[SAMPLES.of("test")]
    anchor = int(test[MIXED.samples.timeline["timestamp"].to_numpy()[test].argmin()])
    asked = Queries(np.full(60, anchor), np.arange(60))
    before, after = (features_of(k, asked, [group])[1] for k in (MIXED, with_other_ratings_later(anchor, 0)))
    assert not np.array_equal(before, after, equal_nan=True)
