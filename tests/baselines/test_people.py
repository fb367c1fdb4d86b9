"""A few people beside the statistics of a log: the same predictions as with their ratings appended to the log."""

import numpy as np
import polars as pl
import pytest
from tests.timelines import random_timeline

from palate.baselines.people import about
from palate.baselines.registry import RANKERS
from palate.baselines.statistics import BaselineData
from palate.config import PrepareConfig
from palate.recommend.recommender import Asker, BaselineScores, ends_of, with_ends
from palate.samples.build import samples_of
from palate.samples.people import NewRating, Person
from palate.samples.queries import Queries
from palate.text.vectors import Vectors

NOBODY = np.empty(0, np.int64)


@pytest.fixture(scope="module")
def data() -> BaselineData:
    timeline = random_timeline(60, 50, seed=3)
    draw = np.random.default_rng(1)
    genres = [", ".join(draw.choice(["Comedy", "Drama", "War"], 2, replace=False)) for _ in range(50)]
    items = pl.DataFrame(
        {"item_id": np.arange(50), "title": [f"Film {n} ({1950 + n})" for n in range(50)], "genres": genres}
    )
    roles = pl.Enum(["warmup", "train", "val", "test", "unused"])
    samples = samples_of(timeline.with_columns(pl.col("split").cast(roles)), items, PrepareConfig())
    return BaselineData.of(samples, vectors=Vectors(draw.normal(size=(50, 8)).astype(np.float32), "drawn"))


def appended(data: BaselineData, guest: pl.DataFrame | None, key: str) -> BaselineScores:
    """The scores of `palate recommend`, which appends a guest to the log."""
    baseline = RANKERS[key]
    known = BaselineData.of(with_ends(data.samples, guest), data.seed, 0 if guest is None else 1, data.vectors)
    return BaselineScores(baseline.predictor(known, baseline.fitted(data)), ends_of(data.samples))


def predicted(data: BaselineData, people: list[Person], key: str, item: np.ndarray) -> list[np.ndarray]:
    small, last = about(data, people)
    predict = RANKERS[key].predictor(small, RANKERS[key].fitted(data))
    return [predict(Queries(np.full(item.size, anchor), item)) for anchor in last]


@pytest.mark.parametrize("key", list(RANKERS))
def test_a_baseline_predicts_the_same_as_with_the_ratings_in_the_log(data: BaselineData, key: str) -> None:
    ends, item = ends_of(data.samples), np.arange(50)
    guest = pl.DataFrame({"item": [3, 40, 7], "rating": [5.0, 0.5, 3.0]})
    stranger = Person("stranger", NOBODY, tuple(NewRating(*row) for row in guest.iter_rows()))
    member = Person("member", np.arange(ends[6], ends[7]))
    rows = data.samples.timeline.height
    of_guest = appended(data, guest, key).p(Asker("", rows, rows + 3), item)
    of_member = appended(data, None, key).p(Asker("", int(ends[6]), int(ends[7])), item)
    both = predicted(data, [stranger, member, Person("nobody", NOBODY)], key, item)
    np.testing.assert_array_equal(both[0], of_guest)
    np.testing.assert_array_equal(both[1], of_member)
    assert np.isfinite(both[2]).all()
    np.testing.assert_array_equal(both[0], predicted(data, [stranger], key, item)[0])


def test_newer_ratings_of_a_user_count_as_ratings_of_a_stranger_do(data: BaselineData) -> None:
    ends = ends_of(data.samples)
    rows = np.arange(ends[6], ends[7])
    newer = (NewRating(3, 5.0), NewRating(40, 0.5))
    alone, more = predicted(data, [Person("", rows), Person("", rows, newer)], "strongest-text", np.arange(50))
    assert (alone != more).mean() > 0.9
    before, after = (about(data, [Person("", rows, new)])[0].before("rating")[-1] for new in ((), newer))
    assert after == before + 5.5


def test_a_rating_of_an_earlier_time_counts_at_its_place(data: BaselineData) -> None:
    ends = ends_of(data.samples)
    rows = np.arange(ends[6], ends[7])
    person = Person("", rows, (NewRating(40, 0.5, 7),), np.array([1]))
    small, (end,) = about(data, [person])
    assert small.item[:end].tolist() == np.insert(data.item[rows], 1, 40).tolist()
    assert small.log_row is not None
    assert small.log_row[:end].tolist() == [rows[0], -1, *rows[1:]]
    assert small.samples.timeline["timestamp"][1] == 7


def test_a_person_without_one_rating() -> None:
    person = Person("", np.array([4, 5, 6]), (NewRating(1, 2.0), NewRating(2, 3.0)))
    assert person.without(1).rows.tolist() == [4, 6]
    assert person.without(3).newer == (NewRating(2, 3.0),)
    assert len(person.without(4)) == 4
