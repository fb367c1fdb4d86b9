"""Vectors of items: one space for all fits, and nothing of a user in the vectors that the user's prompts show."""

from dataclasses import replace

import numpy as np
import polars as pl
from tests.films import film_samples

from palate.baselines.item_vectors import FACTORS, LARGEST, item_vectors, rotated
from palate.baselines.statistics import PARTS, BaselineData
from palate.samples import Samples


def changed(samples: Samples, rows: np.ndarray) -> BaselineData:
    """The data after other ratings in these rows."""
    rating = samples.timeline["rating"].to_numpy().copy()
    rating[rows] = 5.5 - rating[rows]
    return BaselineData.of(replace(samples, timeline=samples.timeline.with_columns(rating=pl.Series(rating))))


def test_no_rating_of_a_user_is_in_the_vectors_of_the_users_prompts() -> None:
    samples = film_samples()
    data = BaselineData.of(samples)
    before = item_vectors(data)
    # Standardization reads all ratings, by means and deviations that no single user decides; compared without it.
    user = 3
    part = int(data.fold[data.user == user][0] % PARTS)
    after = item_vectors(changed(samples, np.flatnonzero(data.user == user)))
    moved = [np.abs(ranks(a) - ranks(b)).max() for a, b in zip(before.apart, after.apart, strict=True)]
    assert moved[part] == 0
    assert all(distance > 0 for n, distance in enumerate(moved) if n != part)
    assert np.abs(ranks(before.values) - ranks(after.values)).max() > 0
    train = samples.position[samples.of("train")]
    np.testing.assert_array_equal(before.part, data.fold[train] % PARTS)


def ranks(values: np.ndarray) -> np.ndarray:
    """The order of the items in each column of statistics, which have no rotation."""
    return values[:, : FACTORS.start].round(5).argsort(axis=0, kind="stable")


def test_validation_and_test_ratings_are_in_no_vector() -> None:
    samples = film_samples()
    held_out = samples.timeline["split"].is_in(["val", "test"]).to_numpy()
    before, after = item_vectors(BaselineData.of(samples)), item_vectors(changed(samples, np.flatnonzero(held_out)))
    assert held_out.any()
    assert before.identity == after.identity


def test_the_fits_without_a_part_lie_in_the_space_of_all_ratings() -> None:
    vectors = item_vectors(BaselineData.of(film_samples(users=120)))
    assert vectors.values.dtype == vectors.apart.dtype == np.float32
    assert vectors.versions.shape == (1 + PARTS, *vectors.values.shape)
    assert np.abs(vectors.versions).max() <= LARGEST
    for apart in vectors.apart:
        whole, part = vectors.values[:, FACTORS], apart[:, FACTORS]
        aligned = np.linalg.norm(part - whole) / np.linalg.norm(whole)
        assert aligned < 0.9
        turn = np.linalg.qr(np.random.default_rng(0).normal(size=(whole.shape[1], whole.shape[1])))[0]
        assert aligned < np.linalg.norm(part @ turn - whole) / np.linalg.norm(whole)


def test_a_rotation_is_undone() -> None:
    draw = np.random.default_rng(1)
    factors, weight = draw.normal(size=(40, 6)), draw.integers(0, 9, 40).astype(float)
    turn = np.linalg.qr(draw.normal(size=(6, 6)))[0]
    np.testing.assert_allclose(rotated(factors @ turn, factors, weight), factors, atol=1e-12)
