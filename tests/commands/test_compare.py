"""`palate compare`: runs side by side."""

import html
import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from tests.browser import browse, needs_browser
from tests.evidence import model_scores
from tests.films import film_samples
from tests.tree import Tree

from palate.cli import main
from palate.commands.compare import read_run
from palate.measure.figures import least
from palate.measure.rows import Models, evaluate
from palate.report.side_by_side import Run, side_by_side
from palate.score.files import Scored, write_scores
from palate.store.artifacts import write_json, write_manifest


def write_run(
    folder: Path, *, seed: int = 0, rows: int | None = None, slope: float | None = None, history_len: int = 15
) -> Path:
    """The folder of a run on made-up films: its metrics, config and scores of a fine-tuned model."""
    samples = film_samples()
    own = samples.of("test")[:rows]
    at = samples.position[own]
    frame = model_scores(samples, seed=seed)["fine-tuned"].head(len(own))
    logit = frame["logit"].to_numpy()
    frames = {"fine-tuned": frame}
    calibrations = {}
    if slope is not None:
        p = 1 / (1 + np.exp(-slope * logit))
        frames["fine-tuned-calibrated"] = frame.select("row", p=pl.Series(p))
        calibrations = {"fine-tuned": {"method": "platt", "parameters": {"slope": slope, "intercept": 0.0}}}
    models = Models(frames, aside=list(frames)[1:])
    found = evaluate(samples, models, baselines="quick", rows=range(len(own)), bootstrap=20)
    write_json(folder / "metrics.json", asdict(found) | {"calibrations": calibrations, "leaks": {}})
    config = {
        "name": folder.name,
        "seed": seed,
        "ratings": {"source": "films"},
        "prepare": {"history_len": history_len, "split": "user-time"},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    write_json(folder / "adapter" / "training.json", {"steps": 80 + seed, "seconds": 61.0, "eval_auc": 0.7})
    timeline = samples.timeline
    columns = {
        "row": np.arange(len(own)),
        "user_id": timeline["user_id"].to_numpy()[at],
        "item_id": timeline["item_id"].to_numpy()[at],
        "label": samples.label[own],
        "p": frame["p"].to_numpy().astype(np.float32),
        "mass": np.full(len(own), 0.9, np.float32),
        "logit": logit.astype(np.float32),
    }
    (folder / "scores").mkdir()
    write_scores(folder / "scores" / "fine-tuned.parquet", Scored(columns, {"adapter": {"a": "b"}}))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return [write_run(folder / name, seed=seed) for seed, name in enumerate(("first", "second"))]


def compared(capsys: pytest.CaptureFixture[str], *words: str | Path) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["compare", "--json", *map(str, words)]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_runs_stand_side_by_side(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    found = compared(capsys, *runs)
    assert [run["name"] for run in found["runs"]] == ["first", "second"]
    assert found["differences"] == {"seed": [0, 1]}
    assert [run["training"]["steps"] for run in found["runs"]] == [80, 81]
    assert found["other_data"] == {}
    assert found["remarks"] == []
    metrics = found["shared"]["metrics"]
    for run in found["runs"]:
        assert metrics[run["name"]] == pytest.approx(run["metrics"], abs=1e-6)
    (auc,) = [pair for pair in found["shared"]["comparison"]["pairs"] if pair["metric"] == "auc"]
    assert auc["value"] == pytest.approx(metrics["first"]["auc"] - metrics["second"]["auc"])
    assert auc["interval"]["low"] <= auc["value"] <= auc["interval"]["high"]


def test_metrics_that_were_edited_are_refused(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edited = shutil.copytree(runs[0], tmp_path / "edited")
    write_manifest(edited, "run", inputs={}, options={}, stats={})
    compared(capsys, runs[1], edited)
    metrics = json.loads((edited / "metrics.json").read_text())
    metrics["entries"][0]["metrics"]["auc"] = 0.999
    (edited / "metrics.json").write_text(json.dumps(metrics))
    assert main(["compare", str(runs[1]), str(edited)]) == 2
    told = capsys.readouterr().err
    assert f"error: {edited / 'metrics.json'}: was changed since `palate run` wrote it" in told


def test_the_terminal_shows_what_differs_within_100_columns(
    runs: list[Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("palate.console.out.width", 100, raising=False)
    assert main(["compare", *map(str, runs)]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 100
    for word in (
        "seed",
        "steps",
        "first, fine-tuned",
        "second, fine-tuned",
        "that all of them scored",
        "ECE from noise alone",
    ):
        assert word in " ".join(shown.split())


def test_only_shared_rows_are_compared_and_the_rest_is_told(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = compared(capsys, runs[0], write_run(tmp_path / "part", seed=1, rows=25))
    assert found["shared"]["n"] == 25
    whole = found["runs"][0]["metrics"]["n"]
    assert f"first scored {whole:,}" in " ".join(found["remarks"])
    assert found["shared"]["metrics"]["first"]["auc"] != found["runs"][0]["metrics"]["auc"]


def test_a_calibrated_model_is_compared_as_it_is_believed(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = compared(capsys, runs[0], write_run(tmp_path / "calibrated", slope=0.25))
    assert [run["model"] for run in found["runs"]] == ["fine-tuned", "fine-tuned-calibrated"]
    shared = found["shared"]["metrics"]
    assert shared["calibrated"]["auc"] == pytest.approx(shared["first"]["auc"])
    assert shared["calibrated"]["log_loss"] == pytest.approx(found["runs"][1]["metrics"]["log_loss"], abs=1e-6)
    assert shared["calibrated"]["log_loss"] < shared["first"]["log_loss"]
    assert "sort alike" in found["verdict"][0]


def test_runs_of_other_data_are_not_compared_row_by_row(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_run(tmp_path / "other")
    config = yaml.safe_load((other / "config.yaml").read_text())
    (other / "config.yaml").write_text(yaml.safe_dump(config | {"ratings": {"source": "songs"}}))
    found = compared(capsys, runs[0], other)
    assert found["shared"] is None
    assert found["other_data"] == {"data": ["films", "songs"]}
    assert "not measured on the same data (data: films, songs)" in found["remarks"][0]
    assert found["differences"]["ratings.source"] == ["films", "songs"]


def test_rows_that_tell_another_label_are_not_compared(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_run(tmp_path / "other")
    file = other / "scores" / "fine-tuned.parquet"
    columns = {name: column.to_numpy() for name, column in pl.read_parquet(file).to_dict().items()}
    write_scores(file, Scored(columns | {"label": ~columns["label"]}, {}))
    found = compared(capsys, runs[0], other)
    assert found["shared"] is None
    assert "another user, item or label" in found["remarks"][0]


def test_files_of_metrics_and_of_scores_are_taken_by_themselves(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = tmp_path / "alone.parquet"
    shutil.copy(runs[1] / "scores" / "fine-tuned.parquet", alone)
    found = compared(capsys, runs[0] / "metrics.json", alone)
    assert [run["name"] for run in found["runs"]] == ["first", "alone"]
    assert found["runs"][1]["metrics"] is None
    assert found["shared"]["n"] == found["runs"][0]["metrics"]["n"]
    assert "Which data alone is of is not known" in found["remarks"][0]
    (tmp_path / "only").mkdir()
    shutil.copy(runs[1] / "metrics.json", tmp_path / "only")
    found = compared(capsys, runs[0], tmp_path / "only" / "metrics.json")
    assert found["shared"] is None
    assert (
        "There are no scores of only" in found["remarks"][0] or "not measured on the same data" in found["remarks"][0]
    )


def test_runs_of_one_name_are_called_by_their_places(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = shutil.copytree(runs[0], tmp_path / "again")
    found = compared(capsys, runs[0], again)
    assert [run["name"] for run in found["runs"]] == [str(runs[0]), str(again)]


def test_many_runs_are_each_compared_with_the_first(runs: list[Path]) -> None:
    one = read_run(runs[0])
    many = [Run(f"run {n}", one.place, one.model, one.scores) for n in range(6)]
    shared = side_by_side(many, resamples=5).shared
    assert shared is not None
    assert [(pair.first, pair.second) for pair in shared.comparison.of("auc")] == [
        ("run 0", f"run {n}") for n in range(1, 6)
    ]


@pytest.mark.parametrize(
    ("make", "words", "message"),
    [
        (None, ["FIRST"], "palate compare: only one is named, expected two or more to compare"),
        (None, ["FIRST", "FIRST"], "is given twice, expected each once"),
        (None, ["FIRST", "nowhere"], "does not exist, expected a run's or an evaluation's folder"),
        ("folder", ["FIRST", "folder"], "has no metrics.json"),
        ("text.txt", ["FIRST", "text.txt"], "has an unknown suffix"),
        ("broken.json", ["FIRST", "broken.json"], "broken.json"),
        ("other.json", ["FIRST", "other.json"], "entries is 3, expected a list"),
        ("broken.parquet", ["FIRST", "broken.parquet"], "is not readable, expected scores that"),
        (None, ["FIRST", "SECOND", "--out", "page.pdf"], "has another suffix, expected .html"),
    ],
)
def test_wrong_input_is_told_in_one_line(
    runs: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    make: str | None,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if make == "folder":
        (tmp_path / make).mkdir()
    elif make:
        (tmp_path / make).write_text('{"entries": 3}' if make == "other.json" else "{")
    before = sorted(tmp_path.iterdir())
    known = {"FIRST": str(runs[0]), "SECOND": str(runs[1])}
    assert main(["compare", *(known.get(word, word) for word in words)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert sorted(tmp_path.iterdir()) == before


def test_the_page_is_whole_by_itself_and_the_same_each_time(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = write_run(tmp_path / "evil", seed=2)
    config = yaml.safe_load((evil / "config.yaml").read_text())
    (evil / "config.yaml").write_text(yaml.safe_dump(config | {"name": "<script>alert(1)</script>"}))
    for name in ("one.html", "two.html"):
        assert main(["compare", *map(str, (*runs, evil)), "--out", str(tmp_path / name)]) == 0
    assert f"page: {tmp_path / 'two.html'}" in capsys.readouterr().out.replace("\n", "")
    page = (tmp_path / "one.html").read_text()
    assert page == (tmp_path / "two.html").read_text()
    tree = Tree(page)
    assert tree.ids >= {"verdict", "measured", "pairs", "config", "training", "runs"}
    assert tree.count("script") == 0
    assert tree.asks_elsewhere == []
    assert html.escape("<script>alert(1)</script>") in page
    for figure in re.findall(r"<figure.*?</figure>", page, flags=re.S):
        assert re.search(r"<table[^>]*>.*<svg.*<td", figure, flags=re.S)


def test_the_page_has_the_floor_of_ece_and_the_detectable_size(runs: list[Path], tmp_path: Path) -> None:
    assert main(["compare", *map(str, runs), "--out", str(tmp_path / "compare.html")]) == 0
    page = (tmp_path / "compare.html").read_text()
    found = side_by_side([read_run(place) for place in runs])
    assert found.shared is not None
    floors = [f"{metrics.ece_floor:.3f}" for metrics in found.shared.metrics.values()]
    assert re.findall(r'<td class="n">([0-9.]+)</td></tr>', page)[:2] == floors
    (auc,) = found.shared.comparison.of("auc")
    assert auc.interval is not None
    assert auc.better is None
    size = least(auc.interval)
    assert f"detects {size}</title>" in page
    assert f'<td class="n">{size}</td>' in page
    assert f"these rows detect differences of at least {size}" in html.unescape(page)


def test_runs_of_earlier_versions_are_compared(runs: list[Path], tmp_path: Path) -> None:
    old = shutil.copytree(runs[0], tmp_path / "old")
    told = json.loads((old / "metrics.json").read_text())
    for entry in told["entries"]:
        for name in ("pair_auc", "slope", "intercept", "ece_floor"):
            del entry["metrics"][name]
            entry["intervals"].pop(name, None)
    told["differences"] = [d for d in told["differences"] if d["metric"] != "pair_auc"]
    (old / "metrics.json").write_text(json.dumps(told))
    out = tmp_path / "compare.html"
    assert main(["compare", str(old), str(runs[1]), "--out", str(out)]) == 0
    assert 'id="pairs"' in out.read_text()
    shutil.rmtree(old / "scores")
    assert main(["compare", str(old), str(runs[1]), "--out", str(out)]) == 0
    assert "There are no scores of first" in out.read_text()


@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_the_page(runs: list[Path], tmp_path: Path, width: int) -> None:
    assert main(["compare", *map(str, runs), "--out", str(tmp_path / "compare.html")]) == 0
    seen = browse((tmp_path / "compare.html").read_text(), tmp_path, width=width, dark=width == 390)
    assert seen.console == ""
    assert seen.probe["requests"] == []
    assert seen.probe["hidden"] == []
    assert seen.probe["wide"] == []
