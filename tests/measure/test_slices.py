import json
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from pydantic import TypeAdapter
from sklearn.metrics import log_loss, roc_auc_score
from tests.films import film_samples

from palate.measure.slices import FEW_ROWS, FEW_USERS, Slices, measure_slices, slices_of
from palate.samples import Samples

SAMPLES = film_samples(users=60, items=90)


def scores_of(samples: Samples, seed: int = 0) -> dict[str, np.ndarray]:
    """A model that knows the labels somewhat, a baseline that does less, and another."""
    y = samples.label[samples.of("test")]
    rng = np.random.default_rng(seed)
    return {
        key: 1 / (1 + np.exp(-(strength * (2.0 * y - 1) + rng.normal(size=len(y)))))
        for key, strength in (("llm", 1.0), ("best", 0.3), ("other", 0.0))
    }


@pytest.fixture(scope="module")
def slices() -> Slices:
    return measure_slices(SAMPLES, scores_of(SAMPLES), model="llm", baseline="best", resamples=60)


def slowly(samples: Samples) -> dict[tuple[str, str], set[int]]:
    """What belongs to fixed slices, row by row."""
    rows = samples.timeline.with_row_index("at").rows(named=True)
    film = {row["item_id"]: row for row in samples.items.rows(named=True)}
    train, known = defaultdict(int), defaultdict(int)
    for row in rows:
        train[row["user_id"]] += row["split"] == "train"
        known[row["item_id"]] += row["split"] in ("train", "warmup")

    def warmth(count: int) -> str:
        return "cold: none" if count < 1 else "1 to 9" if count < 10 else "10 to 49" if count < 50 else "50 or more"

    found: dict[tuple[str, str], set[int]] = defaultdict(set)
    for i, at in enumerate(samples.position[samples.of("test")].tolist()):
        row = rows[at]
        year = int(film[row["item_id"]]["title"][-5:-1])
        found["training samples of the user", warmth(train[row["user_id"]])].add(i)
        found["training ratings of the item", warmth(known[row["item_id"]])].add(i)
        found["release year", f"{year // 10}0s"].add(i)
        for genre in film[row["item_id"]]["genres"].split("|"):
            found["genre", genre.strip("()")].add(i)
    return found


@pytest.mark.parametrize("split", ["user-time", "global-time"])
def test_rows_are_in_the_slices_that_they_belong_to(split: str) -> None:
    samples = film_samples(users=40, items=50, split=split)
    found = {
        (d, label): set(part.tolist()) for d, label, part in slices_of(samples, samples.position[samples.of("test")])
    }
    expected = slowly(samples)
    dimensions = {dimension for dimension, _ in expected}
    assert {key: part for key, part in found.items() if key[0] in dimensions and part} == expected


def test_a_global_split_has_cold_users_and_a_split_by_user_says_that_it_has_none() -> None:
    for split, cold in (("global-time", True), ("user-time", False)):
        samples = film_samples(users=40, split=split)
        parts = slices_of(samples, samples.position[samples.of("test")])
        assert (len(parts[0][2]) > 0) == cold
        assert parts[0][:2] == ("training samples of the user", "cold: none")


def test_bands_hold_every_row_once_and_keep_equal_values_together() -> None:
    position = SAMPLES.position[SAMPLES.of("test")]
    rating = SAMPLES.timeline["rating"].to_numpy()
    mean = np.array([rating[at - 15 : at].mean() for at in position])
    parts = [part for dimension, _, part in slices_of(SAMPLES, position) if dimension == "mean of the history"]
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(position)))
    assert len(parts) == 5
    for lower, higher in pairwise(parts):
        assert mean[lower].max() < mean[higher].min()
    assert max(map(len, parts)) < 2 * min(map(len, parts))


def test_histories_that_are_short_or_empty_have_the_mean_of_what_is_there() -> None:
    rows = SAMPLES.timeline.height
    every = replace(
        SAMPLES,
        position=np.arange(rows),
        split=np.full(rows, 2, dtype=np.uint8),
        label=SAMPLES.timeline["rating"].to_numpy() >= 4,
    )
    parts = [
        (label, part)
        for dimension, label, part in slices_of(every, every.position)
        if dimension == "mean of the history"
    ]
    means = SAMPLES.timeline.select(
        pl.col("rating").shift(1).rolling_mean(15, min_samples=1).over("user_id").round(9)
    ).to_series()
    assert parts[0][0] == "none"
    assert parts[0][1].tolist() == means.is_null().arg_true().to_list()
    assert sorted(np.concatenate([part for _, part in parts]).tolist()) == list(range(rows))
    for label, part in parts[1:]:
        low, high = map(float, label.split(" to "))
        found = means.gather(part)
        assert (found.min(), found.max()) == pytest.approx((low, high), abs=0.0051)


