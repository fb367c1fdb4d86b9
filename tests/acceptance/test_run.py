"""`palate run` and the commands around it, from a ratings log to a report, on a tiny model."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tests.command import palate
from tests.recipes import recipe_to_run

from palate.baselines.registry import REGISTRY
from palate.cli import main


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config beside its ratings and its model."""
    return recipe_to_run(
        tmp_path_factory.mktemp("recipe"),
        prepare={"max_eval": 5, "val_ratio": 0.15},
        train={"max_samples": 48, "save_steps": 4},
        evaluate={"bootstrap": 50, "baselines": "quick"},
        score={"calibration": "platt"},  # `auto` may leave a model that knows nothing uncalibrated
    )


@pytest.fixture(scope="module")
def finished(recipe: Path) -> Path:
    """The folder of a run that went through."""
    done = palate("run", str(recipe))
    assert done.returncode == 0, done.stderr
    (recipe.parent / "first.txt").write_text(done.stdout + done.stderr)
    return recipe.parent / "run"


def test_a_run_leaves_everything_that_it_names(finished: Path) -> None:
    manifest = json.loads((finished / "manifest.json").read_text())

    assert {
        "config.yaml",
        "lengths.json",
        "metrics.json",
        "report.html",
        "training_log.jsonl",
        "scores/zero-shot.parquet",
        "scores/fine-tuned.parquet",
        "scores/validation-zero-shot.parquet",
        "scores/validation-fine-tuned.parquet",
        "calibration.json",
        "adapter/calibration.json",
        "adapter/adapter_model.safetensors",
        "adapter/adapter_config.json",
        "adapter/palate.json",
    } == set(manifest["outputs"])
    assert manifest["decision"]["yes"]["text"] == "Yes"
    logged = (finished / "run.log").read_text().splitlines()
    assert len({line.split()[2] for line in logged}) == 1, "one id of the run"
    assert not list(finished.rglob("*.partial*"))
    assert not list(finished.rglob("*.parts"))


def test_the_table_has_both_models_and_the_quick_baselines(finished: Path, recipe: Path) -> None:
    metrics = json.loads((finished / "metrics.json").read_text())
    shown = (recipe.parent / "first.txt").read_text()

    quick = [baseline.key for baseline in REGISTRY if baseline.quick]
    assert [entry["key"] for entry in metrics["entries"]][: len(quick)] == quick
    assert [entry["kind"] for entry in metrics["entries"]] == ["baseline"] * len(quick) + ["model"] * 4
    assert metrics["n"] == pl.read_parquet(finished / "data" / "ratings.parquet").filter(split="test").height
    ladder = metrics["ladder"]
    assert [rung["key"] for rung in ladder["rungs"]] == ["user-item", "language-model"]
    used = next(rung for rung in ladder["rungs"] if rung["key"] == ladder["use"])
    assert f"Use {used['label']}: AUC {used['metrics']['auc']:.3f} on {metrics['n']} rows, " in shown
    assert any(line.startswith(" user + item  ") for line in shown.splitlines())
    assert metrics["verdict"]
    assert str(finished / "report.html") in shown
    assert shown.count("Film ") >= 5
    model = "" if ladder["use"] == "language-model" else f" --model {ladder['use']}"
    assert f"palate recommend {finished} --user 1{model}\n" in shown
    card = (finished / "adapter" / "README.md").read_text()
    assert "model, fine-tuned" in card
    assert "fine-tuned, calibrated (" in card


def test_each_stage_logs_one_line_with_what_it_made(finished: Path, recipe: Path) -> None:
    shown = (recipe.parent / "first.txt").read_text()
    stages = re.findall(r"^([1-7])/7 ([\w, -]+): (?:adapter|\d+)", shown, re.MULTILINE)
    names = ("prepare", "lengths", "score, zero-shot", "train", "score, fine-tuned", "calibrate", "evaluate and report")
    assert stages == [(str(n), name) for n, name in enumerate(names, 1)]


def test_calibration_moves_the_losses_and_no_auc(finished: Path) -> None:
    entries = {entry["key"]: entry for entry in json.loads((finished / "metrics.json").read_text())["entries"]}
    for key in ("zero-shot", "fine-tuned"):
        raw, calibrated = entries[key]["metrics"], entries[f"{key}-calibrated"]["metrics"]
        assert calibrated["auc"] == raw["auc"]
        assert calibrated["log_loss"] != raw["log_loss"]


def test_the_same_run_again_skips_what_is_done(finished: Path, recipe: Path) -> None:
    before = {p: p.read_bytes() for p in finished.rglob("*") if p.is_file() and p.name != "run.log"}
    code = f"import sys; from palate.cli import main; code = main(['run', {str(recipe)!r}])"
    code += "; assert not {'torch', 'transformers', 'sklearn'} & set(sys.modules); sys.exit(code)"
    again = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert again.returncode == 0, again.stderr
    assert again.stderr == "skipped: all stages are finished, and their inputs are unchanged\n"
    first = (recipe.parent / "first.txt").read_text()
    assert again.stdout.split("report  ")[0] in first  # the same answer and table
    assert "for a thousand requests" in " ".join(again.stdout.split())
    assert {p: p.read_bytes() for p in finished.rglob("*") if p.is_file() and p.name != "run.log"} == before


