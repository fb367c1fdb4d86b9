import json
from dataclasses import asdict

import numpy as np
import pytest

from palate.errors import InputError
from palate.evaluate.bootstrap import bootstrap, interval
from palate.evaluate.metrics import measure
from palate.evaluate.seeds import OverSeeds, _student, over_seeds, spread_interval


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


def test_without_resamples_or_with_one_class_there_is_no_interval() -> None:
    y, users, scores = rows()
    assert over_seeds(y, users, scores, name="m", resamples=0).spread["auc"].interval is None
    one_class = over_seeds(np.ones(300, dtype=bool), users, scores, name="m", against=("b", scores["13"]), resamples=10)
    assert one_class.spread["auc"] is None
    assert one_class.differences["auc"] is None
    assert one_class.spread["log_loss"].interval is not None


def test_one_seed_is_refused() -> None:
    y, users, scores = rows()
    with pytest.raises(InputError, match="fine-tuned: 1 of seeds"):
        over_seeds(y, users, {"13": scores["13"]}, name="fine-tuned")


def test_seeds_survive_json() -> None:
    y, users, scores = rows()
    found = over_seeds(y, users, scores, name="m", against=("b", scores["13"]), resamples=20)
    assert OverSeeds.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False))) == found
