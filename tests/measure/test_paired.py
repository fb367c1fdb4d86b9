from dataclasses import asdict

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.errors import InputError
from palate.measure.bootstrap import bootstrap
from palate.measure.metrics import measure, metrics_in
from palate.measure.paired import compare, holm, p_value, same_rows

METRICS = [metric.key for metric in metrics_in("pairs")]


def rows(n: int = 400, users: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, users and what could be known of the labels."""
    rng = np.random.default_rng(seed)
    known = rng.normal(size=n)
    return known + rng.normal(size=n) > 0, rng.integers(users, size=n), known


def probability(score: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-score))


def delong(y: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """The difference of two AUCs on independent rows and its standard error (DeLong et al. 1988), pair by pair."""
    parts = []
    for p in (a, b):
        wins = (p[y][:, None] > p[~y]) + 0.5 * (p[y][:, None] == p[~y])
        parts.append((wins.mean(), wins.mean(axis=1), wins.mean(axis=0)))
    (auc_a, yes_a, no_a), (auc_b, yes_b, no_b) = parts
    variance = np.var(yes_a - yes_b, ddof=1) / y.sum() + np.var(no_a - no_b, ddof=1) / (~y).sum()
    return float(auc_a - auc_b), float(np.sqrt(variance))


def test_on_independent_rows_the_interval_is_that_of_delong() -> None:
    y, _, known = rows(n=600)
    rng = np.random.default_rng(1)
    a = probability(known + rng.normal(size=600)).round(1)
    b = probability(known + 1.5 * rng.normal(size=600)).round(1)
    found = compare(y, np.arange(600), {"a": a, "b": b}, resamples=2000).of("auc")[0]
    value, error = delong(y, a, b)
    assert found.value == pytest.approx(value)
    assert found.interval is not None
    assert found.interval.high - found.interval.low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_rows_of_the_same_user_widen_the_interval_where_delong_does_not_see_them() -> None:
    y, _, known = rows(n=100)
    rng = np.random.default_rng(1)
    a, b = probability(known), probability(known + rng.normal(size=100))
    y, a, b, users = (np.repeat(column, 9) for column in (y, a, b, np.arange(100)))
    found = compare(y, users, {"a": a, "b": b}, resamples=500).of("auc")[0]
    assert found.interval is not None
    assert found.interval.high - found.interval.low > 2 * (2 * 1.96 * delong(y, a, b)[1])


def test_each_pair_is_the_difference_of_what_both_measure() -> None:
    y, users, known = rows()
    scores = {name: probability(known * weight).round(2) for name, weight in (("a", 3.0), ("b", 0.2), ("c", -1.0))}
    found = compare(y, users, scores, resamples=100)
    assert [(pair.first, pair.second) for pair in found.of("auc")] == [("a", "b"), ("a", "c"), ("b", "c")]
    of = {name: asdict(measure(y, p, users)) for name, p in scores.items()}
    for metric in METRICS:
        for pair in found.of(metric):
            assert pair.value == pytest.approx(of[pair.first][metric] - of[pair.second][metric])
            assert pair.interval is not None
            assert pair.interval.low <= pair.value <= pair.interval.high


def test_the_same_order_is_no_difference_at_all() -> None:
    y, users, known = rows()
    found = compare(y, users, {"a": probability(known), "b": probability(known / 2)}, resamples=200)
    auc, losses = found.of("auc")[0], found.of("log_loss")[0]
    assert (auc.value, auc.p, auc.better) == (0, 1, None)
    assert losses.value != 0


def test_lower_is_better_for_losses() -> None:
    y, users, _ = rows()
    found = compare(y, users, {"good": 0.1 + 0.8 * y, "bad": 0.9 - 0.8 * y}, resamples=200)
    assert {pair.better for pair in found.pairs if pair.interval is not None} == {"good"}
    swapped = compare(y, users, {"bad": 0.9 - 0.8 * y, "good": 0.1 + 0.8 * y}, resamples=200)
    assert {pair.better for pair in swapped.pairs if pair.interval is not None} == {"good"}


def test_no_difference_is_called_one_about_as_often_as_the_level_says() -> None:
    rng = np.random.default_rng(5)
    claimed = 0
    for seed in range(120):
        y = rng.random(200) < 0.5
        scores = {name: probability(y + rng.normal(size=200)) for name in "ab"}
        found = bootstrap(y, np.arange(200) // 2, scores, resamples=200, seed=seed)
        claimed += p_value(found["a"]["auc"] - found["b"]["auc"]) < 0.05
    assert claimed <= 13  # 6 are expected, and more than 13 once in 200


@given(st.integers(0, 1000), st.floats(-0.3, 0.3))
def test_the_p_value_says_what_the_interval_says(seed: int, shift: float) -> None:
    differences = np.random.default_rng(seed).normal(shift, 0.1, size=400)
    low, high = np.percentile(differences, [2.5, 97.5])
    p = p_value(differences)
    if low > 0.005 or high < -0.005:
        assert p < 0.055
    if low < -0.005 and high > 0.005:
        assert p > 0.045


def test_no_number_of_resamples_shows_a_chance_of_zero() -> None:
    assert p_value(np.ones(999)) == 2 / 1000
    assert p_value(np.array([1.0, np.nan, 1.0, 1.0])) == 2 / 4
    assert p_value(np.zeros(50)) == 1


def test_holm_multiplies_by_the_tests_that_are_left_and_never_falls() -> None:
    assert holm([0.01, 0.04, None, 0.03, 0.005]) == pytest.approx([0.03, 0.06, None, 0.06, 0.02], nan_ok=True)
    assert holm([0.9, 0.6]) == [1, 1]
    assert holm([]) == []


def test_pairs_of_one_metric_are_adjusted_for_one_another_only() -> None:
    y, users, known = rows()
    rng = np.random.default_rng(2)
    scores = {name: probability(known + rng.normal(size=len(y))) for name in "abc"}
    for metric in METRICS:
        pairs = compare(y, users, scores, resamples=100).of(metric)
        assert [pair.holm for pair in pairs] == holm([pair.p for pair in pairs])


def test_the_same_resamples_are_used_as_for_the_intervals_of_each() -> None:
    y, users, known = rows()
    scores = {"a": probability(known), "b": probability(-known)}
    replicates = bootstrap(y, users, scores, resamples=100, seed=13)
    found = compare(y, users, scores, resamples=100, seed=13).of("auc")[0]
    assert found.p == p_value(replicates["a"]["auc"] - replicates["b"]["auc"])


def test_one_class_has_no_difference_of_auc_and_no_resamples_no_interval() -> None:
    _, users, known = rows()
    scores = {"a": probability(known), "b": probability(-known)}
    one_class = compare(np.ones(400, dtype=bool), users, scores, resamples=20)
    auc, loss = one_class.of("auc")[0], one_class.of("log_loss")[0]
    assert (auc.value, auc.interval, auc.p, auc.holm, auc.better) == (None, None, None, None, None)
    assert loss.interval is not None
    alone = compare(known > 0, users, scores, resamples=0).of("auc")[0]
    assert alone.value is not None
    assert (alone.interval, alone.p) == (None, None)


def frame(rows: list[int], p: float, **columns: list[object]) -> pl.DataFrame:
    told = {"user_id": [f"u{row % 3}" for row in rows], "item_id": rows, "label": [row % 2 == 0 for row in rows]}
    return pl.DataFrame({"row": rows, "p": [p + row / 100 for row in rows]} | told | columns)


def test_runs_meet_on_the_rows_that_all_of_them_scored() -> None:
    found = same_rows({"a": frame([4, 0, 2, 1], 0.1), "b": frame([1, 2, 3, 4], 0.5)})
    assert found.rows.tolist() == [1, 2, 4]
    assert found.y.tolist() == [False, True, True]
    assert len(set(found.users.tolist())) == 2
    assert found.users[0] == found.users[2]
    np.testing.assert_allclose(found.scores["a"], [0.11, 0.12, 0.14])
    np.testing.assert_allclose(found.scores["b"], [0.51, 0.52, 0.54])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (frame([0, 1], 0.5, label=[True, True]), "scores of b: row 1 is of another user, item or label"),
        (frame([0, 1], 0.5, user_id=["u0", "u9"]), "scores of b: row 1 is of another user"),
        (frame([5, 6], 0.5), "have no row in common"),
        (frame([0, 0], 0.5), "scores of b: row 0 has two scores"),
    ],
)
def test_runs_of_other_data_are_refused(other: pl.DataFrame, message: str) -> None:
    with pytest.raises(InputError, match=message):
        same_rows({"a": frame([0, 1, 2], 0.1), "b": other})
