"""Several seeds of one training."""

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tests.recipes import recipe_to_run

from palate.cli import main
from palate.commands.seeds import seeds_of, spread
from palate.config import Config

WEIGHTS = "adapter/adapter_model.safetensors"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recipe_to_run(
        tmp_path_factory.mktemp("recipe"),
        prepare={"max_eval": 12, "val_ratio": 0.1},
        train={"max_samples": 16, "save_steps": 2, "logging_steps": 1},
        evaluate={"bootstrap": 20, "max_samples": 20, "baselines": "quick"},
    )


def test_seeds_are_trained_beside_each_other_and_their_spread_is_told(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = recipe.parent / "run"
    assert main(["train", "--config", str(recipe), "--seeds", "2"]) == 0
    shown = capsys.readouterr().out
    summary = json.loads((run / "seeds.json").read_text())
    rows = summary["seeds"]
    assert [row["seed"] for row in rows] == [13, 14]
    for row in rows:
        facts = json.loads((run / "seeds" / str(row["seed"]) / "adapter" / "training.json").read_text())
        assert {name: facts[name] for name in row if name != "seed"} == {n: v for n, v in row.items() if n != "seed"}
        assert f"{row['eval_auc']:.4f}" in shown
    losses = [row["eval_loss"] for row in rows]
    assert losses[0] != losses[1]
    found = summary["spread"]["eval_loss"]
    assert found["mean"] == pytest.approx(statistics.fmean(losses))
    assert found["sd"] == pytest.approx(statistics.stdev(losses))
    first = run / "seeds" / "13"
    assert (run / WEIGHTS).read_bytes() == (first / WEIGHTS).read_bytes()
    assert (run / "training_log.jsonl").read_bytes() == (first / "training_log.jsonl").read_bytes()
    ours, others = load_file(first / WEIGHTS), load_file(run / "seeds" / "14" / WEIGHTS)
    assert all(not ours[key].equal(others[key]) for key in ours)

    # One more seed: those that are done are skipped, one that was stopped goes on.
    (run / "seeds" / "14" / WEIGHTS).unlink()
    before = (first / "adapter" / "training.json").stat().st_mtime_ns
    assert main(["train", "--config", str(recipe), "--seeds", "3"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("skipped: trained before") == 1
    assert "adapter_model.safetensors is missing" in said
    assert "training resumes from" in said
    assert (first / "adapter" / "training.json").stat().st_mtime_ns == before
    assert [row["seed"] for row in json.loads((run / "seeds.json").read_text())["seeds"]] == [13, 14, 15]

    # A run takes what was trained, scores the first seed, and says how far the seeds lie apart.
    assert main(["run", str(recipe), "--seeds", "3"]) == 0
    captured = capsys.readouterr()
    assert " ".join(captured.err.split()).count("skipped: trained before") == 3
    assert "validation AUC of 3 seeds: " in " ".join(captured.out.split())
    assert "validation AUC of 3 seeds: " in (run / "report.html").read_text()


def test_a_seed_of_training_leaves_the_data_as_they_are(recipe: Path, tmp_path: Path) -> None:
    data = ["--set", f"data_dir={tmp_path / 'data'}"]
    assert main(["prepare", "--config", str(recipe), "--out", str(tmp_path / "data")]) == 0
    manifest = (tmp_path / "data" / "manifest.json").read_text()
    outs = {name: tmp_path / name for name in ("alone", "option")}
    command = ["train", "--config", str(recipe), *data]
    assert main([*command, "--out", str(outs["alone"]), "--set", "train.seed=14"]) == 0
    assert main([*command, "--out", str(outs["option"]), "--set", "train.seed=14", "--seeds", "2"]) == 0
    assert (outs["alone"] / WEIGHTS).read_bytes() == (outs["option"] / WEIGHTS).read_bytes()
    assert (tmp_path / "data" / "manifest.json").read_text() == manifest


def test_seeds_begin_with_that_of_training() -> None:
    assert seeds_of(Config.model_validate({"seed": 5, "train": {"seeds": 2}})) == [5, 6]
    assert seeds_of(Config.model_validate({"seed": 5, "train": {"seed": 1, "seeds": 3}})) == [1, 2, 3]


def test_what_some_seeds_lack_has_no_spread() -> None:
    def row(auc: float | None) -> dict[str, Any]:
        same = {"train_loss": 1.0, "eval_loss": 2.0, "eval_decision_loss": 3.0, "seconds": 4.0}
        return same | {"eval_auc": auc}

    assert spread([row(0.5), row(None)]).keys() == {"train_loss", "eval_loss", "eval_decision_loss", "seconds"}
    assert spread([row(0.5), row(0.75)])["eval_auc"] == {"mean": 0.625, "sd": 0.125 * 2**0.5, "min": 0.5, "max": 0.75}
