"""Records that were edited are refused in a line with the key."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.ratings import write_ratings
from tests.command import palate

from palate.commands.ledger import Ledger
from palate.errors import InputError
from palate.report.outcome import read_metrics


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with prepared data."""
    log = write_ratings(tmp_path_factory.mktemp("log"), users=3, each=20)
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert palate("prepare", "--ratings", log, "--set", f"run_dir={folder}").returncode == 0
    return folder


def put(value: Any, *path: str) -> Callable[[dict[str, Any]], None]:
    def edit(record: dict[str, Any]) -> None:
        for name in path[:-1]:
            record = record[name]
        record[path[-1]] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (put([], "stats"), "stats is [], expected an object"),
        (put({}, "stats"), "stats.name is missing"),
        (put("3", "stats", "samples", "test"), "stats.samples.test is '3', expected a whole number"),
        (put(5, "stats", "scale"), "stats.scale is 5, expected a list"),
        (put({"x": 1}, "options"), "options.prepare is missing"),
        (put("3", "options", "prepare", "history_len"), "options.prepare.history_len is '3', expected a whole number"),
        (put([], "options", "ratings"), "options.ratings is [], expected an object"),
        (put(1, "outputs", "train.json"), 'outputs["train.json"] is 1, expected a text'),
        (put([], "outputs"), "outputs is [], expected an object"),
        (put("0", "outputs", "negatives.parquet"), "options.ratings.likes is missing"),
        (put(None, "inputs"), "inputs is null, expected an object"),
    ],
)
def test_an_edited_manifest_is_refused_by_each_command(
    run: Path, edit: Callable[[dict[str, Any]], None], problem: str
) -> None:
    manifest = run / "data" / "manifest.json"
    before = manifest.read_text()
    record = json.loads(before)
    edit(record)
    manifest.write_text(json.dumps(record))
    try:
        for words in (("recommend", "--user", "1", "--model", "item-mean"), ("baselines",), ("audit",)):
            done = palate(words[0], run, *words[1:])
            assert (done.returncode, done.stderr.splitlines()[-1].count("error: ")) == (2, 1), done.stderr
            assert f"{manifest}: " in done.stderr
            assert problem.replace('["train.json"]', "") in done.stderr.replace("['train.json']", "")
            assert "run `palate prepare` again" in done.stderr
        assert palate("prepare", run).returncode == 0
        assert manifest.read_text() == before
    finally:
        manifest.write_text(before)


@pytest.mark.parametrize(
    ("metrics", "problem"),
    [
        ({"entries": "x"}, "entries is 'x', expected a list"),
        ({"entries": [{"key": "a", "kind": "model", "metrics": {"auc": "0.9"}}]}, "metrics.auc is '0.9'"),
        ({"ladder": {}}, "ladder.use is missing"),
        ({"ladder": ["use"]}, "ladder is "),
    ],
)
def test_edited_metrics_are_refused(tmp_path: Path, metrics: dict[str, Any], problem: str) -> None:
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(InputError, match=r"metrics\.json: ") as found:
        read_metrics(tmp_path / "metrics.json")
    assert problem in str(found.value)


@pytest.mark.parametrize("stages", [{"train": []}, {"train": {"made_from": {}}}, {"train": None}])
def test_edited_stages_are_refused(tmp_path: Path, stages: dict[str, Any]) -> None:
    (tmp_path / "stages.json").write_text(json.dumps(stages))
    with pytest.raises(InputError, match=r"stages\.json: train.*; remove the file"):
        Ledger(tmp_path)
