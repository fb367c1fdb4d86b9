"""Unrated pairs: never what the user rates in any split, only what training knows by then, and the same for a seed."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from tests.rated import samples_of
from tests.timelines import random_timeline

from palate.errors import InputError
from palate.samples.build import Samples
from palate.samples.queries import candidate_rows, item_rows
from palate.samples.unrated import rated_sample, unrated_pairs, with_unrated

EACH = 3


@pytest.fixture(scope="module")
def rated() -> Samples:
    return samples_of(random_timeline(users=60, seed=3))


def test_a_pair_is_of_an_item_that_its_user_never_rates_and_training_knows_by_then(rated: Samples) -> None:
    pairs = unrated_pairs(with_unrated(rated, EACH, 13))
    item, time = item_rows(rated), rated.timeline["timestamp"].to_numpy()
    known = rated.timeline["split"].is_in(["warmup", "train"]).to_numpy()
    held_out = rated.timeline["split"].is_in(["val", "test"]).to_numpy()
    beside = 0
    for row in np.unique(pairs.anchor):
        drawn, own = pairs.item[pairs.anchor == row], item[rated.user == rated.user[row]]
        possible = set(item[known & (time <= time[row])]) - set(own)
        assert set(drawn) <= possible
        assert len(drawn) == len(set(drawn)) == min(EACH, len(possible))
        beside += len(set(item[held_out & (rated.user == rated.user[row])]) - set(item[known & (time > time[row])]))
    assert beside, "some held-out items should be drawable but for the rule"


def test_an_item_that_only_held_out_ratings_know_is_never_drawn() -> None:
    timeline = random_timeline(users=60, seed=3)
    held_out = pl.col("split").is_in(["val", "test"])
    rated = samples_of(timeline.with_columns(item_id=pl.when(held_out).then(99).otherwise("item_id")))
    drawn = rated.items["item_id"].gather(unrated_pairs(with_unrated(rated, 99, 13)).item)
    assert drawn.n_unique() == rated.items.height - 1
    assert 99 not in drawn


def test_a_pair_has_the_history_of_its_sample_also_where_histories_differ(rated: Samples) -> None:
    given = replace(rated, history=np.arange(rated.position.size) % 7)
    both = with_unrated(given, EACH, 13)
    train = both.of("train")
    assert np.array_equal(both.histories[train], given.histories[given.of("train")][rated_sample(both)])


def test_the_seed_decides_and_only_training_samples_have_pairs(rated: Samples) -> None:
    both, again, other = (with_unrated(rated, EACH, seed) for seed in (13, 13, 14))
    assert both.negative is not None
    assert np.array_equal(both.negative, again.negative)
    assert not np.array_equal(unrated_pairs(both).item, unrated_pairs(other).item)
    own = both.negative < 0
    assert np.array_equal(both.position[own], rated.position)
    assert np.array_equal(both.split[own], rated.split)
    assert np.array_equal(both.label[own], rated.label)
    assert np.array_equal(candidate_rows(both)[own], candidate_rows(rated))
    assert (both.split[~own] == 0).all()
    assert not both.label[~own].any()
    train = both.of("train")
    assert np.array_equal(rated.position[rated.of("train")][rated_sample(both)], both.position[train])


def test_negatives_are_not_drawn_twice(rated: Samples) -> None:
    with pytest.raises(InputError, match=r"train\.unrated: these are likes with negatives, .* expected 0"):
        with_unrated(with_unrated(rated, EACH, 13), EACH, 13)
