"""The benchmark of texts compares each model with itself without text, on all rows and on those of unrated items."""

import sys
from pathlib import Path

from tests.acceptance.ratings import write_ratings

from palate.config import PrepareConfig
from palate.ratings.load import load_ratings
from palate.samples import build_samples

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))  # a script finds the others beside itself

from text import COLUMNS, RANDOM, TFIDF, measured


def test_models_with_text_are_compared_with_those_without(tmp_path: Path) -> None:
    ratings = load_ratings(str(write_ratings(tmp_path / "ratings", items=400)))
    samples = build_samples(ratings, PrepareConfig())
    every, unrated = measured(samples, "ratings", [RANDOM, TFIDF], 20)
    assert every.rows[0]["n"] == samples.of("test").size > unrated.rows[0]["n"] > 0
    names = [(row["model"].rpartition(" + ")[2], row["text"]) for row in every.rows if row["differences"]]
    assert names == [("text", RANDOM)] * 2 + [("text", TFIDF)] * 2
    detects = [bool(COLUMNS["detects"](row)) for row in (*every.rows, *unrated.rows)]
    assert detects == [bool(row["differences"]) for row in (*every.rows, *unrated.rows)]
    assert all(len(line) == len(COLUMNS) for result in (every, unrated) for line in result.cells())
