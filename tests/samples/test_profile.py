"""The figures of a log against a count by hand, and what they advise."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from palate.config import PrepareConfig
from palate.ratings.load import Ratings
from palate.samples.build import build_samples
from palate.samples.profile import Profile, advice, bars_of, profile_of

DAY = 86_400


def log_of(sizes: list[int], *, values: tuple[float, ...] = (2, 3, 4, 5), step: int = 60) -> Ratings:
    """Users with these numbers of ratings, of items 0, 1, …; `step` seconds lie between two ratings of a user."""
    rows = [
        (user, item, values[(user + item) % len(values)], 1_600_000_000 + step * item)
        for user, size in enumerate(sizes)
        for item in range(size)
    ]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "rating", "timestamp"], orient="row")
    frame = frame.with_columns(pl.col("rating").cast(pl.Float64))
    titles = [f"Pan {n}" for n in range(max(sizes))]
    items = pl.DataFrame({"item_id": range(max(sizes)), "title": titles, "price": ["9.50", *[""] * (max(sizes) - 1)]})
    return Ratings(frame, items, "shop", {}, (1.0, 5.0))


def profile(ratings: Ratings, **options: object) -> Profile:
    return profile_of(ratings, PrepareConfig.model_validate(options))


def test_the_figures_equal_a_count_by_hand() -> None:
    rng = np.random.default_rng(3)
    size = 600
    times = rng.integers(0, 40, size) * DAY + 1_600_000_000
    columns = [rng.integers(0, 12, size), rng.integers(0, 30, size), rng.integers(1, 6, size) * 1.0, times]
    rows = list(zip(*(column.tolist() for column in columns), strict=True))
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "rating", "timestamp"], orient="row")
    titles = ["Pan" if n < 3 else f"Pan {n}" for n in range(40)]
    ratings = Ratings(frame, pl.DataFrame({"item_id": range(40), "title": titles}), "shop", {}, (1.0, 5.0))
    found = profile(ratings, history_len=20)

    users = {u: [r for r in rows if r[0] == u] for u in {r[0] for r in rows}}
    items = {i: [r for r in rows if r[1] == i] for i in {r[1] for r in rows}}
    assert (found.ratings, found.users, found.items, found.listed) == (size, len(users), len(items), 40)
    assert found.times == (min(times), max(times))
    assert found.distribution == {v: sum(r[2] == v for r in rows) for v in (1.0, 2.0, 3.0, 4.0, 5.0)}
    assert found.share_yes(4) == sum(r[2] >= 4 for r in rows) / size
    assert found.tied == sum(sum(o[0] == r[0] and o[3] == r[3] for o in rows) > 1 for r in rows) / size
    assert found.repeated == size - len({r[:2] for r in rows})
    assert found.same_title == 3
    assert found.of_user["most"] == max(map(len, users.values()))
    assert found.of_item["least"] == min(map(len, items.values()))
    assert found.sizes[0].tolist() == sorted(map(len, users.values()))
    for kept in found.kept:
        assert kept.users == sum(len(own) > kept.history_len for own in users.values())
        assert kept.samples == sum(max(0, len(own) - kept.history_len) for own in users.values())
    samples = build_samples(ratings, PrepareConfig(history_len=20))
    assert sum(found.samples.values()) == samples.position.size == found.keeps(20).samples
    assert sum(found.yes.values()) == samples.label.sum()
    assert sum(found.by_time) == size


def test_a_value_below_the_scale_may_mean_that_there_is_no_rating() -> None:
    found = profile(replace(log_of([40] * 9, values=(0, 2, 4, 5)), scale=(0.0, 5.0)))
    assert "if 0 means that there is no rating, `ratings.not_rated: 0` leaves out 90 rows" in advice(found)


def test_a_shorter_history_is_advised_where_the_default_loses_users() -> None:
    found = profile(log_of([8] * 50 + [40] * 50 + [2] * 20))
    assert found.chosen_history_len == 5
    assert "70 of 120 users have too few ratings (<16); `history_len 5` would keep 100" in advice(found)
    assert not [line for line in advice(profile(log_of([40] * 50))) if "history_len" in line]


def test_a_log_without_a_user_for_the_default_still_gets_a_history() -> None:
    found = profile(log_of([2] * 9 + [1] * 5))
    assert found.chosen_history_len == 1
    assert found.samples == {}
    assert any(line.startswith("`palate prepare` would stop: shop: no user has more than 15") for line in advice(found))


@pytest.mark.parametrize(
    ("values", "scale", "threshold"),
    [((2, 3, 4, 5), 5, 4.0), ((4, 5, 5, 5), 5, 5.0), ((3, 6, 8, 9), 10, 8.0), ((0, 1), 1, 1.0), ((3,), 5, 4.0)],
)
def test_the_threshold_divides_the_ratings(values: tuple[float, ...], scale: float, threshold: float) -> None:
    ratings = log_of([40] * 10, values=values)
    ratings = Ratings(ratings.frame, ratings.items, "shop", {}, (0.0, float(scale)))
    assert profile(ratings).chosen_threshold == threshold


def test_times_of_whole_days_are_named_as_such() -> None:
    log = log_of([30] * 4, step=DAY // 2)
    days = log.frame.with_columns(pl.col("timestamp") // DAY * DAY)
    found = profile(Ratings(days, log.items, "shop", {}, (1.0, 5.0)))
    assert found.daily
    assert any(line.startswith("times are whole days: ") for line in advice(found))
    assert not profile(log).daily


def test_rows_with_a_number_for_a_time_have_no_dates() -> None:
    log = log_of([30] * 4)
    numbered = log.frame.with_columns(timestamp=pl.int_range(pl.len()))
    assert not profile(Ratings(numbered, log.items, "shop", {}, (1.0, 5.0))).dated


def test_texts_are_those_of_rated_items_with_their_share() -> None:
    title, price = profile(log_of([20, 20])).texts
    assert (title.column, title.filled, title.distinct, title.longest) == ("title", 1.0, 20, 6)
    assert (price.column, price.filled, price.example) == ("price", 1 / 20, "9.50")


def test_many_values_are_shown_in_ranges_that_hold_every_rating() -> None:
    found = profile(log_of([101] * 3, values=tuple(range(101))), rating_threshold=5)
    bars = bars_of(found)
    assert len(bars) == 10
    assert sum(bar.ratings for bar in bars) == found.ratings
