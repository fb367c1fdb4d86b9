from dataclasses import asdict

import numpy as np
import pytest

from palate.errors import InputError
from palate.measure.bootstrap import Interval, bootstrap, interval
from palate.measure.metrics import measure
from palate.measure.seeds import Spread, _student, over_seeds, spread_interval


def rows(n: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Labels, users, and scores of three seeds that lie apart."""
    rng = np.random.default_rng(seed)
    y = rng.random(n) < 0.5
    scores = {
        str(s): 1 / (1 + np.exp(-(weight * (2.0 * y - 1) + rng.normal(size=n))))
        for s, weight in ((13, 0.4), (14, 0.7), (15, 1.0))
    }
    return y, rng.integers(40, size=n), scores


def test_mean_and_deviation_are_those_of_the_seeds_metrics() -> None:
    y, users, scores = rows()
    found = over_seeds(y, users, scores, name="fine-tuned", resamples=50)
    each = [asdict(measure(y, p, users)) for p in scores.values()]
    assert list(found.seeds) == ["13", "14", "15"]
    for metric, spread in found.spread.items():
        values = [metrics[metric] for metrics in each]
        assert spread is not None
        assert spread.mean == pytest.approx(np.mean(values))
        assert spread.sd == pytest.approx(np.std(values, ddof=1))
        assert (spread.low, spread.high) == (min(values), max(values))
        assert spread.interval is not None
        assert spread.interval.low < spread.mean < spread.interval.high


def test_equal_seeds_leave_the_interval_of_users_and_others_widen_it() -> None:
    y, users, scores = rows()
    same = over_seeds(y, users, dict.fromkeys("abc", scores["14"]), name="m", resamples=200).spread["auc"]
    alone = interval(bootstrap(y, users, {"m": scores["14"]}, resamples=200, seed=13)["m"]["auc"])
    apart = over_seeds(y, users, scores, name="m", resamples=200).spread["auc"]
    assert same is not None
    assert apart is not None
    assert (same.sd, same.interval.low, same.interval.high) == pytest.approx((0, alone.low, alone.high))
    assert apart.interval.high - apart.interval.low > same.interval.high - same.interval.low


def test_the_interval_covers_the_truth_of_all_users_and_seeds_where_that_of_users_does_not() -> None:
    rng = np.random.default_rng(0)
    student = _student(2, 400, 1)
    both = alone = 0
    for _ in range(400):
        of_users, of_seeds = rng.normal(0, 0.01), rng.normal(0, 0.02, size=3)
        values = 0.8 + of_users + of_seeds
        means = rng.normal(values.mean(), 0.01, size=400)
        wide, narrow = spread_interval(values, means, student), interval(means)
        assert wide is not None
        assert narrow is not None
        both += wide.low <= 0.8 <= wide.high
        alone += narrow.low <= 0.8 <= narrow.high
    assert both / 400 >= 0.93
    assert alone / 400 < 0.85


def test_a_difference_is_that_of_each_seed_on_the_same_resamples() -> None:
    y, users, scores = rows()
    other = scores["13"].round(1)
    found = over_seeds(y, users, scores, name="m", against=("item-mean", other), resamples=100)
    beside = asdict(measure(y, other, users))
    assert found.against == "item-mean"
    for metric, difference in found.differences.items():
        assert difference is not None
        assert difference.mean == pytest.approx(found.spread[metric].mean - beside[metric])
        assert difference.sd == pytest.approx(found.spread[metric].sd)
    itself = over_seeds(y, users, dict.fromkeys("ab", other), name="m", against=("same", other), resamples=100)
    auc = itself.differences["auc"]
    assert (auc.mean, auc.interval.low, auc.interval.high) == (0, 0, 0)


def test_a_difference_of_the_detectable_size_is_found_in_four_of_five_cases_over_users_and_seeds() -> None:
    rng, (users, seeds, n) = np.random.default_rng(0), (0.01, 0.01, 4)
    student = _student(n - 1, 1000, 1)
    sizes, found = [], []
    for _ in range(2000):
        of_seeds = rng.normal(0, seeds, size=n)
        error = rng.normal(0, users) + of_seeds.mean()
        between = spread_interval(of_seeds, rng.normal(0, users, size=1000), student)
        assert between is not None
        spread = Spread(0.0, float(of_seeds.std(ddof=1)), 0.0, 0.0, between, n)
        sizes.append(spread.detectable)
        found.append((error, -between.low))
    errors, halves = np.array(found).T
    assert np.mean(np.mean(sizes) + errors > halves) == pytest.approx(0.8, abs=0.04)


@pytest.mark.parametrize(
    ("sd", "half", "errors"),
    [(0.0, 1.96, 2.8), (np.sqrt(3), 4.303, 4.303 + 1.061)],
)
def test_the_detectable_size_is_that_of_users_or_of_seeds_where_the_other_is_none(
    sd: float, half: float, errors: float
) -> None:
    assert Spread(0.0, sd, 0.0, 0.0, Interval(-half, half), 3).detectable == pytest.approx(errors, rel=0.001)


def test_without_resamples_or_with_one_class_there_is_no_interval() -> None:
    y, users, scores = rows()
    assert over_seeds(y, users, scores, name="m", resamples=0).spread["auc"].interval is None
    one_class = over_seeds(np.ones(300, dtype=bool), users, scores, name="m", against=("b", scores["13"]), resamples=10)
    assert one_class.spread["auc"] is None
    assert one_class.differences["auc"] is None
    assert one_class.spread["log_loss"].interval is not None


def test_one_seed_is_refused() -> None:
    y, users, scores = rows()
    with pytest.raises(InputError, match="fine-tuned: has scores of 1 seed"):
        over_seeds(y, users, {"13": scores["13"]}, name="fine-tuned")
