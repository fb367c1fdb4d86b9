"""Training and scoring from a portable token folder, where nothing that preparing needs is installed."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from polars.testing import assert_frame_equal
from safetensors.torch import load_file
from tests.acceptance.ratings import write_ratings
from tests.bare import HIDDEN
from tests.tiny import tiny_folder

from palate.cli import main

BARE = Path(__file__).parents[1] / "bare.py"


def bare(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Commands on a machine without the hidden packages, with "then" between two."""
    return subprocess.run([sys.executable, str(BARE), *map(str, words)], capture_output=True, text=True, check=False)


def write_config(folder: Path, model: Path, **changed: Any) -> Path:
    config = {
        "name": "tiny",
        "run_dir": str(folder / "run"),
        "prepare": {"max_eval": 7},
        "model": {"base": str(model), "dtype": "float32"},
        "tokens": {"cutoff_len": 400, "truncation": "history"},
        "train": {
            "max_samples": 32,
            "batch_size": 4,
            "gradient_accumulation": 1,
            "targets_per_prompt": 3,
            "lora": {"r": 4, "alpha": 8},
        },
        "evaluate": {"bootstrap": 20, "max_samples": 24, "baselines": "quick"},
    } | changed
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The machine that has everything: `config.yaml`, the prepared folder, the portable one, adapter and scores."""
    folder = tmp_path_factory.mktemp("home")
    model = tiny_folder(folder / "model")
    config = write_config(folder, model, ratings={"source": str(write_ratings(folder / "ratings"))})
    for words in (
        ["tokenize", "--portable", "--out", str(folder / "T")],
        ["train"],
        ["score", "--out", str(folder / "scores.npz")],
    ):
        assert main([*words, "--config", str(config)]) == 0
    return folder


@pytest.fixture(scope="module")
def away(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The machine that is bare, with the folder T and what it made of it: an adapter and scores."""
    folder = tmp_path_factory.mktemp("away")
    shutil.copytree(home / "T", folder / "T")
    config = write_config(folder, home / "model")
    data = ("--config", config, "--data", folder / "T")
    done = bare("train", *data, "then", "score", *data, "--out", folder / "scores.npz")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the loops that compose tokens are not compiled") == 1
    return folder


def test_the_packages_are_really_hidden() -> None:
    for name in HIDDEN:
        code = f"import sys; sys.path.insert(0, {str(BARE.parent)!r}); import bare; bare.hide(); import {name}"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert f"No module named '{name}'" in done.stderr


def test_the_adapter_is_the_one_that_is_trained_from_the_prepared_folder(home: Path, away: Path) -> None:
    here, there = (load_file(folder / "run" / "adapter" / "adapter_model.safetensors") for folder in (home, away))
    assert here.keys() == there.keys()
    assert any(tensor.any() for name, tensor in here.items() if "lora_B" in name)
    for name, tensor in here.items():
        assert tensor.equal(there[name]), name
    # So that each goes on from the other's checkpoints.
    fingerprints = [json.loads((f / "run" / "checkpoints" / "fingerprint.json").read_text()) for f in (home, away)]
    assert fingerprints[0] == fingerprints[1]
    card = (away / "run" / "adapter" / "README.md").read_text()
    assert json.loads((home / "run" / "data" / "manifest.json").read_text())["outputs"]["train.json"] in card


def test_scores_are_those_of_the_prepared_folder(home: Path, away: Path) -> None:
    from palate.score.files import read_scores

    here, there = (read_scores(folder / "scores.npz") for folder in (home, away))
    for scored in (here, there):
        del scored.key["adapter"]["adapter_config.json"]  # PEFT writes its set of modules in any order
    assert here.key == there.key
    assert_frame_equal(pl.DataFrame(here.columns), pl.DataFrame(there.columns))
    assert len(here.columns["row"]) == 24


