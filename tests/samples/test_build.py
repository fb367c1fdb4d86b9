from dataclasses import replace
from unittest.mock import patch

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from tests.examples import examples

from palate.config import PrepareConfig
from palate.errors import InputError
from palate.ratings.load import Ratings
from palate.samples import Samples, build_samples
from palate.samples.build import ROLES, checked_samples


def splits_of(samples: Samples) -> list[str]:
    return [("train", "val", "test")[s] for s in samples.split]


def plain_user_split(count: int, val_ratio: float, test_ratio: float) -> list[str]:
    """The issue's words for one user's samples, in plain Python."""
    test = max(1, int(test_ratio * count)) if test_ratio else 0
    test = min(test, count - 1)
    val = max(1, int(val_ratio * count)) if val_ratio else 0
    val = min(val, count - test - 1)
    return ["train"] * (count - val - test) + ["val"] * val + ["test"] * test


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, ["train"]),
        (2, ["train", "test"]),
        (3, ["train", "val", "test"]),
        (4, ["train", "train", "val", "test"]),
    ],
)
def test_a_small_user_keeps_training_first_then_test(make_ratings, timeline_of, count, expected):
    samples = build_samples(make_ratings(timeline_of(1, 2 + count)), PrepareConfig(history_len=2))
    assert splits_of(samples) == expected


@examples(60)
@given(
    counts=st.lists(st.integers(0, 90), min_size=1, max_size=8),
    ratios=st.sampled_from([(0.05, 0.1), (0.0, 0.1), (0.05, 0.0), (0.0, 0.0), (0.3, 0.6), (0.1, 0.2)]),
    length=st.integers(1, 4),
)
def test_the_user_split_is_the_plain_one_for_any_counts(counts, ratios, length):
    rows = [(u, i, float(1 + i % 5), i) for u, n in enumerate(counts) for i in range(length + n)]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "rating", "timestamp"], orient="row")
    items = pl.DataFrame({"item_id": range(100), "title": ["x"] * 100})
    ratings = Ratings(frame, items, "test", {}, (1, 5))
    options = PrepareConfig(history_len=length, val_ratio=ratios[0], test_ratio=ratios[1])
    if not any(counts):
        with pytest.raises(InputError, match="no user has more than"):
            build_samples(ratings, options)
        return
    expected = [s for n in counts if n for s in plain_user_split(n, *ratios)]
    assert splits_of(build_samples(ratings, options)) == expected


USERS = {
    "numbers": st.sampled_from([-5, 0, 1, 2, 7, 2**40]),
    "one": st.just(3),
    "words": st.sampled_from(["", "10", "9", "a", "é"]),
}
TIMES = {"few": st.integers(0, 4), "many": st.integers(0, 2**40), "far": st.sampled_from([0, 1, 2**62, 2**63 - 1])}


