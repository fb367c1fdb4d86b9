from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.examples import examples

from palate.measure import bootstrap as module
from palate.measure.bootstrap import Interval, bootstrap, detectable, interval
from palate.measure.metrics import measure, metrics_in, recalibration

METRICS = ("auc", "gauc", "pair_auc", "accuracy", "f1", "log_loss", "brier")


def rows(seed: int, n: int = 120, users: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, tied scores and users with gaps in their ids."""
    rng = np.random.default_rng(seed)
    p = rng.random(n).round(1)
    return rng.random(n) < 0.2 + 0.6 * p, p, rng.integers(users, size=n) * 7 + 3


def naive(y: np.ndarray, p: np.ndarray, users: np.ndarray, counts: np.ndarray) -> dict[str, float]:
    """Measure a resample row by row; a user drawn twice is two users, as for the per-user AUC it must be."""
    parts = [(np.flatnonzero(users == u), c) for u, c in zip(np.unique(users), counts.astype(int), strict=True)]
    chosen = np.concatenate([np.tile(own, c) for own, c in parts])
    copies = np.concatenate([np.repeat(np.arange(c), len(own)) for own, c in parts])
    got = asdict(measure(y[chosen], p[chosen], users[chosen] * 1000 + copies))
    return {name: np.nan if got[name] is None else got[name] for name in METRICS}


@examples(15)
@given(st.integers(0, 10_000), st.integers(2, 12))
def test_replicates_equal_measuring_copied_rows(seed: int, n_users: int) -> None:
    y, p, users = rows(seed, n=40, users=n_users)
    n_users = len(np.unique(users))
    if n_users < 2:
        return
    got = bootstrap(y, users, {"model": p}, resamples=8, seed=seed)["model"]
    counts = np.concatenate(list(module.user_counts(n_users, 8, 8, seed)))
    expected = [naive(y, p, users, row) for row in counts]
    for name in METRICS:
        np.testing.assert_allclose(got[name], [e[name] for e in expected], rtol=1e-9, atol=1e-12, err_msg=name)


def test_ece_has_no_interval_and_no_paired_test() -> None:
    y, p, users = rows(4)
    assert "ece" not in bootstrap(y, users, {"model": p}, resamples=5, seed=9)["model"]
    assert "ece" not in [metric.key for metric in metrics_in("pairs")]


def test_a_resample_draws_as_many_users_as_there_are() -> None:
    counts = np.concatenate(list(module.user_counts(30, 200, 64, 1)))
    assert counts.shape == (200, 30)
    assert (counts.sum(axis=1) == 30).all()
    assert counts.var() == pytest.approx(29 / 30, abs=0.1)  # of a binomial(30, 1/30)


def test_the_size_of_the_blocks_does_not_change_the_replicates(monkeypatch: pytest.MonkeyPatch) -> None:
    y, p, users = rows(4)
    whole = bootstrap(y, users, {"model": p}, resamples=50, seed=9)["model"]
    monkeypatch.setattr(module, "BLOCK", 7 * len(y))
    blocks = bootstrap(y, users, {"model": p}, resamples=50, seed=9)["model"]
    for name in METRICS:
        np.testing.assert_allclose(blocks[name], whole[name], rtol=1e-12, err_msg=name)


def test_models_are_measured_on_the_same_resamples() -> None:
    y, p, users = rows(5)
    got = bootstrap(y, users, {"one": p, "same order": p / 2 + 0.1}, resamples=50, seed=2)
    np.testing.assert_array_equal(got["one"]["auc"], got["same order"]["auc"])


def test_the_seed_decides_the_resamples() -> None:
    y, p, users = rows(6)
    first, again, other = (bootstrap(y, users, {"m": p}, resamples=20, seed=s)["m"]["auc"] for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_rows_of_one_user_widen_the_interval() -> None:
    """Ten equal rows for each of 60 users say no more than one row each."""
    rng = np.random.default_rng(7)
    p = rng.random(60)
    y = rng.random(60) < p
    each = bootstrap(y, np.arange(60), {"m": p}, resamples=400, seed=1)["m"]["auc"]
    tenfold = bootstrap(np.repeat(y, 10), np.repeat(np.arange(60), 10), {"m": np.repeat(p, 10)}, resamples=400, seed=1)
    np.testing.assert_allclose(tenfold["m"]["auc"], each)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(8)
    covered = 0
    for seed in range(120):
        y = rng.random(300) < 0.5
        p = 1 / (1 + np.exp(-(rng.normal(size=300) + y)))  # AUC = Φ(1/√2) = 0.7602
        found = interval(bootstrap(y, np.arange(300), {"m": p}, resamples=200, seed=seed)["m"]["auc"])
        assert found is not None
        covered += found.low <= 0.7602 <= found.high
    assert 0.88 <= covered / 120 <= 1.0


def test_a_difference_of_the_detectable_size_is_found_in_four_of_five_cases() -> None:
    estimates = np.random.default_rng(3).normal(detectable(Interval(-1.96, 1.96)), 1, size=20_000)
    assert (estimates > 1.96).mean() == pytest.approx(0.8, abs=0.01)


def test_one_user_has_no_interval() -> None:
    y, p, users = np.array([True, False]), np.array([0.6, 0.4]), np.array([5, 5])
    assert interval(bootstrap(y, users, {"m": p}, resamples=10, seed=1)["m"].get("auc")) is None


def test_no_resamples_give_no_interval() -> None:
    y, p, users = rows(1)
    assert interval(bootstrap(y, users, {"m": p}, resamples=0, seed=1)["m"].get("auc")) is None


def test_one_class_has_no_interval_of_the_auc_but_one_of_the_accuracy() -> None:
    _, p, users = rows(2)
    got = bootstrap(np.ones(len(p), dtype=bool), users, {"m": p}, resamples=50, seed=1)["m"]
    assert interval(got["auc"]) is None
    assert interval(got["accuracy"]) is not None


def test_the_interval_leaves_out_resamples_that_are_undefined() -> None:
    values = np.concatenate([np.linspace(0, 1, 201), np.full(50, np.nan)])
    assert interval(values) == Interval(pytest.approx(0.025), pytest.approx(0.975))


def test_slope_and_intercept_move_as_those_of_lines_fitted_to_each_resample() -> None:
    y, p, users = rows(8, n=1500, users=150)
    got = bootstrap(y, users, {"model": p}, resamples=200, seed=3)["model"]
    counts = np.concatenate(list(module.user_counts(150, 200, 200, 3)))
    lines = [recalibration(y[chosen], p[chosen]) for chosen in (_copied(users, row) for row in counts)]
    for name, fitted in zip(("intercept", "slope"), np.array(lines).T, strict=True):
        assert np.std(got[name]) == pytest.approx(np.std(fitted), rel=0.1)
        assert np.corrcoef(got[name], fitted)[0, 1] > 0.98


def _copied(users: np.ndarray, counts: np.ndarray) -> np.ndarray:
    each = np.unique(users, return_inverse=True)[1]
    return np.repeat(np.arange(len(users)), counts[each].astype(int))


def test_a_line_that_does_not_exist_has_no_replicates() -> None:
    y, users = np.array([True, False, True, False]), np.arange(4)
    got = bootstrap(y, users, {"model": np.full(4, 0.5)}, resamples=20, seed=1)["model"]
    assert not {"slope", "intercept"} & got.keys()