def test_scores_that_come_home_are_measured(home: Path, away: Path, tmp_path: Path) -> None:
    brought, own = tmp_path / "brought", tmp_path / "own"
    config = ["--config", str(home / "config.yaml"), "--set", "evaluate.zero_shot=false"]
    adapter = ["--adapter", str(away / "run" / "adapter")]
    assert main(["evaluate", *config, *adapter, "--scores", str(away / "scores.npz"), "--out", str(brought)]) == 0
    assert main(["evaluate", *config, "--out", str(own)]) == 0
    assert json.loads((brought / "metrics.json").read_text()) == json.loads((own / "metrics.json").read_text())


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    assert main([str(word) for word in words]) == 2
    lines = capsys.readouterr().err.splitlines()
    return next(line for line in lines if line.startswith("error: "))


def test_scores_of_something_else_are_refused(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from palate.score.files import Scored, read_scores, write_scores

    def evaluate(file: Path, *words: str) -> str:
        words = ("--scores", str(file), "--out", str(tmp_path / "out"), *words)
        return refused(capsys, "evaluate", "--config", home / "config.yaml", *words)

    scored = read_scores(home / "scores.npz")
    for part, of, said in (
        ("tokens", "0" * 64, "was scored on other samples, tokens or prompts"),
        ("adapter", {"adapter_model.safetensors": "0" * 64}, "was scored with another adapter"),
        ("model", "0" * 16, "was scored with other base weights"),
    ):
        write_scores(tmp_path / "other.npz", Scored(scored.columns, scored.key | {part: of}))
        assert said in evaluate(tmp_path / "other.npz")
    scores = str(home / "scores.npz")
    assert "was scored on other samples" in evaluate(home / "scores.npz", "--set", "tokens.cutoff_len=410")
    assert "is the second file of fine-tuned scores" in evaluate(home / "scores.npz", "--scores", scores)
    assert not (tmp_path / "out").exists()


def copy_of(home: Path, folder: Path) -> Path:
    shutil.copytree(home / "T", folder / "T")
    return folder / "T"


@pytest.mark.parametrize("name", ["about.json", "test.item_id.npy", "word.npy", "tables.json"])
@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_folder_is_refused(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, damage: str
) -> None:
    folder = copy_of(home, tmp_path)
    (path,) = folder.rglob(name)
    if damage == "missing":
        path.unlink()
    else:
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    said = refused(capsys, "train", "--config", home / "config.yaml", "--data", folder)
    assert said.startswith(f"error: {path}: {'is missing' if damage == 'missing' else 'was changed'}")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("tokens.cutoff_len=300", "made with tokens.cutoff_len = 400 (the config says 300)"),
        ("tokens.truncation=left", "made with tokens.truncation = 'history' (the config says 'left')"),
        ("train.train_on=answer", "made with tokens.train_on = 'response' (the config says 'answer')"),
        ("prompt.question=Well?", "made with prompt.question = "),
        ("prepare.history_len=5", "made with prepare.history_len = 15 (the config says 5)"),
        ("seed=1", "made with seed = 13 (the config says 1)"),
    ],
)
def test_a_folder_for_other_options_is_refused(
    home: Path, capsys: pytest.CaptureFixture[str], option: str, said: str
) -> None:
    folder = home / "T"
    line = refused(capsys, "score", "--config", home / "config.yaml", "--data", folder, "--set", option, "--base-only")
    assert f"error: {folder}: was {said}" in line


def test_a_folder_for_another_tokenizer_is_refused(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.small import unigram

    unigram().save_pretrained(tmp_path / "tokenizer")
    words = ("--config", home / "config.yaml", "--data", home / "T", "--tokenizer", tmp_path / "tokenizer")
    assert f"error: {home / 'T'}: was made for another tokenizer" in refused(capsys, "train", *words)


def test_what_needs_a_missing_package_says_so(away: Path) -> None:
    done = bare("evaluate", "--config", away / "config.yaml")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: polars is not installed, this command needs it: pip install")
