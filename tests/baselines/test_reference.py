"""What the baselines reach on MovieLens's ml-latest-small, against what is known of such models."""

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from sklearn.metrics import roc_auc_score
from tests.examples import mostly_slow

from palate.baselines.registry import REGISTRY, baseline_scores
from palate.baselines.statistics import BaselineData
from palate.config import PrepareConfig
from palate.measure.metrics import Metrics, measure
from palate.ratings.load import load_ratings
from palate.samples import build_samples

REAL = Path(__file__).parents[3] / "shared" / "data" / "ml-latest-small"
EXACT = {  # ../shared/reference/baselines.md: AUC, GAUC, accuracy, log loss
    "constant": (0.500, 0.500, 0.534, 0.692),
    "user-mean": (0.703, 0.500, 0.655, 0.626),
    "item-mean": (0.677, 0.667, 0.631, 0.643),
    "user-item": (0.767, 0.667, 0.695, 0.574),
    "history-mean": (0.764, 0.489, 0.689, 0.575),
}
"""Means, of which there is one way to work them out."""
LEARNED = {  # AUC, GAUC, log loss
    "factors": (0.773, 0.671, 0.567),
    "online": (0.792, 0.616, 0.548),
    "item-knn": (0.800, 0.656, 0.538),
    "logistic": (0.824, 0.687, 0.515),
    "logistic-knn": (0.831, 0.703, 0.505),
    "lightgbm-prompt": (0.798, 0.579, 0.540),
    "lightgbm-item": (0.822, 0.657, 0.514),
    "lightgbm": (0.837, 0.708, 0.495),
    "strongest": (0.839, 0.711, 0.491),
}
"""Models that are alike but not the same; the reference's own interval of the AUC is about ±0.025."""


@pytest.fixture(scope="module")
def data() -> BaselineData:
    if not REAL.is_dir():
        pytest.skip(f"{REAL} is absent")
    return BaselineData.of(build_samples(load_ratings(str(REAL)), PrepareConfig()), 13)


def measured(data: BaselineData, name: str) -> Metrics:
    (baseline,) = (each for each in REGISTRY if each.key == name)
    queries, _ = data.of_split("test")
    test = data.samples.of("test")
    users = data.samples.timeline["user_id"].gather(data.samples.position[test]).cast(pl.Int64).to_numpy()
    p = baseline.predictor(data, baseline.fitted(data))(queries)
    return measure(data.samples.label[test], p, users)


@pytest.mark.parametrize("name", list(EXACT))
def test_the_means_are_reproduced(name: str, data: BaselineData) -> None:
    got = measured(data, name)
    assert (got.n, got.users, got.gauc_users) == (8965, 610, 365)
    assert (got.auc, got.gauc, got.accuracy, got.log_loss) == pytest.approx(EXACT[name], abs=0.005)


@pytest.mark.parametrize("name", mostly_slow(LEARNED, ["factors", "online", "logistic"]))
def test_the_learned_baselines_are_as_good_as_they_are_known_to_be(name: str, data: BaselineData) -> None:
    got, (auc, gauc, log_loss) = measured(data, name), LEARNED[name]
    assert got.auc == pytest.approx(auc, abs=0.01)
    assert got.log_loss == pytest.approx(log_loss, abs=0.01)
    assert got.gauc is not None
    assert got.gauc > gauc - 0.03


@pytest.mark.slow
def test_the_strongest_lies_in_the_reference_s_interval(data: BaselineData) -> None:
    scores = baseline_scores(data.samples)
    y = data.samples.label[data.samples.of("test")]
    assert 0.813 <= max(roc_auc_score(y, scores[key]) for key in scores.columns[1:]) <= 0.860


@pytest.mark.slow
def test_the_strongest_baseline_orders_requests_without_a_time_nearly_as_well(data: BaselineData) -> None:
    (baseline,) = (each for each in REGISTRY if each.key == "strongest")
    timeless = replace(data, unused=~data.allowed)
    queries, liked = data.of_split("test")
    got = measure(liked, baseline.predictor(timeless, baseline.fitted(data))(queries), data.user[queries.anchor])
    assert got.auc is not None
    assert got.gauc is not None
    assert got.auc > 0.838
    assert got.gauc > 0.705


@pytest.mark.slow
def test_the_strongest_baseline_is_ahead_of_the_others_with_and_without_later_ratings(data: BaselineData) -> None:
    strongest, then, earlier = (measured(data, name) for name in ("strongest", "strongest-then", "lightgbm-then"))
    for found, auc, gauc in ((strongest, 0.838, 0.705), (then, (earlier.auc or 0) + 0.007, (earlier.gauc or 0) + 0.02)):
        assert (found.auc or 0) > auc
        assert (found.gauc or 0) > gauc