def test_each_slice_is_measured_on_its_rows_alone(slices: Slices) -> None:
    test = SAMPLES.of("test")
    y, scores = SAMPLES.label[test], scores_of(SAMPLES)
    for part, (dimension, label, rows) in zip(slices.slices, slices_of(SAMPLES, SAMPLES.position[test]), strict=True):
        assert (part.dimension, part.label, part.n) == (dimension, label, len(rows))
        for key, p in scores.items():
            got = part.metrics[key]
            if len(set(y[rows])) == 2:
                assert got["auc"].value == pytest.approx(roc_auc_score(y[rows], p[rows]))
            else:
                assert got["auc"].value is None
            if len(rows):
                assert got["log_loss"].value == pytest.approx(log_loss(y[rows], p[rows], labels=[False, True]))
                assert part.base_rate == pytest.approx(y[rows].mean())
        one, other = (part.metrics[key]["log_loss"].value for key in ("llm", "best"))
        assert part.difference("log_loss").value == (None if one is None else pytest.approx(one - other))


def test_small_slices_are_there_and_say_so(slices: Slices) -> None:
    y = SAMPLES.label[SAMPLES.of("test")]
    parts = slices_of(SAMPLES, SAMPLES.position[SAMPLES.of("test")])
    for part, (_, _, rows) in zip(slices.slices, parts, strict=True):
        few = part.users < FEW_USERS or min(y[rows].sum(), (~y[rows]).sum()) < FEW_ROWS
        assert part.small == few
    assert {part.small for part in slices.slices} == {True, False}
    assert any(part.n == 0 and part.base_rate is None for part in slices.slices)


def test_where_the_model_is_ahead_leaves_small_slices_out_and_the_clearest_comes_first(slices: Slices) -> None:
    ahead = slices.ahead("llm")
    assert ahead
    assert not any(part.small for part in ahead)
    values = [part.difference("auc").value for part in ahead]
    assert values == sorted(values, reverse=True)
    assert all(part.difference("auc").interval.low > 0 for part in ahead)
    assert slices.ahead("best") == []
    assert all(part.difference("log_loss").value < 0 for part in slices.ahead("llm", "log_loss"))


def test_examples_are_the_rows_of_greatest_gain_and_loss_one_a_user(slices: Slices) -> None:
    test = SAMPLES.of("test")
    y, scores, position = SAMPLES.label[test], scores_of(SAMPLES), SAMPLES.position[test]
    loss = {key: -np.log(np.where(y, p, 1 - p)) for key, p in scores.items()}
    gain = loss["best"] - loss["llm"]
    assert slices.wins[0].row == gain.argmax()
    assert slices.losses[0].row == gain.argmin()
    title = dict(SAMPLES.items.select("item_id", "title").iter_rows())
    for examples, sign in ((slices.wins, 1), (slices.losses, -1)):
        assert len({example.user_id for example in examples}) == len(examples) == 5
        gains = [sign * example.gain for example in examples]
        assert gains == sorted(gains, reverse=True)
        assert gains[-1] > 0
        for example in examples:
            row = SAMPLES.timeline.row(int(position[example.row]), named=True)
            assert (example.user_id, example.item_id) == (row["user_id"], row["item_id"])
            assert example.title == title[row["item_id"]]
            assert example.label == y[example.row]
            assert (example.model, example.baseline) == (scores["llm"][example.row], scores["best"][example.row])
            assert example.gain == pytest.approx(gain[example.row])


def test_chosen_rows_are_measured_as_if_there_were_no_others() -> None:
    scores = scores_of(SAMPLES)
    rows = np.random.default_rng(1).permutation(len(scores["llm"]))[:60]
    found = measure_slices(
        SAMPLES, {k: p[rows] for k, p in scores.items()}, model="llm", baseline="best", rows=rows, resamples=0
    )
    assert sum(part.n for part in found.of("release year")) == 60
    assert {example.row for example in found.wins} <= set(rows.tolist())
    assert all(example.model == scores["llm"][example.row] for example in found.wins)


def test_no_rows_leave_the_fixed_slices_empty() -> None:
    none = {key: np.empty(0) for key in ("llm", "best")}
    found = measure_slices(SAMPLES, none, model="llm", baseline="best", rows=[], resamples=10)
    assert {part.n for part in found.slices} == {0}
    assert (found.wins, found.losses) == ([], [])


def test_items_without_genres_or_years_are_not_sliced_by_them() -> None:
    bare = replace(SAMPLES, items=SAMPLES.items.select("item_id", title=pl.col("title").str.replace(r" \(.*", "")))
    dimensions = {d for d, _, _ in slices_of(bare, bare.position[bare.of("test")])}
    assert "genre" not in dimensions
    assert "release year" not in dimensions
    assert "mean of the history" in dimensions


def test_slices_survive_json(slices: Slices) -> None:
    assert TypeAdapter(Slices).validate_python(json.loads(json.dumps(slices.to_dict(), allow_nan=False))) == slices


def test_a_model_without_scores_is_refused() -> None:
    with pytest.raises(KeyError, match="nobody"):
        measure_slices(SAMPLES, scores_of(SAMPLES), model="nobody", baseline="best", resamples=0)
