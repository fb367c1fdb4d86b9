"""The benchmark of the ladder compares each rung with the one below."""

import sys
from pathlib import Path

import numpy as np
from tests.films import film_samples

from palate.baselines.statistics import BaselineData
from palate.measure.ladder import Scored
from palate.measure.metrics import measure

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))  # a script finds the others beside itself

import ladder


def test_each_rung_is_compared_with_the_one_below(monkeypatch) -> None:
    data = BaselineData.of(film_samples())
    queries, liked = data.of_split("test")
    rng = np.random.default_rng(0)
    scores = {name: rng.random(len(liked)) for name in ("user-item", "strongest", "third")}
    monkeypatch.setattr(ladder, "baselines", lambda data, encoder: {n: Scored(p) for n, p in scores.items()}.items())
    found = ladder.measured(data, "minilm", None, 20)
    aucs = [measure(liked, p, data.user[queries.anchor]).auc for p in scores.values()]
    assert [rung.metrics.auc for rung in found.rungs] == aucs
    assert [rung.below for rung in found.rungs] == [None, "user-item", "strongest"]
    rows = [ladder.row_of(rung) for rung in found.rungs]
    assert [row["gain"] for row in rows] == [None, aucs[1] - aucs[0], aucs[2] - aucs[1]]
    assert all(all(isinstance(say(row), str) for say in ladder.COLUMNS.values()) for row in rows)