def test_a_changed_option_runs_what_depends_on_it_and_says_so(finished: Path, recipe: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    changed = ("--set", "train.learning_rate=0.01", "--set", "train.logging_steps=3")
    again = palate("run", str(recipe), "--out", str(tmp_path / "run"), *changed)

    assert again.returncode == 0, again.stderr
    assert "again: train.learning_rate changed from 0.0002 to 0.01\n" in again.stderr
    assert "again: adapter.adapter_model.safetensors changed" in again.stderr
    assert again.stderr.count("skipped") == 3


KILLED = """
import os, signal, sys
from palate.cli import main

def kill(event, args):
    if event == "os.mkdir" and "checkpoint-8" in os.fspath(args[0]):
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(kill)
sys.exit(main(sys.argv[1:]))
"""
"""kill -9 as the second of three checkpoints begins, however fast the machine."""


@pytest.mark.parametrize("how", ["Ctrl-C", pytest.param("killed", marks=pytest.mark.slow)])
def test_an_interrupted_run_goes_on_to_the_same_end(
    finished: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "killed":
        words = [sys.executable, "-c", KILLED, "run", str(recipe), "--out", str(tmp_path / "run")]
        killed = subprocess.run(words, capture_output=True, text=True, check=False)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    else:
        mkdir = os.mkdir

        def interrupt(path: Any, *args: Any, **kwargs: Any) -> None:
            if "checkpoint-4" in os.fspath(path):
                os.kill(os.getpid(), signal.SIGINT)
            mkdir(path, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(os, "mkdir", interrupt)
            assert palate("run", recipe, "--out", tmp_path / "run").returncode == 130
    assert not (tmp_path / "run" / "adapter").exists()

    again = palate("run", str(recipe), "--out", str(tmp_path / "run"))
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("skipped") == 3
    for name in ("scores/fine-tuned.parquet", "scores/zero-shot.parquet"):
        one = pl.read_parquet(finished / name)
        other = pl.read_parquet(tmp_path / "run" / name)
        assert one.drop("p", "mass", "logit").equals(other.drop("p", "mass", "logit"))
        assert (one["p"] - other["p"]).abs().max() < 1e-4  # type: ignore[operator]


def test_evaluate_scores_the_runs_adapter_and_leaves_the_runs_own_evidence(
    finished: Path, recipe: Path, tmp_path: Path
) -> None:
    before = {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()}
    done = palate("evaluate", str(finished), "--out", str(tmp_path), "--max-samples", "10", "--json")

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["n"] == 10
    models = [entry["key"] for entry in found["entries"] if entry["kind"] == "model"]
    assert models == ["zero-shot", "zero-shot-calibrated", "fine-tuned", "fine-tuned-calibrated"]
    assert {p.name for p in tmp_path.iterdir()} == {"config.yaml", "metrics.json", "report.html", "run.log", "scores"}
    scored = {p.name for p in (tmp_path / "scores").iterdir()}
    assert scored == {f"{of}.{kind}" for of in ("zero-shot", "fine-tuned") for kind in ("parquet", "speed.json")}
    assert {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()} == before


def test_an_adapter_of_another_run_is_refused(
    finished: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", "--config", str(recipe), "--set", f"run_dir={tmp_path / 'run'}", "--max-samples", "5"]
    options = ["--set", "prepare.test_ratio=0.3"]
    assert main(["prepare", *command[1:5], *options]) == 0
    adapter = shutil.copytree(finished / "adapter", tmp_path / "run" / "adapter")
    capsys.readouterr()
    assert main([*command, *options]) == 2
    said = capsys.readouterr().err
    assert f"{adapter}: was trained on other samples than those in {tmp_path / 'run' / 'data'}" in said
    assert main([*command, *options, "--adapter", str(adapter), "--out", str(tmp_path / "out")]) == 0


def test_evaluate_without_an_adapter_asks_for_one(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", "--config", str(recipe), "--set", f"run_dir={tmp_path / 'empty'}"]

    assert main(command) == 2
    assert "there is no adapter; train one, or score the base model with --base-only" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert main([*command, "--base-only", "--max-samples", "5", "--out", str(tmp_path / "out")]) == 0
    assert "model, zero-shot" in capsys.readouterr().out


def test_commands_need_no_config_file(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    ratings, model = str(recipe.parent / "ratings"), str(recipe.parent / "model")

    assert main(["lengths", "--ratings", ratings, "--tokenizer", model, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stats"]["min"] > 0
    assert list(tmp_path.iterdir()) == []  # nothing was written to measure

    assert main(["prepare", "--ratings", ratings, "--out", "d", "--history-len", "5", "--max-eval", "3"]) == 0
    manifest = json.loads((tmp_path / "d" / "manifest.json").read_text())
    assert manifest["options"]["prepare"]["history_len"] == 5
    assert manifest["stats"]["eval"] == 3


def test_a_run_works_where_it_was_moved_to(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished, tmp_path / "elsewhere" / "moved")
    finished = finished.rename(finished.with_name("gone"))  # whatever still looks there fails
    try:
        monkeypatch.chdir(tmp_path)
        assert main(["recommend", "elsewhere/moved", "--model", "item-mean", "--user", "1", "--top-k", "3"]) == 0
        assert main(["audit", "elsewhere/moved", "--json"]) == 0
        assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"], "a command that reads wrote here"
    finally:
        finished.rename(finished.with_name("run"))


def test_doctor_tells_where_the_decision_lies(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("palate.commands.doctor.MODELS", {})  # a GGUF file's tokenizer takes six seconds
    assert main(["doctor", "--tokenizer", str(recipe.parent / "model"), "--json"]) == 0

    found = json.loads(capsys.readouterr().out)["decision"][str(recipe.parent / "model")]
    assert (found["yes"]["text"], found["no"]["text"]) == ("Yes", "No")
    assert found["response_before"] == "<think>\n\n</think>\n\n"
