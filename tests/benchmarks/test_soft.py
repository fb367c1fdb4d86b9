"""The benchmark of item vectors: what a user's answers leave in the vectors shows as a gap, and ways are compared."""

import sys
from pathlib import Path

import numpy as np
from tests.films import film_samples

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))  # a script finds the others beside itself

from palate.baselines.statistics import BaselineData
from soft import PROBED, compared, probed


def test_vectors_of_all_ratings_contain_training_answers() -> None:
    rows = list(probed(BaselineData.of(film_samples(users=80, items=800))))
    gap = {(row["vectors"], row["model"]): row["train"] - row["test"] for row in rows}
    assert len(gap) == 6
    for model in ("logistic regression", "LightGBM"):
        assert gap["items, of all ratings", model] > gap["items, without the user's part", model]
    assert all(say(row) for row in rows for say in PROBED.values())


def test_ways_are_compared_by_the_mean_logit_of_their_seeds() -> None:
    draw = np.random.default_rng(0)
    label, user = draw.random(60) < 0.5, np.arange(60) % 6
    good, bad = np.where(label, 0.8, 0.3), np.full(60, 0.5)
    rows = [
        {"way": way, "seed": seed, "scores": {"user": user.tolist(), "label": label.tolist(), "p": p.tolist()}}
        for way, p in (("titles", bad), ("titles and vectors", good))
        for seed in (1, 2)
    ]
    (table,) = compared(rows)
    found = {row["metric"]: row["value"] for row in table.rows}
    assert found["auc"] == 0.5
    assert found["log_loss"] < 0
    assert list(compared(rows[:2])) == []
