import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import auc, roc_auc_score

from palate.measure.curves import histogram, reliability, roc

PAIRS = st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=1, max_size=80)


@given(PAIRS)
def test_reliability_bins_hold_every_row_once_and_its_means(pairs: list[tuple[bool, float]]) -> None:
    y, p = np.array([a for a, _ in pairs]), np.array([b for _, b in pairs])
    bins = reliability(y, p)
    assert len(bins) == 15
    assert sum(b.count for b in bins) == len(y)
    assert sum(b.count * (b.mean_p or 0) for b in bins) == pytest.approx(p.sum())
    assert sum(b.count * (b.share_liked or 0) for b in bins) == pytest.approx(y.sum())
    assert all((b.mean_p is None) == (b.count == 0) for b in bins)


def test_reliability_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    p = rng.random(500)
    y = rng.random(500) < p
    liked, predicted = calibration_curve(y, p, n_bins=15)
    filled = [b for b in reliability(y, p) if b.count]
    np.testing.assert_allclose([b.share_liked for b in filled], liked)
    np.testing.assert_allclose([b.mean_p for b in filled], predicted)


@given(PAIRS)
def test_histogram_counts_each_class_apart(pairs: list[tuple[bool, float]]) -> None:
    y, p = np.array([a for a, _ in pairs]), np.array([b for _, b in pairs])
    bins = histogram(y, p)
    assert (sum(b.liked for b in bins), sum(b.disliked for b in bins)) == (y.sum(), (~y).sum())


def test_probabilities_at_the_edges_fall_inside() -> None:
    bins = histogram(np.array([True, False]), np.array([1.0, 0.0]))
    assert (bins[0].disliked, bins[-1].liked) == (1, 1)


@given(PAIRS.filter(lambda pairs: len({a for a, _ in pairs}) == 2))
def test_a_short_roc_curve_is_exact(pairs: list[tuple[bool, float]]) -> None:
    y, p = np.array([a for a, _ in pairs]), np.array([b for _, b in pairs])
    points = np.array(roc(y, p))
    assert tuple(points[0]) == (0, 0)
    assert tuple(points[-1]) == (1, 1)
    assert auc(points[:, 0], points[:, 1]) == pytest.approx(roc_auc_score(y, p), abs=1e-4)


def test_a_thinned_roc_curve_keeps_its_ends_and_its_area() -> None:
    rng = np.random.default_rng(5)
    p = rng.random(20_000)
    y = rng.random(20_000) < p
    points = np.array(roc(y, p))
    assert 150 < len(points) <= 200
    assert tuple(points[0]) == (0, 0)
    assert tuple(points[-1]) == (1, 1)
    assert (np.diff(points, axis=0) >= 0).all()
    assert auc(points[:, 0], points[:, 1]) == pytest.approx(roc_auc_score(y, p), abs=2e-3)


def test_one_class_has_no_roc_curve() -> None:
    assert roc(np.array([True, True]), np.array([0.1, 0.2])) == []
