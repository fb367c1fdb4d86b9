"""The benchmark of first stages counts what it says."""

from pathlib import Path

from benchmarks.retrieve import NUMBERS, recalls
from tests.acceptance.ratings import write_ratings

from palate.config import PrepareConfig
from palate.ratings import load_ratings
from palate.retrieve import ItemKNN, Known, Popularity
from palate.samples import build_samples


def test_whoever_is_given_everything_is_given_what_they_liked(tmp_path: Path) -> None:
    samples = build_samples(load_ratings(str(write_ratings(tmp_path / "ratings", items=200))), PrepareConfig())
    known = Known.of(samples, 4.0)
    for model in (Popularity.fit(known), ItemKNN.fit(known)):
        found = recalls(samples, model, "test")
        assert found == sorted(found)
        assert found[NUMBERS.index(200)] == 1.0, "there are 200 items"
        assert 0 < found[0] < 1
