"""The benchmark of the ladder compares each rung with the one below, seeds in pairs."""

import sys
from pathlib import Path

import numpy as np
import pytest
from tests.films import film_samples

from palate.baselines.statistics import BaselineData
from palate.measure.metrics import measure

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))  # a script finds the others beside itself

import ladder


def test_each_rung_is_compared_with_the_one_below() -> None:
    data = BaselineData.of(film_samples())
    queries, liked = data.of_split("test")
    users, rng = data.user[queries.anchor], np.random.default_rng(0)
    scores = {
        name: [rng.random(len(liked)) for _ in range(seeds)]
        for name, seeds in (("user-item", 3), ("strongest", 3), ("language model", 1))
    }
    scored = {name: [ladder.Costed(p, 1.0, 2.0) for p in each] for name, each in scores.items()}
    rows = ladder.measured(liked, users, scored, 20)
    aucs = {name: [measure(liked, p, users).auc for p in each] for name, each in scores.items()}
    assert [row["auc"] for row in rows] == [pytest.approx(np.mean(each)) for each in aucs.values()]
    gains = np.array(aucs["strongest"]) - aucs["user-item"]
    last = aucs["language model"][0] - aucs["strongest"][0]
    assert [row["gain"] for row in rows] == [None, pytest.approx(gains.mean()), pytest.approx(last)]
    for row in rows[1:]:
        low, high = row["between"]
        assert low < row["gain"] < high
        assert row["detects"] > 0
    assert all(all(isinstance(say(row), str) for say in ladder.COLUMNS.values()) for row in rows)
