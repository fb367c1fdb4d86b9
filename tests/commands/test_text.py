"""The commands with vectors of items' texts: `palate baselines --text`, `palate recommend --model strongest-text`."""

import json
import shutil
from pathlib import Path

import pytest
from tests.acceptance.ratings import write_ratings
from tests.tiny import tiny_folder

from palate.baselines.registry import REGISTRY
from palate.cli import main
from palate.commands.prepare import baseline_data, prepared
from palate.config import Config, dump_config, load_config
from palate.text.vectors import FILE

READERS = [baseline for baseline in REGISTRY if baseline.reads_text]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run that names an encoder, has prepared data, and no model."""
    monkeypatch.setenv("PALATE_CACHE_DIR", str(tmp_path / "cache"))
    folder, encoder = tmp_path / "run", tiny_folder(tmp_path / "model", "llama")
    folder.mkdir()
    config = (
        f"ratings: {{source: {write_ratings(tmp_path / 'ratings')}}}\nprepare: {{history_len: 5, val_ratio: 0.2}}\n"
    )
    (folder / "config.yaml").write_text(f"run_dir: {folder}\ntext: {{encoder: {encoder}}}\n{config}")
    assert main(["prepare", str(folder)]) == 0
    return folder


def test_one_option_adds_the_models_that_read_text(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["baselines", str(tmp_path / "ratings"), "--set", "evaluate.bootstrap=20", "--set", "prepare.history_len=5"]
    capsys.readouterr()
    assert main([*words, "--text", str(tmp_path / "model")]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n {baseline.label} " in shown for baseline in READERS)
    assert all(len(line) <= 80 for line in shown.split("•")[0].splitlines())


def test_a_run_recommends_by_text_without_the_encoder(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", "strongest-text", "--user", "3", "--json"]
    capsys.readouterr()
    assert main(["recommend", str(run), *words]) == 0
    best = json.loads(capsys.readouterr().out)["recommendations"]
    assert (run / FILE).is_file()
    shutil.rmtree(tmp_path / "cache")
    shutil.rmtree(tmp_path / "model")
    run.rename(tmp_path / "moved")
    assert main(["recommend", str(tmp_path / "moved"), *words]) == 0
    assert json.loads(capsys.readouterr().out)["recommendations"] == best


def test_evaluations_and_teachers_take_the_vectors_of_the_run(run: Path) -> None:
    config = load_config(run / "config.yaml")
    known = baseline_data(config, prepared(config), text=True)
    assert known.vectors is not None
    assert len(known.vectors.values) == len(known.samples.items)
    assert baseline_data(Config(run_dir=str(run)), prepared(config), text=True).vectors is None
    assert baseline_data(config, prepared(config), text=False).vectors is None


def test_without_an_encoder_nothing_changes_and_a_reader_of_text_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "text" not in Config().model_dump()
    assert "encoder: minilm" in dump_config(Config.model_validate({"text": {"encoder": "minilm"}}))
    without = ["--set", "text.encoder=null"]
    capsys.readouterr()
    assert main(["recommend", str(run), "--model", "text", "--user", "3", *without]) == 2
    assert "--model: text reads the items' text, expected an encoder: --set text.en" in capsys.readouterr().err
    assert main(["train", str(run), "--model", str(run.parent / "model"), "--set", "train.teacher=text", *without]) == 2
    assert "train.teacher: train.teacher=text reads the items' text, expected text.encoder" in capsys.readouterr().err


def test_an_encoder_that_is_not_there_is_wrong_input(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["baselines", str(run), "--text", "minilmm"]) == 2
    assert "minilmm: no such encoder, expected a folder" in capsys.readouterr().err.splitlines()[-1]
    assert main(["recommend", str(run), "--model", "text", "--user", "3", "--set", "text.layer=9"]) == 2
    assert "text.layer: 9, expected at most the 2 layers" in capsys.readouterr().err.splitlines()[-1]
