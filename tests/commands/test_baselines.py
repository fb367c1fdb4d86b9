"""`palate baselines`: the classical models on a log of ratings, without a language model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.acceptance.ratings import write_ratings

from palate.baselines.registry import REGISTRY
from palate.cli import main

QUICK = [baseline.key for baseline in REGISTRY if baseline.quick]
FEW = ["--set", "evaluate.baselines=quick", "--set", "evaluate.bootstrap=50"]


@pytest.fixture(scope="module")
def ratings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ratings(tmp_path_factory.mktemp("log") / "ratings")


def test_all_models_are_measured_without_torch_and_nothing_is_written(ratings: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from palate.cli import main\n"
        f"assert main(['baselines', {str(ratings)!r}, '--set', 'evaluate.bootstrap=50']) == 0\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())
    table, sentences = done.stdout.split("•", 1)
    assert all(len(line.rstrip()) <= 80 for line in table.splitlines())
    assert all((baseline.label in table) is not baseline.reads_text for baseline in REGISTRY)
    assert "The bar for a language model: " in sentences
    assert "a test detects a difference in AUC of 0." in " ".join(sentences.split())
    assert "means of 2 fits here, of 5 in `palate run`" in " ".join(sentences.split())


def test_the_best_is_first_and_out_has_the_figures(
    ratings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["baselines", str(ratings), *FEW, "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "baselines.json").read_text())
    shown = capsys.readouterr().out
    assert sorted(entry["key"] for entry in found["entries"]) == sorted(QUICK)
    best_first = sorted(found["entries"], key=lambda entry: -entry["metrics"]["auc"])
    places = [shown.index(f"\n {entry['label']} ") for entry in best_first]
    assert places == sorted(places)
    assert f"{best_first[0]['metrics']['auc']:.3f}" in shown
    interval = best_first[1]["intervals"]["auc"]
    assert f"[{interval['low']:.3f}, {interval['high']:.3f}]" in shown


def test_a_run_gives_its_prepared_data_and_its_options(
    ratings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    recipe = tmp_path / "run.yaml"
    recipe.write_text(f"run_dir: {run}\nratings: {{source: {ratings}}}\nprepare: {{history_len: 5}}\n")
    assert main(["prepare", str(recipe)]) == 0
    (run / "config.yaml").write_text(recipe.read_text())
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    assert main(["baselines", str(run), *FEW, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    tested = json.loads((run / "data" / "manifest.json").read_text())["stats"]["samples"]["test"]
    assert found["n"] == tested
    assert sorted(tmp_path.rglob("*")) == before


def test_ratings_that_are_not_there_are_wrong_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["baselines", str(tmp_path / "none.csv")]) == 2
    assert main(["baselines"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert "none.csv" in told[0]
    assert "no ratings, expected" in told[1]
