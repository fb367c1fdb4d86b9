"""A model corrected by its own errors: the scan against plain NumPy, and what it may know."""

from dataclasses import replace

import numpy as np
import pytest
from tests.rated import samples_of
from tests.timelines import random_timeline

from palate.baselines import error_scans as scans
from palate.baselines.error_scans import ErrorLog, ErrorQueries, ItemContent, expected_errors
from palate.baselines.errors import Corrector
from palate.baselines.registry import RANKERS, cross_fitted
from palate.baselines.statistics import BaselineData
from palate.samples import Samples
from palate.samples.queries import Queries
from palate.text.vectors import Vectors

SAMPLES = samples_of(random_timeline())


def data_of(samples: Samples = SAMPLES) -> BaselineData:
    vectors = np.random.default_rng(2).normal(size=(len(samples.items), 8)).astype(np.float32)
    return replace(BaselineData.of(samples, vectors=Vectors(vectors, "random")), fits=1)


def log_of(rows: int, users: int = 3, items: int = 40, seed: int = 1) -> tuple[ErrorLog, ItemContent]:
    rng = np.random.default_rng(seed)
    user = np.sort(rng.integers(users, size=rows))
    first = np.searchsorted(user, user)
    logit, item = rng.normal(size=rows).astype(np.float32), rng.integers(items, size=rows)
    vectors = rng.normal(size=(items, 5)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    year = np.where(rng.random(items) < 0.3, np.nan, rng.integers(1950, 2000, items)).astype(np.float32)
    about = ItemContent(vectors, rng.integers(8, size=items).astype(np.uint64), year)
    return ErrorLog(first, item, rng.random(rows) < 0.5, logit), about


def asked(anchor: np.ndarray, item: np.ndarray, logit: np.ndarray) -> ErrorQueries:
    return ErrorQueries(anchor, item, logit.astype(np.float32), np.argsort(anchor, kind="stable"))


def plain(anchor: int, item: int, logit: float, begin: int, log: ErrorLog, about: ItemContent) -> float:
    """The mean of the process at a query, by solving the whole system."""
    rows = np.arange(begin, anchor)
    items, z = np.append(log.item[rows], item), np.append(log.logit[rows], logit).astype(np.float64)
    at = np.append(rows, anchor)
    bits = (about.genres[items][:, None] >> np.arange(3, dtype=np.uint64)) & np.uint64(1)
    norm = np.sqrt(np.maximum(bits.sum(axis=1), 1))
    years = np.exp(-np.abs(np.subtract.outer(about.year[items], about.year[items])) / scans.DECADE)
    age = np.abs(np.subtract.outer(at, at))
    k = scans.DRIFT * np.exp(-age / scans.SOON) + scans.SLOPE * np.outer(z, z)
    k += scans.GENRES * (bits.astype(float) @ bits.T) / np.outer(norm, norm) + scans.YEARS * np.nan_to_num(years)
    if about.vectors.shape[1]:
        cosine = about.vectors[items].astype(np.float64) @ about.vectors[items].T
        k += scans.TASTE * np.exp(scans.SHARP * (cosine - 1) - age / scans.LATE)
    p = 1 / (1 + np.exp(-z[:-1]))
    noise = 1 / (p * (1 - p))
    return float(k[-1, :-1] @ np.linalg.solve(k[:-1, :-1] + np.diag(noise), (log.liked[rows] - p) * noise))


@pytest.mark.parametrize("text", [True, False])
def test_the_scan_is_the_mean_of_the_process(text: bool) -> None:
    log, about = log_of(120)
    about = about if text else about._replace(vectors=np.empty((40, 0), np.float32))
    rng = np.random.default_rng(3)
    anchor, item, logit = rng.integers(120, size=50), rng.integers(40, size=50), rng.normal(size=50)
    found = expected_errors(asked(anchor, item, logit), log, about)
    expected = [
        plain(a, i, z, log.first[a], log, about) for a, i, z in zip(anchor, item, logit.astype(np.float32), strict=True)
    ]
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert np.abs(found).max() > 0.05


@pytest.mark.parametrize("end", [511, 512, 767, 768, 900])
def test_the_process_starts_anew_after_its_window(end: int) -> None:
    log, about = log_of(901, users=1)
    begin = max(end // scans.WINDOW - 1, 0) * scans.WINDOW
    (found,) = expected_errors(asked(np.array([end]), np.array([7]), np.array([0.5])), log, about)
    assert found == pytest.approx(plain(end, 7, 0.5, begin, log, about), abs=1e-4)


def test_a_query_has_the_same_bits_alone_and_among_others() -> None:
    log, about = log_of(300)
    rng = np.random.default_rng(4)
    anchor, item, logit = rng.integers(300, size=40), rng.integers(40, size=40), rng.normal(size=40)
    together = expected_errors(asked(anchor, item, logit), log, about)
    one = [slice(n, n + 1) for n in range(40)]
    alone = [expected_errors(asked(anchor[n], item[n], logit[n]), log, about)[0] for n in one]
    assert together.tolist() == alone


def test_no_answer_at_or_after_the_question_takes_part() -> None:
    log, about = log_of(200)
    anchor = np.array([60, 130, 199])
    item, logit = log.item[anchor], log.logit[anchor]
    before = expected_errors(asked(anchor, item, logit), log, about)
    for n, row in enumerate(anchor):
        liked, others = log.liked.copy(), np.arange(200)
        hidden = (others >= row) | (log.first != log.first[row])
        liked[hidden] = ~liked[hidden]
        after = expected_errors(asked(anchor, item, logit), log._replace(liked=liked), about)
        assert after[n] == before[n]
    liked = log.liked.copy()
    liked[anchor - 1] = ~liked[anchor - 1]
    assert (expected_errors(asked(anchor, item, logit), log._replace(liked=liked), about) != before).all()


def test_a_model_without_any_doubt_is_corrected_by_a_limited_amount() -> None:
    data = data_of()
    corrector = Corrector(data, lambda queries: np.where(queries.item % 2, 1e6, -1e6))
    queries, _ = data.of_split("test")
    error = corrector.score(queries) - corrector.model(queries).astype(np.float32)
    assert np.isfinite(error).all()
    assert 0 < np.abs(error).max() < 100


@pytest.mark.parametrize("key", ["corrected", "corrected-text"])
def test_training_samples_are_predicted_by_fits_on_other_users(key: str) -> None:
    """A user's answers reach the first logits of their own samples through the scale alone: two numbers."""
    data, baseline = data_of(), RANKERS[key]
    apart = baseline.fitted(data)["apart"]
    user = int(data.user[-1]) // 2
    queries, _ = data.of_split("train")
    own = data.user[queries.anchor] == user
    liked = data.liked.copy()
    last = queries.anchor[own][-1]
    liked[last] = ~liked[last]
    again = baseline.fitted(replace(data, liked=liked, linear={}))["apart"]  # the features are cached
    assert own.any()
    np.testing.assert_allclose(again[own], apart[own], atol=0.002)
    assert np.abs(again - apart)[~own].max() > 0.02
    assert np.array_equal(cross_fitted(baseline, data), baseline.predictor(data, baseline.fitted(data))(queries))


def test_a_fit_apart_predicts_a_user_from_their_past_alone() -> None:
    data, baseline = data_of(), RANKERS["corrected"]
    p = cross_fitted(baseline, data, apart=True)
    queries, _ = data.of_split("train")
    own = np.flatnonzero(data.user[queries.anchor] == int(data.user[-1]) // 2)
    middle = queries.anchor[own[len(own) // 2]]
    liked, rating = data.liked.copy(), data.rating.copy()
    later = (data.user == data.user[middle]) & (np.arange(len(liked)) >= middle)
    liked[later], rating[later] = ~liked[later], 5.5 - rating[later]
    other = replace(data, liked=liked, rating=rating, features={}, linear={}, views={}, sums={})
    again = cross_fitted(baseline, other, apart=True)
    earlier = own[queries.anchor[own] <= middle]
    assert np.array_equal(p[earlier], again[earlier])
    assert not np.array_equal(p, again)


def test_a_ranking_asks_after_the_last_rating() -> None:
    data, baseline = data_of(), RANKERS["corrected-text"]
    predict = baseline.predictor(data, baseline.fitted(data))
    anchor = int(np.flatnonzero(data.first == data.first[-1])[-1])
    items = np.arange(len(data.samples.items))
    together = predict(Queries(np.full(len(items), anchor), items))
    assert together.tolist() == [predict(Queries(np.array([anchor]), items[n : n + 1]))[0] for n in range(len(items))]
