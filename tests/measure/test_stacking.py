"""Stacking: as scikit-learn would, and honest about what the logit adds."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import scale

from palate.measure.stacking import fit_stack


def drawn(n: int, seed: int, of_logit: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A logit, two statistics, and labels to which the logit and the first statistic contribute."""
    rng = np.random.default_rng(seed)
    logit, statistics = rng.normal(size=n), rng.normal(3.0, 2.0, size=(n, 2))
    return logit, statistics, rng.logistic(size=n) < of_logit * logit + 0.8 * (statistics[:, 0] - 3)


def test_the_stack_is_a_logistic_regression_on_standardized_features() -> None:
    logit, statistics, liked = drawn(400, 0)
    found = fit_stack(logit, statistics, liked, ("a", "b"), logit, statistics)
    assert found is not None
    x = scale(np.column_stack([logit, statistics]))
    plain = LogisticRegression().fit(x, liked)
    np.testing.assert_allclose(found.stacked, plain.predict_proba(x)[:, 1], atol=1e-3)
    assert list(found.weights) == ["logit", "a", "b"]
    assert found.weights["logit"] > found.weights["b"]
    assert found.rows == 400


def test_alone_does_not_look_at_the_logit() -> None:
    logit, statistics, liked = drawn(400, 1)
    asked = drawn(300, 2)
    found = fit_stack(logit, statistics, liked, ("a", "b"), asked[0], asked[1])
    other = fit_stack(-logit, statistics, liked, ("a", "b"), 7 * asked[0], asked[1])
    assert found is not None
    assert other is not None
    np.testing.assert_array_equal(found.alone, other.alone)
    assert roc_auc_score(asked[2], found.stacked) > roc_auc_score(asked[2], found.alone) + 0.03


def test_a_logit_that_knows_nothing_adds_nothing() -> None:
    logit, statistics, liked = drawn(3000, 3, of_logit=0.0)
    asked = drawn(3000, 4, of_logit=0.0)
    found = fit_stack(logit, statistics, liked, ("a", "b"), asked[0], asked[1])
    assert found is not None
    assert roc_auc_score(asked[2], found.stacked) == pytest.approx(roc_auc_score(asked[2], found.alone), abs=0.005)


def test_a_statistic_that_is_not_known_takes_its_mean() -> None:
    logit, statistics, liked = drawn(200, 5)
    holes = statistics.copy()
    holes[::7, 1] = np.nan
    filled = np.where(np.isnan(holes), np.nanmean(holes, axis=0), holes)
    found = fit_stack(logit, holes, liked, ("a", "b"), logit, holes)
    expected = fit_stack(logit, filled, liked, ("a", "b"), logit, filled)
    assert found is not None
    assert expected is not None
    np.testing.assert_allclose(found.stacked, expected.stacked)


def test_too_little_to_fit_on_gives_none() -> None:
    logit, statistics, liked = drawn(49, 0)
    assert fit_stack(logit, statistics, liked, ("a", "b"), logit, statistics) is None
    logit, statistics, liked = drawn(90, 0)
    assert fit_stack(logit, statistics, np.zeros_like(liked), ("a", "b"), logit, statistics) is None
    found = fit_stack(logit, statistics, liked, ("a", "b"), logit[:0], statistics[:0])
    assert found is not None
    assert found.stacked.shape == found.alone.shape == (0,)