@examples(300)
@given(
    users=st.sampled_from(["numbers", "one", "words"]),
    times=st.sampled_from(["few", "many", "far"]),  # users, far times and places do not fit in 64 bits
    ascend=st.booleans(),
    words=st.booleans(),
    block=st.sampled_from([1, 3, 8, 1 << 16]),
    length=st.integers(1, 4),
    ratios=st.sampled_from([(0.05, 0.1), (0.0, 0.3), (0.3, 0.6)]),
    data=st.data(),
)
def test_the_samples_of_any_log_are_those_of_a_plain_walk(users, times, ascend, words, block, length, ratios, data):
    drawn = data.draw(
        st.lists(st.tuples(USERS[users], st.sampled_from([0.5, 3.5, 4.0, 5.0]), TIMES[times]), max_size=40)
    )
    drawn.extend([(data.draw(USERS[users]), 4.0, data.draw(TIMES[times]))] * (length + 1))  # one user is long enough
    if ascend:
        drawn.sort(key=lambda row: row[0])
    rows = [(user, f"i{i}" if words else 3 * i, rating, time) for i, (user, rating, time) in enumerate(drawn)]
    rows_of = {
        user: sorted((r for r in rows if r[0] == user), key=lambda r: r[3]) for user in sorted({r[0] for r in rows})
    }
    splits = {u: plain_user_split(len(rs) - length, *ratios) for u, rs in rows_of.items() if len(rs) > length}
    roles = {u: ["warmup"] * length + splits[u] if u in splits else ["unused"] * len(rs) for u, rs in rows_of.items()}
    timeline = [(*row, role) for u in rows_of for row, role in zip(rows_of[u], roles[u], strict=True)]
    position = [i for i, row in enumerate(timeline) if row[4] in ("train", "val", "test")]

    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "rating", "timestamp"], orient="row")
    chunked = pl.concat([frame[:5], frame[5:]], rechunk=False)
    with patch("palate.ratings.blocks.BLOCK", block):
        options = PrepareConfig(history_len=length, val_ratio=ratios[0], test_ratio=ratios[1])
        samples = build_samples(Ratings(chunked, pl.DataFrame(), "test", {}, (0.5, 5)), options)
    assert samples.timeline.rows() == timeline
    assert samples.timeline.schema == frame.schema | {"split": ROLES}
    assert samples.position.tolist() == position
    assert splits_of(samples) == [timeline[i][4] for i in position]
    assert samples.label.tolist() == [timeline[i][2] >= 4 for i in position]
    assert [a.dtype for a in (samples.position, samples.split, samples.label)] == [np.int64, np.uint8, np.bool_]


def test_ratings_are_ordered_by_user_then_time_and_ties_keep_the_file_order(make_ratings):
    rows = [(10, 5, 1, 7), (2, 9, 1, 3), (10, 4, 1, 7), (2, 8, 1, 1), (10, 3, 1, 6), (2, 7, 1, 3)]
    timeline = build_samples(make_ratings(rows), PrepareConfig(history_len=2)).timeline
    assert timeline["user_id"].to_list() == [2, 2, 2, 10, 10, 10]
    assert timeline["item_id"].to_list() == [8, 9, 7, 3, 5, 4]


def test_a_samples_history_are_the_rows_before_it_of_the_same_user(make_ratings, timeline_of):
    rows = timeline_of(1, 6) + timeline_of(2, 3) + timeline_of(3, 5)
    samples = build_samples(make_ratings(rows), PrepareConfig(history_len=3))
    users = samples.timeline["user_id"].to_numpy()
    assert samples.position.tolist() == [3, 4, 5, 12, 13]
    for back in range(1, 4):
        assert (users[samples.position - back] == users[samples.position]).all()


def test_each_rating_is_told_what_becomes_of_it(make_ratings, timeline_of):
    samples = build_samples(make_ratings(timeline_of(1, 6) + timeline_of(2, 3)), PrepareConfig(history_len=3))
    assert samples.timeline["split"].to_list() == ["warmup"] * 3 + ["train", "val", "test"] + ["unused"] * 3


def test_a_rating_at_the_threshold_is_a_yes(make_ratings):
    rows = [(1, i, r, i) for i, r in enumerate([5, 3.5, 4, 4.5, 0.5])]
    samples = build_samples(make_ratings(rows), PrepareConfig(history_len=1))
    assert samples.label.tolist() == [False, True, True, False]


def test_users_whose_ids_are_words_are_ordered_as_words(make_ratings, timeline_of):
    samples = build_samples(make_ratings(timeline_of("b", 3) + timeline_of("a", 3)), PrepareConfig(history_len=1))
    assert samples.timeline["user_id"].to_list() == ["a"] * 3 + ["b"] * 3


def test_no_user_long_enough_names_the_longest_and_the_need(make_ratings, timeline_of):
    with pytest.raises(InputError, match="more than 15 ratings, the longest history has 15; expected at least 16"):
        build_samples(make_ratings(timeline_of(1, 15) + timeline_of(2, 3)), PrepareConfig())


