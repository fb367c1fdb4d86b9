"""`palate advise`: models from cheap to dear on a log, and the one to use."""

import json
from pathlib import Path

import pytest
from tests.acceptance.ratings import write_ratings

from palate.baselines.registry import LADDER
from palate.cli import main

FEW = ["--set", "evaluate.bootstrap=50"]


@pytest.fixture(scope="module")
def ratings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ratings(tmp_path_factory.mktemp("log") / "ratings")


def test_the_advice_names_a_tried_model_its_cost_and_what_was_not_tried(
    ratings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["advise", str(ratings), *FEW, "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    found = json.loads((tmp_path / "advice.json").read_text())
    tried = [rung["key"] for rung in found["rungs"]]
    assert tried == list(LADDER[: len(tried)])
    assert found["use"] in tried
    label = next(rung["label"] for rung in found["rungs"] if rung["key"] == found["use"])
    assert f"Use {label}: " in shown
    assert "a thousand requests" in " ".join(shown.split())
    assert "language model" in found["skipped"]
    assert all(len(line.rstrip()) <= 80 for line in shown.split("Use ")[0].splitlines())


def test_no_fit_begins_when_the_time_is_up(ratings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["advise", str(ratings), *FEW, "--minutes", "0.000001", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [rung["key"] for rung in found["rungs"]] == [LADDER[0]]
    assert all("the time is up" in reason for label, reason in found["skipped"].items() if label != "language model")


@pytest.mark.parametrize("minutes", ["0", "-1", "ten"])
def test_a_wrong_time_is_wrong_input(ratings: Path, minutes: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(["advise", str(ratings), "--minutes", minutes])
    except SystemExit as end:  # argparse refuses what is no number
        code = end.code
    assert code == 2
    assert "--minutes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--minutes", "nan"], "--minutes: nan"),
        (["--set", "evaluate.bootstrap=0"], "evaluate.bootstrap: 0, expected resamples"),
        (["--split", "train"], "evaluate.split: train, expected test"),
        (["--text", "minilmm"], "minilmm"),
        (["--set", "text.columns=[nope]", "--text", "minilm"], "text.columns: the items have no column 'nope'"),
        (
            ["--set", "train.train_on=answer", "--set", "train.offset=strongest-text"],
            "--set train.offset: train.offset=strongest-text reads the items' text, expected text.encoder, such as min",
        ),
    ],
)
def test_wrong_options_end_before_anything_is_fitted(
    ratings: Path, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["advise", str(ratings), *words]) == 2
    shown = capsys.readouterr()
    assert told in shown.err
    assert not shown.out
