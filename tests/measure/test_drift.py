"""Drift of what a service is given, and the calibration of what it recommended."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.examples import examples
from tests.films import film_samples

from palate.measure.drift import answered, chance, drift, findings, psi

SCHEMA = {"event": pl.String, "user_id": pl.Int64, "item_id": pl.Int64, "timestamp": pl.Int64, "model": pl.String}
EVENTS = {**SCHEMA, "p": pl.Float64}
RATINGS = {"user_id": pl.Int64, "item_id": pl.Int64, "rating": pl.Float64, "timestamp": pl.Int64}
NONE = pl.DataFrame(schema=EVENTS)


def ratings_of(rows: Sequence[Any]) -> pl.DataFrame:
    return pl.DataFrame(rows, RATINGS, orient="row")


def test_psi_is_the_symmetric_sum_of_its_definition() -> None:
    p, q = np.array([0.7, 0.2, 0.1]), np.array([0.2, 0.2, 0.6])
    counts = [(shares * 1_000_000).astype(np.int64) for shares in (p, q)]
    expected = sum((b - a) * np.log(b / a) for a, b in zip(p, q, strict=True))
    assert psi(*counts) == pytest.approx(expected, rel=1e-4)
    assert psi(counts[1], counts[0]) == pytest.approx(psi(*counts))
    assert psi(counts[0], 3 * counts[0]) == pytest.approx(0, abs=1e-9)
    assert np.isfinite(psi(np.array([5, 0]), np.array([0, 5])))


@pytest.mark.parametrize(("bins", "then", "now"), [(10, 3000, 300), (4, 500, 500), (2, 400, 200)])
def test_without_a_change_the_psi_exceeds_chance_in_one_of_a_hundred_cases(bins: int, then: int, now: int) -> None:
    rng, shares = np.random.default_rng(1), np.arange(1, bins + 1) / np.arange(1, bins + 1).sum()
    found = [psi(rng.multinomial(then, shares), rng.multinomial(now, shares)) for _ in range(3000)]
    assert 0.004 < np.mean(np.array(found) > chance(bins, then, now)) < 0.02


def test_a_few_ratings_that_differ_are_no_drift_and_many_are() -> None:
    rng = np.random.default_rng(3)
    base = rng.integers(0, 10, 5000)
    few, many = drift("few", base, rng.integers(0, 8, 12)), drift("many", base, rng.integers(0, 8, 3000))
    assert few.psi is not None
    assert few.psi > 0.25
    assert (few.state, many.state) == ("steady", "much")
    assert drift("same", base, rng.integers(0, 10, 3000)).state == "steady"
    assert drift("none", base, base[:0]).state == "unknown"


def test_ratings_of_the_same_kind_are_steady_and_reversed_ones_are_not() -> None:
    samples = film_samples(users=60, items=50)
    newer = samples.timeline.select(list(RATINGS)).with_columns(pl.col("timestamp") + 10**6)
    states = {each.of: each.state for each in findings(samples, newer, NONE).drift}
    assert (states["ratings"], states["popularity of items"]) == ("steady", "steady")
    assert states["length of histories"] == "much"  # each user comes back with all of the log behind them
    reversed_ = newer.with_columns(rating=5.5 - pl.col("rating"))
    assert findings(samples, reversed_, NONE).drift[0].state == "much"
    one = newer.with_columns(item_id=pl.lit(101, pl.Int64), timestamp=pl.int_range(pl.len()) + 10**6)
    assert findings(samples, one, NONE).drift[1].state == "much"


def test_cold_users_and_items_are_those_without_a_training_rating() -> None:
    samples = film_samples(users=10)
    at, known = 10**6, int(samples.timeline["user_id"][0])
    trained = samples.timeline.filter(pl.col("split").cast(pl.String).is_in(["warmup", "train"]))
    item = int(trained["item_id"][0])
    rows = [(known, item, 4.0, at), (777, item, 4.0, at), (777, 999, 2.0, at + 1), *samples.timeline.rows()[0:1]]
    found = findings(samples, ratings_of([row[:4] for row in rows]), NONE)
    assert (found.stored, found.newer) == (4, 3)
    assert found.cold.users == 1 / 2
    assert found.cold.items == 1 / 2
    assert found.cold.ratings == pytest.approx(2 / 3)
    assert found.cold.catalogue == 1 - trained["item_id"].n_unique() / samples.items.height
    empty = findings(samples, ratings_of([]), NONE)
    assert (empty.cold.users, empty.newer, {each.state for each in empty.drift}) == (None, 0, {"unknown"})


def test_a_rating_answers_the_last_time_that_its_item_was_shown_before() -> None:
    shown = [("shown", 1, 5, 10, "a", 0.2), ("shown", 1, 5, 20, "a", 0.6), ("shown", 1, 5, 40, "a", 0.9),
             ("shown", 1, 6, 10, "a", 0.1), ("shown", 2, 5, 10, None, 0.5), ("clicked", 1, 6, 11, "a", 0.9),
             ("shown", 1, 5, 15, "b", None)]  # fmt: skip
    events = pl.DataFrame(shown, EVENTS, orient="row")
    found = answered(ratings_of([(1, 5, 4.5, 30), (1, 5, 1.0, 50), (1, 6, 4.0, 9)]), events, 4.0)
    assert [(each.model, each.shown, each.metrics.n, each.mean_p) for each in found] == [
        ("a", 2, 1, 0.6),
        ("unnamed", 1, 0, None),
    ]
    assert found[0].metrics.base_rate == 1.0
    later = [("shown", 3, 7, 1, "a", 0.2), ("shown", 3, 7, 3, "b", 0.3)]
    one, two = answered(ratings_of([(3, 7, 4.5, 2), (3, 7, 1.0, 4)]), pl.DataFrame(later, EVENTS, orient="row"), 4.0)
    assert (one.mean_p, one.metrics.base_rate, two.mean_p, two.metrics.base_rate) == (0.2, 1.0, 0.3, 0.0)


WHO = (st.integers(1, 2), st.integers(1, 2), st.integers(0, 6))


@given(
    st.lists(st.tuples(*WHO, st.sampled_from(["a", "b"])), max_size=9),
    st.lists(st.tuples(*WHO, st.sampled_from([2.0, 4.5])).map(lambda row: (*row[:2], row[3], row[2])), max_size=6),
)
@examples(200)
def test_the_answers_are_those_of_a_loop(shown: list[Any], given_: list[Any]) -> None:
    rows = [("shown", user, item, at, model, (n + 1) / 10) for n, (user, item, at, model) in enumerate(shown)]
    expected: dict[str, list[tuple[float, bool]]] = {model: [] for *_, model in shown}
    for model in expected:
        for user in (1, 2):
            for item in (1, 2):
                seen = [(at, n, p) for n, (_, u, i, at, m, p) in enumerate(rows) if (u, i, m) == (user, item, model)]
                rated = sorted((at, n) for n, (u, i, _, at) in enumerate(given_) if (u, i) == (user, item))
                first = next(((at, n) for at, n in rated if any(when <= at for when, *_ in seen)), None)
                if first is not None:
                    p = max((at, n, p) for at, n, p in seen if at <= first[0])[2]
                    expected[model].append((p, given_[first[1]][2] >= 4))
    for each in answered(ratings_of(given_), pl.DataFrame(rows, EVENTS, orient="row"), 4.0):
        pairs = expected[each.model]
        assert each.metrics.n == len(pairs)
        if pairs:
            assert each.mean_p == pytest.approx(np.mean([p for p, _ in pairs]))
            assert each.metrics.base_rate == pytest.approx(np.mean([liked for _, liked in pairs]))
