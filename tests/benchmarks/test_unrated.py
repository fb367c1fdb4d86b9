"""The benchmark of films without ratings asks of those."""

import sys
from pathlib import Path

from tests.acceptance.ratings import write_ratings

from palate.config import PrepareConfig
from palate.ratings.load import load_ratings
from palate.samples import build_samples

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))  # a script finds the others beside itself

from unrated import unrated


def test_the_rows_are_those_of_items_that_nobody_had_rated(tmp_path: Path) -> None:
    samples = build_samples(load_ratings(str(write_ratings(tmp_path / "ratings", items=400))), PrepareConfig())
    timeline = samples.timeline
    known = set(timeline.filter(timeline["split"].is_in(["train", "warmup"]))["item_id"])
    asked = timeline["item_id"].gather(samples.position[samples.of("test")])

    rows = unrated(samples).tolist()

    assert rows == [row for row, item in enumerate(asked) if item not in known]
    assert 0 < len(rows) < len(asked)
