"""The AUC and its interval over clusters, against scikit-learn and against the bootstrap over users."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from palate.measure.bootstrap import bootstrap, interval
from palate.measure.leaks.clustered import clustered_auc


def drawn(seed: int, users: int = 120) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores in steps of a tenth, labels and users of rows: users differ in both."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), rng.integers(1, 30, users))
    taste = rng.normal(size=users)[user]
    score = np.round(1 / (1 + np.exp(-taste - rng.normal(size=user.size))), 1)
    return score, taste + rng.normal(size=user.size) > 0.3, user


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_auc_with_the_interval_of_the_bootstrap_over_users(seed: int) -> None:
    score, label, user = drawn(seed)
    found = clustered_auc(score, label.astype(float), (~label).astype(float), user)

    assert found is not None
    assert found.value == pytest.approx(roc_auc_score(label, score))
    replicates = bootstrap(label, user, {"": score}, resamples=1000, seed=1)[""]["auc"]
    expected = interval(replicates)
    assert expected is not None
    assert found.low == pytest.approx(expected.low, abs=0.01)
    assert found.high == pytest.approx(expected.high, abs=0.01)


def test_rows_that_share_a_score_and_a_user_may_stand_in_one_cell() -> None:
    score, label, user = drawn(4)
    cell, at = np.unique(np.column_stack([user, np.round(10 * score)]), axis=0, return_inverse=True)
    yes, no = np.bincount(at, label), np.bincount(at, ~label)

    cells = clustered_auc(cell[:, 1], yes, no, cell[:, 0].astype(int))
    assert cells == clustered_auc(score, label.astype(float), (~label).astype(float), user)


def test_one_user_of_a_class_leaves_its_spread_unknown() -> None:
    yes, no = np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 1.0])
    assert clustered_auc(np.array([0.3, 0.1, 0.2]), yes, no, np.arange(3)) is None
    assert clustered_auc(np.array([0.3, 0.1, 0.2]), np.ones(3), np.zeros(3), np.arange(3)) is None
