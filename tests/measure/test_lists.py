from itertools import combinations, pairwise

import numpy as np
import pytest
from tests.films import film_samples

from palate.baselines.statistics import BaselineData
from palate.measure import candidates
from palate.measure.candidates import candidate_sets
from palate.measure.lists import Catalogue, list_metrics, top_items
from palate.measure.ranking import rank

CATALOGUE = Catalogue(np.array([9, 4, 0, 1]), 9, np.array([0b01, 0b11, 0b10, 0], np.uint64))


def top(score: np.ndarray, length: int, seed: int = 0) -> list[list[int]]:
    """Of the same items for each user, (users, items)."""
    users, items = score.shape
    user, item = np.repeat(np.arange(users), items), np.tile(np.arange(items), users)
    found = top_items(user, item, score.ravel(), np.random.default_rng(seed), length)
    return [sorted(row) for row in found.tolist()]


def test_the_best_items_of_each_user_are_listed_and_missing_ones_are_marked() -> None:
    rng = np.random.default_rng(1)
    score = rng.permuted(np.tile(np.arange(30.0), (5, 1)), axis=1)
    assert top(score, 4) == [sorted(row) for row in np.argsort(-score, axis=1)[:, :4].tolist()]
    assert top(score[:, :3], 4) == [[-1, 0, 1, 2]] * 5
    assert top_items(np.array([0, 1, 1]), np.array([7, 8, 9]), np.ones(3), rng, 2).max(axis=1).tolist() == [7, 9]


def test_tied_items_are_listed_equally_often_and_never_before_better_ones() -> None:
    score = np.tile([0.0, 1.0, 0.0, 0.0, 2.0, 0.0], (4000, 1))
    count = np.bincount(np.ravel(top(score, 3)), minlength=6)
    assert (count[[1, 4]] == 4000).all()
    assert count[[0, 2, 3, 5]] == pytest.approx(1000, abs=100)


def test_each_metric_is_that_of_its_definition() -> None:
    found = list_metrics(np.array([[0, 1], [1, 2], [-1, 3]]), CATALOGUE)
    assert found["coverage@2"] == 1.0
    assert found["popularity@2"] == pytest.approx(np.mean([(9 + 4) / 18, 4 / 18, 1 / 9]))
    bits = -np.log2(np.array([10, 5, 1, 2]) / 10)
    assert found["novelty@2"] == pytest.approx(np.mean([bits[:2].mean(), bits[1:3].mean(), bits[3]]))
    assert found["diversity@2"] == pytest.approx(0.5)  # one of two genres in common, twice; the last has no pair
    assert list_metrics(np.array([[0, 0], [0, 0]]), CATALOGUE)["coverage@2"] == 0.25


def test_without_genres_no_diversity_is_defined() -> None:
    bare = Catalogue(CATALOGUE.raters, 9, np.zeros(4, np.uint64))
    assert list_metrics(np.array([[0, 1]]), bare)["diversity@2"] is None


def test_diversity_is_the_mean_over_all_pairs_of_a_list() -> None:
    genres = [{0, 1}, {1}, {1, 2}, {2}]
    catalogue = Catalogue(np.ones(4, np.int64), 1, np.array([sum(1 << g for g in own) for own in genres], np.uint64))
    expected = np.mean([1 - len(a & b) / len(a | b) for a, b in combinations(genres, 2)])
    assert list_metrics(np.array([[0, 1, 2, 3]]), catalogue)["diversity@4"] == pytest.approx(expected)


def test_popularity_covers_less_and_is_less_novel_than_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = film_samples()
    sets, catalogue = candidate_sets(samples), Catalogue.of(BaselineData.of(samples))

    def lists() -> list[dict[str, float | None]]:
        models = (lambda asked: catalogue.raters[asked.item].astype(float), lambda asked: np.zeros(len(asked)))
        return [dict(rank(sets, predict, catalogue=catalogue).lists) for predict in models]

    popular, chance = lists()
    assert popular["popularity@10"] > chance["popularity@10"]
    assert popular["novelty@10"] < chance["novelty@10"]
    assert popular["coverage@10"] < chance["coverage@10"]
    monkeypatch.setattr(candidates, "PAIRS", 60)
    assert all(one == pytest.approx(other) for one, other in pairwise([chance, lists()[1]]))
