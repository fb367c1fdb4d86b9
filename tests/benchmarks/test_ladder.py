"""The benchmark of the ladder compares each rung with the one below, seeds in pairs."""

import sys
from pathlib import Path

import numpy as np
import pytest
from tests.films import film_samples

from palate.baselines.statistics import BaselineData
from palate.measure.calibration import CalibrationSource, FittedOn, sigmoid
from palate.measure.metrics import measure
from palate.measure.offset import Offset, write_offset
from palate.score.files import COLUMNS, Scored, speed_file, write_scores
from palate.store.artifacts import write_json

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


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_a_run_is_compared_with_the_baseline_that_it_corrects(tmp_path: Path, alpha: float) -> None:
    z0, z = np.random.default_rng(1).normal(size=(2, 50))
    for folder in ("adapter", "scores"):
        (tmp_path / folder).mkdir()
    source, fitted_on = CalibrationSource("m", {}, "p", None), FittedOn("s", "k", 50, 7, 0.5, "offset", 13)
    offset = Offset("corrected-text", alpha, 0.1 if alpha else 0.0, source=source, fitted_on=fitted_on)
    write_offset(tmp_path / "adapter" / "offset.json", offset)
    write_json(tmp_path / "adapter" / "training.json", {"seconds": 60.0, "steps": 400, "resumed_at": 100})
    alone = tmp_path / "scores" / "fine-tuned.parquet"
    columns = {name: np.zeros(50, np.float32) for name in COLUMNS} | {"row": np.arange(50), "label": np.zeros(50, bool)}
    write_scores(alone, Scored(columns | {"logit": z.astype(np.float32)}, {}))
    both = sigmoid(offset.added(sigmoid(z0), z)).astype(np.float32)
    write_scores(tmp_path / "scores" / "fine-tuned.sum.parquet", Scored(columns | {"p": both}, {}))
    write_json(speed_file(alone), {"rows": 50, "seconds": 5.0, "tokens": 1})
    found = ladder.of_run(tmp_path, 50)
    assert found.below == pytest.approx(sigmoid(z0), abs=1e-5)
    assert (found.fit, found.thousand) == (80.0, 100.0)
    users, liked = np.arange(50) % 7, z0 > 0
    scored = {"corrected-text": [ladder.Costed(sigmoid(z), 1.0, 1.0)], ladder.LANGUAGE_MODEL: [found]}
    row = ladder.measured(liked, users, scored, 20)[1]
    assert row["gain"] == pytest.approx(row["auc"] - 1.0, abs=1e-6), "the baseline of the run orders these rows right"