@examples(60)
@given(
    times=st.lists(st.lists(st.integers(0, 30), min_size=2, max_size=25), min_size=1, max_size=6),
    ratios=st.sampled_from([(0.05, 0.1), (0.2, 0.3), (0.0, 0.1), (0.1, 0.0)]),
)
def test_under_a_global_cutoff_no_training_or_validation_rating_is_as_late_as_a_test_sample(times, ratios):
    rows = [(u, i, 3.0, t) for u, ts in enumerate(times) for i, t in enumerate(sorted(ts))]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "rating", "timestamp"], orient="row")
    items = pl.DataFrame({"item_id": range(30), "title": ["x"] * 30})
    options = PrepareConfig(history_len=1, split="global-time", val_ratio=ratios[0], test_ratio=ratios[1])
    try:
        timeline = build_samples(Ratings(frame, items, "test", {}, (1, 5)), options).timeline
    except InputError as error:
        assert "to train on" in str(error)  # noqa: PT017
        return
    when = {name: group["timestamp"] for (name,), group in timeline.group_by("split")}
    learned = max(when["train"].max(), when["warmup"].max() if "warmup" in when else 0)
    assert all(learned < when[later].min() for later in ("val", "test") if later in when)
    if "val" in when and "test" in when:
        assert when["val"].max() < when["test"].min()
    assert (ratios[1] > 0) == ("test" in when)


def test_a_global_cutoff_takes_about_the_share_that_was_asked_for(make_ratings, timeline_of):
    rows = [row for u in range(40) for row in timeline_of(u, 30, start=u * 11)]
    samples = build_samples(make_ratings(rows), PrepareConfig(history_len=5, split="global-time"))
    share = np.bincount(samples.split) / samples.split.size
    assert share[2] == pytest.approx(0.1, abs=0.01)
    assert share[1] == pytest.approx(0.05, abs=0.01)


def test_a_global_cutoff_that_leaves_no_training_is_told(make_ratings):
    rows = [(1, i, 3, 5) for i in range(20)]
    with pytest.raises(InputError, match="none of 17 samples to train on"):
        build_samples(make_ratings(rows), PrepareConfig(history_len=3, split="global-time"))


@examples(60)
@given(
    ratings=st.lists(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 30)), max_size=25), min_size=1, max_size=6),
    share=st.sampled_from([0.1, 0.3, 0.49]),
    seed=st.integers(0, 3),
)
def test_under_cold_items_nothing_is_learned_from_the_items_of_test_and_validation(ratings, share, seed):
    rows = [(user, item, 3.0, time) for user, pairs in enumerate(ratings) for item, time in sorted(set(pairs))]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "rating", "timestamp"], orient="row")
    items = pl.DataFrame({"item_id": range(13), "title": ["x"] * 13})
    options = PrepareConfig(history_len=2, split="cold-items", cold_share=share, val_ratio=0.2, test_ratio=0.4)
    log = Ratings(frame, items, "test", {}, (1, 5))
    try:
        samples = build_samples(log, options, seed)
    except InputError as error:
        assert "expected" in str(error)  # noqa: PT017
        return
    assert_frame_equal(samples.timeline, build_samples(log, options, seed).timeline)
    rated = samples.timeline["item_id"].to_numpy()
    held_out = {split: set(rated[samples.position[samples.of(split)]]) for split in ("val", "test")}
    train = samples.position[samples.of("train")]
    learned = set(rated[samples.timeline["split"].is_in(["warmup", "train"]).to_numpy()])
    shown = {item for position in train for item in rated[position - 2 : position]}
    assert not (learned | shown | held_out["val"]) & held_out["test"]
    assert not (learned | shown) & held_out["val"]
    assert (samples.position - samples.first[samples.position] >= 2).all()
    whole = frame.sort("user_id", "timestamp", maintain_order=True)  # what is left keeps its order
    assert_frame_equal(whole.join(samples.timeline.drop("split"), on=frame.columns, how="semi"),
                       samples.timeline.drop("split"))  # fmt: skip


