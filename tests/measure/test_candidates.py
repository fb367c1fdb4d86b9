from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tests.films import film_samples

from palate.config import PrepareConfig
from palate.errors import InputError
from palate.measure.candidates import CandidateSets, candidate_sets
from palate.ratings.load import load_ratings
from palate.samples import Samples, build_samples

REAL = Path(__file__).parents[3] / "shared" / "data" / "ml-latest-small" / "ratings.csv"


def by_user(sets: CandidateSets) -> dict[int, tuple[set[int], set[int]]]:
    """The candidates and the relevant items of each anchor."""
    found: dict[int, tuple[set[int], set[int]]] = {int(anchor): (set(), set()) for anchor in sets.anchor}
    for users, user, asked, relevant in sets.chunks():
        np.testing.assert_array_equal(sets.anchor[users][user], asked.anchor)
        for anchor, item, is_relevant in zip(
            *map(np.ndarray.tolist, (asked.anchor, asked.item, relevant)), strict=True
        ):
            assert item not in found[anchor][0]
            found[anchor][0].add(item)
            if is_relevant:
                found[anchor][1].add(item)
    return found


def slowly(samples: Samples) -> dict[int, tuple[set[int], set[int]]]:
    """The same, row by row."""
    place = {item: row for row, item in enumerate(samples.items["item_id"])}
    rows = samples.timeline.with_row_index("at").rows(named=True)
    liked_at = dict(zip(samples.position.tolist(), samples.label.tolist(), strict=True))
    found = {}
    for user in samples.timeline["user_id"].unique(maintain_order=True):
        own = [row for row in rows if row["user_id"] == user]
        test = [row for row in own if row["split"] == "test"]
        if not test:
            continue
        before = {place[row["item_id"]] for row in own if row["at"] < test[0]["at"]}
        liked = {place[row["item_id"]] for row in test if liked_at[row["at"]]} - before
        if liked:
            found[test[0]["at"]] = (set(range(samples.items.height)) - before, liked)
    return found


@pytest.mark.parametrize("split", ["user-time", "global-time"])
def test_candidates_are_all_items_not_rated_before_the_first_test_sample(split: str) -> None:
    samples = film_samples(split=split)
    assert by_user(candidate_sets(samples)) == slowly(samples)


def test_an_item_that_was_rated_before_is_no_candidate_though_it_is_liked_again() -> None:
    samples = film_samples()
    first = candidate_sets(samples)
    anchor = int(first.anchor[0])
    again = samples.timeline["item_id"][anchor - 1]
    liked = next(p for p, yes in zip(samples.position, samples.label, strict=True) if yes and p >= anchor)
    twice = samples.timeline.with_row_index("at").with_columns(
        item_id=pl.when(pl.col("at") == liked).then(again).otherwise("item_id")
    )
    samples = replace(samples, timeline=twice.drop("at"))
    assert by_user(candidate_sets(samples)) == slowly(samples)


def test_users_who_like_nothing_are_counted_and_not_ranked() -> None:
    samples = film_samples()
    sets = candidate_sets(samples)
    tested = samples.timeline["user_id"].gather(samples.position[samples.of("test")]).n_unique()
    assert sets.unranked > 0
    assert len(sets) + sets.unranked == tested


def test_sampled_candidates_are_the_relevant_ones_and_so_many_others_that_were_not_rated() -> None:
    samples = film_samples()
    whole, sampled = slowly(samples), candidate_sets(samples, negatives=7)
    for anchor, (items, relevant) in by_user(sampled).items():
        assert relevant == whole[anchor][1]
        assert items <= whole[anchor][0]
        assert len(items) == min(7 + len(relevant), len(whole[anchor][0]))


def test_more_samples_than_items_are_all_items() -> None:
    samples = film_samples()
    assert by_user(candidate_sets(samples, negatives=49)) == slowly(samples)
    assert by_user(candidate_sets(samples, negatives=10_000)) == slowly(samples)


def test_every_item_is_as_likely_to_be_sampled() -> None:
    samples = film_samples(users=10)
    drawn: dict[int, int] = {}
    for seed in range(200):
        items, relevant = next(iter(by_user(candidate_sets(samples, negatives=5, seed=seed)).values()))
        for item in items - relevant:
            drawn[item] = drawn.get(item, 0) + 1
    items, relevant = next(iter(slowly(samples).values()))
    counts = np.array([drawn.get(item, 0) for item in items - relevant])
    chance = 5 / len(counts)
    assert abs(counts - 200 * chance).max() < 5 * np.sqrt(200 * chance * (1 - chance))


def test_some_users_are_ranked_as_they_are_among_all() -> None:
    samples = film_samples()
    whole = candidate_sets(samples)
    ids = samples.timeline["user_id"].gather(whole.anchor[:3])
    some = candidate_sets(samples, users=ids)
    assert by_user(some) == {anchor: by_user(whole)[anchor] for anchor in whole.anchor[:3].tolist()}


def test_a_user_without_samples_is_refused() -> None:
    with pytest.raises(InputError, match="user 999 has no samples"):
        candidate_sets(film_samples(), users=[999])


def test_no_candidates_are_refused() -> None:
    with pytest.raises(InputError, match="negatives: 0 sampled candidates"):
        candidate_sets(film_samples(), negatives=0)


def test_nobody_to_rank_gives_no_chunks() -> None:
    samples = film_samples()
    nothing = replace(samples, threshold=9.0)
    sets = candidate_sets(nothing)
    assert len(sets) == 0
    assert sets.unranked > 0
    assert list(sets.chunks()) == []


def test_on_movielens_every_user_is_ranked_or_counted_and_all_items_but_those_rated_are_candidates() -> None:
    if not REAL.exists():
        pytest.skip(f"{REAL} is absent")
    samples = build_samples(load_ratings(str(REAL)), PrepareConfig())
    sets = candidate_sets(samples)
    assert (len(sets), sets.unranked, len(sets) + sets.unranked) == (525, 85, 610)
    test = samples.of("test")
    assert len(sets.item) == samples.label[test].sum()
    pairs = relevant_pairs = 0
    for _, _, asked, relevant in sets.chunks():
        pairs += len(asked)
        relevant_pairs += int(relevant.sum())
    assert pairs == len(sets) * samples.items.height - (sets.anchor - sets.start).sum()
    assert relevant_pairs == len(sets.item)
