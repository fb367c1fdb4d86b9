"""Features of text against the same sums, one question at a time; what they must not know; and the control."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.baselines.test_features import SAMPLES, some, with_another_future
from tests.examples import examples
from tests.rated import samples_of
from tests.timelines import HISTORY_LEN, split_by_user_and_time

from palate.baselines import registry
from palate.baselines.features import features_of
from palate.baselines.kept import Kept
from palate.baselines.registry import RANKERS, REGISTRY, chosen_baselines, fit_baselines, fit_one
from palate.baselines.statistics import BaselineData
from palate.baselines.text import KERNELS, PARTS, PENALTY, ridge_columns, text_features, text_prior
from palate.config import READS_TEXT
from palate.measure.paired import Paired, compare
from palate.samples import Samples
from palate.samples.queries import Queries
from palate.text.vectors import Vectors

READERS = [baseline.key for baseline in REGISTRY if baseline.reads_text]


def random_vectors(items: int = 60, d: int = 12, seed: int = 0) -> Vectors:
    return Vectors(np.random.default_rng(seed).normal(size=(items, d)).astype(np.float32), f"random {seed}")


KNOWN = BaselineData.of(SAMPLES, vectors=random_vectors())


def naive_tastes(anchor: int, item: int, window: int) -> dict[str, float]:
    rows = np.arange(max(KNOWN.first[anchor], anchor - window), anchor)
    centred = KNOWN.vectors.centred.astype(float)  # type: ignore[union-attr]
    cosine = centred[KNOWN.item[rows]] @ centred[item]
    above = KNOWN.residual[rows] - KNOWN.residual[rows].mean()
    found = {}
    for beta, shrinkage in KERNELS.items():
        w = np.exp(beta * (cosine - 1))
        found[f"taste {beta:g}"] = (w * above).sum() / (w.sum() + shrinkage)
    found["likeness"] = np.log(w.sum() + 1e-6)
    for name, among in (("liked", KNOWN.liked[rows]), ("disliked", ~KNOWN.liked[rows])):
        found[f"nearest {name}"] = cosine[among].max() if among.any() else np.nan
    return found


@pytest.mark.parametrize(("ending", "window"), [("", 10**9), (" of the last", HISTORY_LEN)])
def test_tastes_are_kernel_means_over_the_past(ending: str, window: int) -> None:
    asked = some()
    found = text_features(KNOWN, asked)
    for q in range(len(asked)):
        for name, value in naive_tastes(int(asked.anchor[q]), int(asked.item[q]), window).items():
            assert found[name + ending][q] == pytest.approx(value, abs=1e-5, nan_ok=True), name


def test_the_ridge_is_a_regression_on_the_users_own_past() -> None:
    asked = some()
    found = text_features(KNOWN, asked)["text ridge"]
    assert KNOWN.vectors is not None
    x = np.hstack([np.ones((60, 1)), ridge_columns(KNOWN)])
    penalty = np.diag([2.0, *[PENALTY] * (x.shape[1] - 1)])
    for q, (anchor, item) in enumerate(zip(asked.anchor.tolist(), asked.item.tolist(), strict=True)):
        rows = slice(KNOWN.first[anchor], anchor)
        past = x[KNOWN.item[rows]]
        weights = np.linalg.solve(past.T @ past + penalty, past.T @ KNOWN.residual[rows])
        assert found[q] == pytest.approx(x[item, 1:] @ weights[1:], abs=1e-8)


def with_other_ratings(rows: np.ndarray) -> BaselineData:
    rating = np.where(rows, 5.5 - KNOWN.rating, KNOWN.rating)
    samples = replace(SAMPLES, timeline=SAMPLES.timeline.with_columns(rating=rating))
    return BaselineData.of(samples, vectors=KNOWN.vectors)


@pytest.mark.parametrize("item", [0, 7, 31])
def test_the_prior_of_an_item_has_none_of_its_ratings_and_none_of_the_users_fold(item: int) -> None:
    before, others = text_prior(KNOWN), np.arange(60) % PARTS != item % PARTS
    of_item = text_prior(with_other_ratings(KNOWN.item == item))
    assert np.array_equal(of_item[:, item], before[:, item])
    assert (of_item[:, others] != before[:, others]).mean() > 0.8
    of_fold = text_prior(with_other_ratings(KNOWN.fold == 3))
    assert np.array_equal(of_fold[3], before[3])
    assert (of_fold[4] != before[4]).any()


@examples(15)
@given(st.sampled_from(SAMPLES.position[SAMPLES.of("test")].tolist()), st.integers(0, 10**6))
def test_nothing_that_came_after_the_anchor_is_seen(anchor: int, seed: int) -> None:
    asked = Queries(np.full(60, anchor), np.arange(60))
    changed = BaselineData.of(with_another_future(SAMPLES, anchor, seed), vectors=KNOWN.vectors)
    before, after = (features_of(data, asked, ["text"])[1] for data in (KNOWN, changed))
    assert np.array_equal(before, after, equal_nan=True)


def test_a_query_is_answered_the_same_alone() -> None:
    asked = some(30)
    together = features_of(KNOWN, asked, ["text"])[1]
    alone = np.vstack([features_of(KNOWN, asked.take(slice(q, q + 1)), ["text"])[1] for q in range(30)])
    assert np.array_equal(together, alone, equal_nan=True)


def test_without_vectors_the_models_that_read_text_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    bare = BaselineData.of(SAMPLES)
    assert text_features(bare, some()) == {}
    with caplog.at_level("DEBUG"):
        assert not {baseline.key for baseline in chosen_baselines("all")} & set(READERS)
    assert "skipping the baseline 'text alone': text.encoder is null, so items have no vectors" in caplog.text
    assert tuple(READERS) == READS_TEXT
    assert set(READERS) <= set(fit_baselines(KNOWN))
    assert not set(READERS) & set(fit_baselines(KNOWN, "quick"))


def test_a_kept_fit_is_valid_for_its_vectors_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, other = Kept(tmp_path, {"data": 1}), BaselineData.of(SAMPLES, vectors=random_vectors(seed=1))
    fitted = {key: fit_one(RANKERS[key], KNOWN, kept) for key in ("online", "text")}
    monkeypatch.setattr(registry.Baseline, "fitted", lambda self, data: {"fitted again": np.ones(1)})
    assert fit_one(RANKERS["text"], KNOWN, kept).keys() == fitted["text"].keys()
    assert fit_one(RANKERS["online"], other, kept).keys() == fitted["online"].keys()
    assert fit_one(RANKERS["text"], other, kept).keys() == {"fitted again"}


def planted(users: int = 150, items: int = 300, d: int = 6, seed: int = 2) -> tuple[Samples, np.ndarray]:
    """Ratings by the users' tastes for directions of the items' vectors, and these vectors."""
    rng = np.random.default_rng(seed)
    vectors, tastes = rng.normal(size=(items, d)), rng.normal(size=(users, d))
    size = HISTORY_LEN + 40
    user = np.repeat(np.arange(users), size)
    item = np.concatenate([rng.permutation(items)[:size] for _ in range(users)])
    score = 3.5 + 0.4 * (tastes[user] * vectors[item]).sum(axis=1) + rng.normal(0, 0.5, len(user))
    ratings = pl.DataFrame({"user_id": user, "item_id": item, "rating": np.clip(np.round(2 * score) / 2, 0.5, 5)})
    return samples_of(split_by_user_and_time(ratings.with_columns(timestamp=np.arange(len(user))))), vectors


def test_random_vectors_add_nothing_and_vectors_of_the_taste_do() -> None:
    samples, vectors = planted()
    plain = BaselineData.of(samples)
    queries, liked = plain.of_split("test")

    def p(key: str, values: np.ndarray | None) -> np.ndarray:
        known = replace(plain, features={}, linear={}, sums={})
        if values is not None:
            known = replace(known, vectors=Vectors(values.astype(np.float32), "these"))
        return RANKERS[key].predictor(known, RANKERS[key].fitted(known))(queries)

    noise = np.random.default_rng(3).normal(size=vectors.shape)
    scores = {
        "random": p("logistic-text", noise),
        "taste": p("logistic-text", vectors),
        "none": p("logistic-knn", None),
    }
    pairs = [("random", "none"), ("taste", "none")]
    found = compare(liked, plain.user[queries.anchor], scores, pairs, resamples=300).of("auc")
    by_name: dict[str, Paired] = {pair.first: pair for pair in found}
    random, taste = (by_name[name].interval for name in ("random", "taste"))
    assert random is not None
    assert taste is not None
    assert random.low <= 0 <= random.high
    assert taste.low > 0.05