def test_cold_items_of_ml_latest_small_take_their_share_of_the_test_rows(ml_latest_small):
    warm = build_samples(ml_latest_small, PrepareConfig())
    samples = build_samples(ml_latest_small, PrepareConfig(split="cold-items", cold_share=0.2))
    assert np.bincount(samples.split)[2] == pytest.approx(0.2 * np.bincount(warm.split)[2], rel=0.05)
    other = build_samples(ml_latest_small, PrepareConfig(split="cold-items", cold_share=0.2), seed=14)
    assert set(samples.timeline["item_id"]) != set(other.timeline["item_id"])


def test_a_cold_share_without_test_samples_is_refused(make_ratings, timeline_of):
    ratings = make_ratings(timeline_of(1, 20))
    with pytest.raises(
        InputError, match=r"cold-items with prepare.cold_share 0.05 leaves no (test|train) samples, expected"
    ):
        build_samples(ratings, PrepareConfig(split="cold-items", cold_share=0.05, history_len=15))


def test_the_guides_counts_come_out_of_ml_latest_small(ml_latest_small):
    samples = build_samples(ml_latest_small, PrepareConfig())
    assert np.bincount(samples.split).tolist() == [78_271, 4_450, 8_965]
    assert [int(samples.label[samples.split == s].sum()) for s in range(3)] == [37_457, 1_963, 4_175]
    assert samples.split.size == 91_686


def rated(rating, users=3, each=12, time=lambda user, n: 100 * user + n):
    """Users who rate the same items, `rating(n)` the n-th."""
    return [(user, n, rating(n), time(user, n)) for user in range(users) for n in range(each)]


@pytest.mark.parametrize(
    ("ratings", "threshold", "told"),
    [
        (lambda n: 40 + 20 * (n % 4), 4, r"all 24 training samples Yes \(.* 40 to 100\), .* such as 80: 50% Yes"),
        (lambda n: 40 + 20 * (n % 4), 100.0, None),
        (lambda n: 1 + n % 3, 5, r"all 24 training samples No \(.* 1 to 3\), .* such as [23]:"),
    ],
)
def test_a_threshold_that_makes_all_training_the_same_is_refused_with_a_better_one(
    make_ratings, ratings, threshold, told
):
    found = replace(make_ratings(rated(ratings)), scale=(0.0, 100.0))
    options = PrepareConfig(history_len=2, rating_threshold=threshold)
    if told is None:
        assert set(checked_samples(found, options).label) == {True, False}
        return
    with pytest.raises(InputError, match=told) as caught:
        checked_samples(found, options)
    better = float(str(caught.value).split("such as ")[1].split(":")[0])
    samples = checked_samples(found, options.model_copy(update={"rating_threshold": better}))
    assert set(samples.label[samples.of("train")]) == {True, False}


def test_a_threshold_outside_the_scale_is_refused_with_one_inside(make_ratings):
    with pytest.raises(InputError, match=r"7 makes every answer No, expected one above 0.5 and up to 5, such as 3$"):
        build_samples(make_ratings(rated(lambda n: 1 + n % 4)), PrepareConfig(history_len=2, rating_threshold=7))


def test_one_rating_for_everything_is_refused(make_ratings):
    with pytest.raises(InputError, match="test: all 24 training samples have the rating 5, expected ratings that diff"):
        checked_samples(make_ratings(rated(lambda n: 5)), PrepareConfig(history_len=2))


@pytest.mark.parametrize("split", ["user-time", "global-time"])
def test_times_that_order_nobodys_ratings_are_refused(make_ratings, split):
    options = PrepareConfig(history_len=2, split=split)
    for time, told in ((lambda user, n: 0, "every timestamp is 0"), (lambda user, n: user, "each has one timestamp")):
        same = make_ratings(rated(lambda n: 1 + n % 5, time=time))
        with pytest.raises(InputError, match=rf"test: no user has ratings at two times \({told}"):
            checked_samples(same, options)
    apart = make_ratings(sorted(rated(lambda n: 1 + n % 5), key=lambda row: row[1]))
    checked_samples(apart, PrepareConfig(history_len=2))
