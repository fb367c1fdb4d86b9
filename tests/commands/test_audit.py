"""The audit around the commands: what is refused, what goes on when told to, and what is kept of it."""

import html
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.acceptance.ratings import write_ratings

from palate.cli import main


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    return write_ratings(tmp_path / "clean")


@pytest.fixture
def leaking(tmp_path: Path) -> Path:
    """A log in which the first user's last rating is of the item that the first one was of."""
    folder = write_ratings(tmp_path / "leaking")
    lines = (folder / "ratings.csv").read_text().splitlines()
    first = lines[1].split(",")[1]
    user, _, rating, time = lines[40].split(",")
    lines[40] = ",".join([user, first, rating, time])
    (folder / "ratings.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def recipe(leaking: Path, base: Path, tmp_path: Path) -> Path:
    config = {
        "name": "tiny",
        "run_dir": str(tmp_path / "run"),
        "ratings": {"source": str(leaking)},
        "prepare": {"max_eval": 5},
        "model": {"base": str(base), "dtype": "float32"},
        "train": {"max_samples": 8, "batch_size": 4, "gradient_accumulation": 1, "lora": {"r": 4, "alpha": 8}},
        "evaluate": {"bootstrap": 20, "max_samples": 6, "baselines": "quick"},
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def expect_refusal(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    for words in ("pair-on-both-sides", "1 of ", "evaluate.allow_leaks: true", "--allow-leaks"):
        assert words in line


def severities(found: dict[str, Any]) -> dict[str, str]:
    return {finding["check"]: finding["severity"] for finding in found["findings"]}


def test_the_audit_of_a_clean_log_ends_well_and_writes_nothing(
    clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))

    assert main(["audit", "--ratings", str(clean)]) == 0
    shown = capsys.readouterr().out
    assert "pair-on-both-sides" in shown
    assert "nothing fatal" in shown
    assert main(["audit", "--ratings", str(clean), "--split", "global-time", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["split"] == "global-time"
    assert severities(found)["training-after-test"] == "clean"
    assert sorted(tmp_path.rglob("*")) == before


def test_the_audit_of_a_log_that_leaks_prints_what_it_found_and_ends_with_2(
    leaking: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", "--ratings", str(leaking), "--json"]) == 2
    output = capsys.readouterr()
    assert [check for check, how in severities(json.loads(output.out)).items() if how == "fatal"] == [
        "pair-on-both-sides"
    ]
    assert output.err.count("\n") == 1
    assert main(["audit", "--ratings", str(leaking), "--allow-leaks"]) == 0

    capsys.readouterr()
    data = str(tmp_path / "data")
    assert main(["prepare", "--ratings", str(leaking), "--out", data]) == 0
    assert main(["audit", "--data", data]) == 2
    expect_refusal(capsys)


def test_every_line_of_the_table_fits_into_80_columns(
    leaking: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from palate import console

    monkeypatch.setattr(console.out, "width", 80)
    main(["audit", "--ratings", str(leaking)])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith((" fatal", " stated", " clean")) for line in lines) == 20


def test_nothing_is_scored_or_trained_on_data_that_leak(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["run", str(recipe)], ["evaluate", "--config", str(recipe), "--base-only"]):
        assert main(command) == 2
        expect_refusal(capsys)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"config.yaml", "data"}


def test_a_leak_that_is_allowed_is_in_the_metrics_and_in_the_report(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["evaluate", "--config", str(recipe), "--base-only", "--out", str(out)]

    assert main([*command, "--set", "evaluate.allow_leaks=true"]) == 0
    assert "leak allowed: pair-on-both-sides" in capsys.readouterr().err
    found = json.loads((out / "metrics.json").read_text())["leaks"]
    assert [check for check, how in severities(found).items() if how == "fatal"] == ["pair-on-both-sides"]
    assert severities(found)["future"] == "stated"
    report = (out / "report.html").read_text()
    assert "1 fatal: pair-on-both-sides" in report
    (future,) = (each for each in found["findings"] if each["check"] == "future")
    assert future["sentence"][1:] in html.unescape(report)
