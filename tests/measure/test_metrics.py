import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, brier_score_loss, f1_score, log_loss, roc_auc_score

from palate.measure.metrics import ece_floor, logit, measure, per_user_auc, recalibration

ROW = st.tuples(
    st.booleans(), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.5000001, 0.9, 1.0]) | st.floats(0, 1), st.integers(0, 4)
)
ROWS = st.lists(ROW, min_size=1, max_size=60)


def columns(rows: list[tuple[bool, float, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    y, p, users = zip(*rows, strict=True)
    return np.array(y, dtype=bool), np.array(p, dtype=np.float64), np.array(users, dtype=np.int64)


@given(ROWS)
def test_pooled_metrics_agree_with_scikit_learn(rows: list[tuple[bool, float, int]]) -> None:
    y, p, users = columns(rows)
    got = measure(y, p, users)
    assert got.accuracy == pytest.approx(accuracy_score(y, p >= 0.5))
    assert got.brier == pytest.approx(np.mean((p - y) ** 2))
    assert got.log_loss == pytest.approx(log_loss(y, p.clip(1e-7, 1 - 1e-7), labels=[False, True]))
    if y.any() and not y.all():
        assert got.auc == pytest.approx(roc_auc_score(y, p))
        assert got.brier == pytest.approx(brier_score_loss(y, p))
    if y.any():
        assert got.f1 == pytest.approx(f1_score(y, p >= 0.5))


@given(ROWS)
def test_gauc_is_the_mean_of_scikit_learns_auc_over_users_with_both_classes(
    rows: list[tuple[bool, float, int]],
) -> None:
    y, p, users = columns(rows)
    each = {u: (users == u) for u in np.unique(users)}
    aucs = {u: roc_auc_score(y[own], p[own]) for u, own in each.items() if len(set(y[own])) == 2}
    got = measure(y, p, users)
    assert got.users == len(each)
    assert got.gauc_users == len(aucs)
    if aucs:
        weights = [each[u].sum() for u in aucs]
        assert got.gauc == pytest.approx(np.average(list(aucs.values()), weights=weights))
        assert got.gauc_mean == pytest.approx(np.mean(list(aucs.values())))
        pairs = [y[each[u]].sum() * (~y[each[u]]).sum() for u in aucs]
        assert got.pair_auc == pytest.approx(np.average(list(aucs.values()), weights=pairs))
    else:
        assert got.gauc is None
        assert got.pair_auc is None
        assert got.gauc_mean is None


@given(ROWS)
def test_ece_weighs_the_gap_of_each_bin_by_its_rows(rows: list[tuple[bool, float, int]]) -> None:
    y, p, users = columns(rows)
    bins = np.array([min(int(value * 15), 14) for value in p])
    gaps = [abs(p[bins == b].mean() - y[bins == b].mean()) * (bins == b).mean() for b in range(15) if (bins == b).any()]
    assert measure(y, p, users).ece == pytest.approx(sum(gaps), abs=1e-12)


@pytest.mark.parametrize("decimals", [0, 1, 2, 12])
def test_thousands_of_rows_agree_with_scikit_learn_however_much_is_tied(decimals: int) -> None:
    rng = np.random.default_rng(decimals)
    users = rng.integers(150, size=4000)
    p = rng.random(4000).round(decimals)
    y = rng.random(4000) < 0.2 + 0.5 * p
    got = measure(y, p, users)
    own = [users == user for user in range(150)]
    both = [rows for rows in own if 0 < y[rows].sum() < rows.sum()]
    aucs = [roc_auc_score(y[rows], p[rows]) for rows in both]
    assert got.auc == pytest.approx(roc_auc_score(y, p), abs=1e-12)
    assert got.gauc == pytest.approx(np.average(aucs, weights=[rows.sum() for rows in both]), abs=1e-12)
    assert got.gauc_mean == pytest.approx(np.mean(aucs), abs=1e-12)
    assert (got.users, got.gauc_users) == (150, len(both))
    assert got.accuracy == pytest.approx(accuracy_score(y, p >= 0.5))
    assert got.f1 == pytest.approx(f1_score(y, p >= 0.5))
    assert got.brier == pytest.approx(brier_score_loss(y, p))


@pytest.mark.parametrize("levels", [4, 300])
def test_ece_is_the_gap_of_scikit_learns_calibration_curve_weighted_by_rows(levels: int) -> None:
    rng = np.random.default_rng(levels)
    p = (rng.integers(levels, size=3000) + 0.37) / levels  # tied, and on no edge: scikit-learn's bins are open there
    y = rng.random(3000) < p**2
    liked, predicted = calibration_curve(y, p, n_bins=15)
    counts = np.histogram(p, bins=np.linspace(0, 1, 16))[0]
    expected = (np.abs(liked - predicted) * counts[counts > 0]).sum() / 3000
    assert measure(y, p, np.arange(3000)).ece == pytest.approx(expected)


def test_the_floor_of_ece_is_what_calibrated_models_show_on_as_many_rows() -> None:
    rng = np.random.default_rng(1)
    p = rng.random(300)
    shown = [measure(rng.random(300) < p, p, np.arange(300)).ece for _ in range(100)]
    assert ece_floor(p) == pytest.approx(np.mean(shown), rel=0.1)
    assert ece_floor(p) == ece_floor(p)
    assert ece_floor(np.tile(p, 16)) == pytest.approx(ece_floor(p) / 4, rel=0.15)
    assert ece_floor((p > 0.5).astype(float)) == 0


def test_a_perfect_model_scores_perfectly_and_its_opposite_does_not() -> None:
    y, users = np.array([True, False, True, False]), np.array([0, 0, 1, 1])
    good, bad = measure(y, y.astype(float), users), measure(y, 1.0 - y, users)
    assert (good.auc, good.gauc, good.accuracy, good.f1, good.ece) == (1, 1, 1, 1, 0)
    assert (bad.auc, bad.gauc, bad.accuracy, bad.f1, bad.ece) == (0, 0, 0, 0, 1)


def test_per_user_auc_does_not_depend_on_the_order_of_rows() -> None:
    rng = np.random.default_rng(0)
    y, p, users = rng.random(200) < 0.5, rng.random(200).round(1), rng.integers(9, size=200)
    shuffled = rng.permutation(200)
    expected = per_user_auc(y, p, users)
    got = per_user_auc(y[shuffled], p[shuffled], users[shuffled])
    np.testing.assert_allclose(got[0], expected[0])
    np.testing.assert_array_equal(got[1], expected[1])


@pytest.mark.parametrize("label", [False, True])
def test_one_class_alone_has_no_auc_but_an_accuracy(label: bool) -> None:
    got = measure(np.full(3, label), np.array([0.2, 0.6, 0.7]), np.zeros(3, dtype=np.int64))
    assert (got.auc, got.gauc, got.gauc_mean, got.gauc_users) == (None, None, None, 0)
    assert got.accuracy == pytest.approx(2 / 3 if label else 1 / 3)
    assert got.log_loss is not None


def test_f1_is_undefined_where_nothing_is_liked_nor_predicted_to_be() -> None:
    assert measure(np.zeros(2, dtype=bool), np.array([0.1, 0.2]), np.zeros(2, dtype=np.int64)).f1 is None


def test_no_rows_have_no_metrics() -> None:
    got = measure(np.empty(0, dtype=bool), np.empty(0), np.empty(0, dtype=np.int64))
    assert (got.n, got.users, got.auc, got.accuracy, got.log_loss, got.ece) == (0, 0, None, None, None, None)


def test_a_certain_mistake_costs_a_finite_log_loss() -> None:
    got = measure(np.array([True, False]), np.array([0.0, 1.0]), np.array([0, 0]))
    assert got.log_loss == pytest.approx(-np.log(1e-7))


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_score_that_is_no_probability_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="not within"):
        measure(np.array([True, False]), np.array([0.5, wrong]), np.array([0, 0]))


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="2 labels, 1 scores"):
        measure(np.array([True, False]), np.array([0.5]), np.array([0, 0]))


def test_auc_over_pairs_does_not_move_with_the_rows_drawn_where_gauc_does() -> None:
    rng = np.random.default_rng(3)
    size = rng.integers(4, 200, 300)
    users = np.repeat(np.arange(300), size)
    skill = np.repeat(np.where(size > 100, 0.2, 3.0), size)  # long users are hard to sort, as on real logs
    z = rng.normal(size=len(users))
    y = rng.random(len(users)) < 1 / (1 + np.exp(-skill * z))
    p = 1 / (1 + np.exp(-z))
    whole, parts = measure(y, p, users), []
    for seed in range(40):
        drawn = np.random.default_rng(seed).choice(len(users), len(users) // 40, replace=False)
        parts.append(measure(y[drawn], p[drawn], users[drawn]))
    error = np.std([part.pair_auc for part in parts]) / np.sqrt(len(parts))
    assert np.mean([part.pair_auc for part in parts]) == pytest.approx(whole.pair_auc, abs=4 * error)
    assert abs(np.mean([part.gauc for part in parts]) - whole.gauc) > 4 * error


@pytest.mark.parametrize(("intercept", "slope"), [(0, 1), (0.7, 0.5), (-1, 2)])
def test_slope_and_intercept_are_those_of_scikit_learns_logistic_regression(intercept: float, slope: float) -> None:
    rng = np.random.default_rng(5)
    p = rng.random(3000)
    y = rng.random(3000) < 1 / (1 + np.exp(-intercept - slope * logit(p)))
    line = LogisticRegression(C=np.inf, tol=1e-10).fit(logit(p)[:, None], y)
    assert recalibration(y, p) == pytest.approx((line.intercept_[0], line.coef_[0, 0]), abs=1e-4)
    assert recalibration(y, p) == pytest.approx((intercept, slope), abs=0.2)


@given(ROWS)
def test_a_recalibration_is_a_stationary_point_or_does_not_exist(rows: list[tuple[bool, float, int]]) -> None:
    y, p, _ = columns(rows)
    line = recalibration(y, p)
    if line is None:
        return
    z = logit(p)
    residual = y - 1 / (1 + np.exp(-line[0] - line[1] * z))
    assert abs(residual.mean()) < 1e-6
    assert abs((residual * z).mean()) < 1e-4


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("y", [[], [True], [True, True], [True, False]])
def test_a_recalibration_that_does_not_exist_is_none_without_a_warning(y: list[bool]) -> None:
    assert recalibration(np.array(y, bool), np.full(len(y), 0.5)) is None
