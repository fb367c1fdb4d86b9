"""The factors of a sum: as a plain optimizer finds them, and 0 where the language model adds nothing."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from palate.errors import InputError
from palate.measure.calibration import CalibrationSource, sigmoid
from palate.measure.offset import FILE, PENALTY, Offset, fit_offset, load_offset, log_odds, write_offset

SOURCE = CalibrationSource("model", {}, "prompt")


def drawn(n: int, seed: int, alpha: float) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray, np.ndarray]:
    """Logits of a baseline and of a language model that contributes `alpha` of its own, labels, and users."""
    rng = np.random.default_rng(seed)
    z0, z = rng.normal(0, 1.2, n), rng.normal(-3, 2, n)
    return (z0, z), rng.random(n) < sigmoid(z0 + alpha * (z + 3)), rng.integers(0, n // 8, n)


def fitted(n: int, seed: int, alpha: float) -> Offset:
    logits, liked, users = drawn(n, seed, alpha)
    found = fit_offset("logistic", logits, liked, users, source=SOURCE)
    assert found is not None
    return found


def test_the_factors_are_those_of_a_penalized_logistic_regression_with_an_offset() -> None:
    (z0, z), liked, _ = drawn(500, 0, 0.4)
    x = np.column_stack([(z - z.mean()) / z.std(), np.ones_like(z)])

    def loss(w: np.ndarray) -> float:
        s = z0 + x @ w
        return float((np.logaddexp(0, s) - liked * s).sum() + PENALTY / 2 * w @ w)

    slope, intercept = minimize(loss, np.zeros(2), method="BFGS", options={"gtol": 1e-8}).x
    found = fitted(500, 0, 0.4)
    assert found.alpha == found.slope == pytest.approx(slope / z.std(), rel=1e-4)
    assert found.intercept == pytest.approx(intercept - slope * z.mean() / z.std(), rel=1e-3)
    assert found.interval is not None
    assert 0 < found.interval.low < 0.4 < found.interval.high < 0.8
    assert found.losses is not None
    assert found.losses["sum"] < found.losses["baseline"]


def test_noise_leaves_the_baseline_as_it_is_or_nearly_so() -> None:
    found = [fitted(300, seed, 0.0) for seed in range(10)]
    assert np.mean([each.alpha == 0 for each in found]) >= 0.6
    assert max(each.alpha for each in found) < 0.15
    contained = [each.interval and each.interval.low <= 0 <= each.interval.high for each in found]
    assert np.mean(contained) >= 0.8


def test_a_model_that_is_upside_down_is_left_out() -> None:
    found = fitted(500, 1, -0.5)
    assert (found.alpha, found.intercept) == (0, 0)
    assert found.slope is not None
    assert found.slope < -0.2


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.floats(-50, 50))
def test_with_alpha_0_the_sum_is_the_baseline(p: list[float], z: float) -> None:
    baseline = np.array(p)
    found = sigmoid(Offset("logistic", 0.0, 0.0).added(baseline, np.full(len(p), z)))
    np.testing.assert_allclose(found, baseline, atol=2e-9)


def test_too_few_rows_have_no_fit() -> None:
    logits, liked, users = drawn(40, 0, 1.0)
    some = np.arange(19)
    few = fit_offset("logistic", (logits[0][some], logits[1][some]), liked[some], users[some], source=SOURCE)
    assert few is None
    assert fit_offset("logistic", logits, np.ones(40, bool), users, source=SOURCE) is None


def test_a_file_is_of_one_adapter(tmp_path: Path) -> None:
    found = fitted(200, 2, 0.5)
    write_offset(tmp_path / FILE, found)
    assert load_offset(tmp_path) == found
    assert load_offset(tmp_path / "none") is None
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match=r"offset.json: was fitted to the scores of another model, adapter or prompt"):
        load_offset(tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    value = json.loads((tmp_path / FILE).read_text())
    for alpha in (-0.1, float("nan"), "much"):
        (tmp_path / FILE).write_text(json.dumps(value | {"offset": value["offset"] | {"alpha": alpha}}))
        with pytest.raises(InputError, match=r"offset.json: (has alpha .*, expected finite numbers|is damaged)"):
            load_offset(tmp_path)


def test_log_odds_stay_finite() -> None:
    assert np.isfinite(log_odds(np.array([0.0, 1.0]))).all()
