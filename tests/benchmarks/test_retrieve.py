"""The benchmark of first stages counts what it says."""

import sys
from pathlib import Path

from tests.acceptance.ratings import write_ratings

from palate.baselines.retriever import ItemKNN, Popularity, RetrieverData
from palate.config import PrepareConfig
from palate.ratings.load import load_ratings
from palate.samples import build_samples

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))  # a benchmark is a script and finds the others beside itself

from retrieve import NUMBERS, recalls, rows_of  # noqa: E402


def test_whoever_is_given_everything_is_given_what_they_liked(tmp_path: Path) -> None:
    samples = build_samples(load_ratings(str(write_ratings(tmp_path / "ratings", items=200))), PrepareConfig())
    known = RetrieverData.of(samples)
    for model in (Popularity.fit(known), ItemKNN.fit(known)):
        found = recalls(samples, model, "test")
        assert found == sorted(found)
        assert found[NUMBERS.index(200)] == 1.0, "there are 200 items"
        assert 0 < found[0] < 1


def test_every_first_stage_has_a_row(tmp_path: Path) -> None:
    samples = build_samples(load_ratings(str(write_ratings(tmp_path / "ratings", items=200))), PrepareConfig())
    rows = list(rows_of(samples, RetrieverData.of(samples), "val"))

    assert [row["retriever"] for row in rows][:2] == ["popularity", "item-kNN, 20 neighbours"]
    assert all(0 <= row["recall"]["20"] <= row["recall"]["500"] <= 1 for row in rows)
