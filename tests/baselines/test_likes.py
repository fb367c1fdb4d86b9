"""Baselines of a log of likes: popularity ranks by popularity, neighbours are items with users in common."""

from dataclasses import replace

import numpy as np
import pytest
from tests.baselines.test_people import appended, predicted
from tests.clicks import click_ratings

from palate.baselines import learned
from palate.baselines.learned import _features_and_labels, liked_neighbours
from palate.baselines.registry import OF_LIKES, RANKERS, fit_baselines
from palate.baselines.signals import signals_of
from palate.baselines.statistics import BaselineData
from palate.config import PrepareConfig
from palate.measure.leaks import audit
from palate.prompt.spec import PromptSpec
from palate.recommend.recommender import Asker, ends_of
from palate.samples import Samples, build_samples
from palate.samples.people import Person
from palate.samples.queries import Queries


@pytest.fixture(scope="module")
def samples() -> Samples:
    return build_samples(click_ratings(), PrepareConfig(history_len=3, rating_threshold=0.5, val_ratio=0.2))


def test_popularity_never_ranks_the_other_way_round(samples: Samples) -> None:
    data = BaselineData.of(samples)
    likes = np.bincount(data.training.item, minlength=data.samples.items.height)
    for negative in (samples.negative, popular(samples, likes)):
        known = BaselineData.of(replace(samples, negative=negative))
        predict = fit_baselines(known, "quick")["popularity"]
        p = predict(Queries(np.zeros(likes.size, np.int64), np.arange(likes.size)))
        assert (np.diff(p[np.argsort(likes, kind="stable")]) >= 0).all()
        assert p[likes.argmax()] > p[likes.argmin()]


def popular(samples: Samples, likes: np.ndarray) -> np.ndarray:
    """Negatives that are all of the most popular item."""
    assert samples.negative is not None
    return np.where(samples.negative < 0, -1, likes.argmax())


def test_neighbours_are_counted_without_the_users_own_fold(samples: Samples) -> None:
    data = BaselineData.of(samples)
    queries, _ = data.of_split("test")
    (found,) = liked_neighbours(data, queries)
    assert found.max() > 0
    for n in range(0, len(queries), 17):
        anchor, item = queries.anchor[n], queries.item[n]
        others = data.allowed & (data.fold != data.fold[anchor])
        takers = [set(data.user[others & (data.item == i)].tolist()) for i in range(samples.items.height)]
        weight = np.log1p(60 / (1 + np.bincount(data.user[others], minlength=40)))
        near = 0.0
        for past in data.item[max(data.first[anchor], anchor - 3) : anchor]:
            both = sum(weight[user] ** 2 for user in takers[item] & takers[past])
            size = np.prod([np.sqrt(sum(weight[user] ** 2 for user in takers[i])) for i in (item, past)])
            near += both / size if both else 0.0
        assert found[n] == pytest.approx(near, rel=1e-5)


def test_the_baselines_of_likes_are_chosen_for_them_alone(samples: Samples) -> None:
    plain = build_samples(replace(click_ratings(), likes=None), PrepareConfig(history_len=3, rating_threshold=0.5))
    assert list(fit_baselines(BaselineData.of(samples), "quick")) == ["constant", "popularity"]
    assert "popularity" not in fit_baselines(BaselineData.of(plain), "quick")
    assert set(OF_LIKES) <= set(RANKERS)


def test_signals_of_negatives_do_not_hold_the_answer(samples: Samples) -> None:
    prompt = PromptSpec(
        history_line="{n}. {title}", candidate_line="{title}, as {neighbour} ({estimate:.2f})", estimate="logistic-knn"
    )
    data = BaselineData.of(samples)
    signals = signals_of(data, prompt)
    assert signals.height == samples.position.size
    like, negative = (signals.filter(samples.label == of)["estimate"].mean() for of in (True, False))
    assert like > negative
    found = audit(replace(samples, signals=signals), "user-time", prompt)
    assert not found.fatal
    wrong = audit(replace(samples, signals=signals.reverse()), "user-time", prompt)
    assert [finding.check for finding in wrong.fatal] == ["candidate-signals"]


@pytest.mark.parametrize("key", ["popularity", "liked-knn", "logistic-knn", "lightgbm"])
def test_a_request_is_answered_as_with_the_whole_log(samples: Samples, key: str) -> None:
    data = replace(BaselineData.of(samples), fits=1)
    ends, item = ends_of(samples), np.arange(samples.items.height)
    member = Person("member", np.arange(ends[6], ends[7]))
    whole = appended(data, None, key).p(Asker("", int(ends[6]), int(ends[7])), item)
    np.testing.assert_array_equal(predicted(data, [member], key, item)[0], whole)


def test_a_training_sample_has_the_features_that_were_computed_for_the_fit(samples: Samples) -> None:
    data = BaselineData.of(samples)
    queries, liked = data.of_split("train")
    x, _ = _features_and_labels(data, "train", ["item", "near"])
    some = np.random.default_rng(0).permutation(len(queries))[: len(queries) // 4]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learned, "features_of", None)  # they are not computed again
        assert (learned._features(data, queries.take(some), ["item", "near"]) == x[some]).all()
    assert not liked[some].all()
