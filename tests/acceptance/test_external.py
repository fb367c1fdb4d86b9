"""Data of others from the command line, on a tiny model: trained on, scored, measured, or refused in one line."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from tests.acceptance.ratings import write_ratings
from tests.acceptance.test_wrong_input import expect_refusal
from tests.tallrec import examples, write

from palate.cli import main
from palate.prompt.spec import PromptSpec
from palate.samples import iter_examples, load_prepared

FAST = [
    *("--set", "model.dtype=float32", "--set", "train.batch_size=4", "--set", "train.gradient_accumulation=1"),
    *("--set", "train.lora.r=4", "--set", "evaluate.bootstrap=50", "--set", "train.max_samples=16"),
]


@pytest.fixture(scope="module")
def movie(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in TALLRec's shape."""
    folder = tmp_path_factory.mktemp("tallrec") / "movie"
    for seed, (name, count) in enumerate((("train", 40), ("valid", 30), ("test", 60))):
        write(folder / f"{name}.json", examples(count, seed))
    return folder


@pytest.fixture(scope="module")
def trained(movie: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained on it."""
    run = tmp_path_factory.mktemp("runs") / "movie"
    command = ["train", "--data", str(movie), "--model", str(base), "--out", str(run), *FAST]
    assert main(command) == 0
    return run


def test_alpaca_files_of_others_are_trained_on_and_scored(movie: Path, trained: Path, tmp_path: Path) -> None:
    about = json.loads((trained / "adapter" / "palate.json").read_text())
    assert (about["prompt"]["yes"], about["prompt"]["no"]) == ("Yes.", "No.")
    assert about["decision"]["yes"]["text"] == "Yes"
    assert "answers: 'Yes.' and 'No.'" in (trained / "adapter" / "README.md").read_text()

    assert main(["evaluate", "--config", str(trained / "config.yaml"), "--out", str(tmp_path / "out")]) == 0

    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    keys = [entry["key"] for entry in found["entries"]]
    assert keys == ["constant", "history-share", "item-mean", "zero-shot", "fine-tuned"]
    assert (found["n"], found["unit"], found["rating_threshold"]) == (60, "rows", None)
    assert any("The data names no users" in sentence for sentence in found["verdict"])
    assert found["entries"][1]["metrics"]["auc"] > 0.6
    assert all(entry["metrics"]["gauc"] is None for entry in found["entries"])
    assert "User Preference" in (tmp_path / "out" / "report.html").read_text()


def test_a_file_by_itself_has_no_training_rows_to_learn_from(
    movie: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = shutil.copy(movie / "test.json", tmp_path / "held_out.json")
    command = ["evaluate", "--data", str(alone), "--model", str(base), "--base-only", "--json", *FAST]

    assert main([*command, "--out", str(tmp_path / "out")]) == 0

    found = json.loads(capsys.readouterr().out)
    labels = {entry["key"]: entry["label"] for entry in found["entries"]}
    assert list(labels) == ["constant", "history-share", "zero-shot"]
    assert labels["constant"] == "constant (one half)"


def test_users_that_are_named_are_resampled(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records: list[dict[str, Any]] = [{**record, "user_id": n // 5} for n, record in enumerate(examples(40))]
    path = write(tmp_path / "x.jsonl", records)

    assert main(["evaluate", "--data", str(path), "--model", str(base), "--base-only", "--json", *FAST,
                 "--out", str(tmp_path / "out")]) == 0  # fmt: skip

    found = json.loads(capsys.readouterr().out)
    assert (found["unit"], found["users"]) == ("users", 8)
    scores = pl.read_parquet(tmp_path / "out" / "scores" / "zero-shot.parquet")
    assert scores["user_id"].to_list() == [n // 5 for n in range(40)]


def test_scores_of_an_exported_file_are_those_of_the_prepared_data(base: Path, tmp_path: Path) -> None:
    write_ratings(tmp_path / "log", users=4, each=25)
    common = ["--ratings", str(tmp_path / "log"), "--model", str(base), *FAST]
    run = tmp_path / "run"
    own = ["evaluate", *common, "--base-only", "--set", f"run_dir={run}", "--out", str(run / "own")]
    assert main(own) == 0
    samples = load_prepared(run / "data").samples
    frames = iter_examples(samples, "test", PromptSpec())
    write(tmp_path / "test.json", [row for frame in frames for row in frame.to_dicts()])

    command = ["evaluate", "--data", str(tmp_path / "test.json"), "--model", str(base), "--base-only", *FAST]
    assert main([*command, "--out", str(run / "theirs")]) == 0

    ours, theirs = (pl.read_parquet(run / name / "scores" / "zero-shot.parquet") for name in ("own", "theirs"))
    assert ours.height > 0
    for name in ("row", "label", "p", "mass"):
        np.testing.assert_array_equal(ours[name].to_numpy(), theirs[name].to_numpy())


def write_tables(folder: Path, user_id: str = "{}") -> Path:
    """Tables in CoLLM's shape: some users with few rows, and one that only the test has."""
    draw, rows = random.Random(0), []
    for user in range(12):
        for n, item in enumerate(draw.sample(range(1, 16), 1 if user == 11 else draw.randint(4, 12))):
            split = "test" if user == 11 or n > 7 else "valid" if n > 5 else "train"
            rows.append((user, item, int((item + user) % 2), 1000 * n + user, f"Film {item} ({1950 + item})", split))
    frame = pl.DataFrame(rows, schema=["uid", "iid", "label", "timestamp", "title", "split"], orient="row")
    folder.mkdir(parents=True)
    if user_id != "{}":
        frame = frame.with_columns(pl.format(user_id, "uid").alias("uid"))
    for split in ("train", "valid", "test"):
        frame.filter(pl.col("split") == split).drop("split").write_csv(folder / f"{split}_ood2.csv")
    return folder


def test_tables_with_splits_are_trained_on_and_scored(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tables = write_tables(tmp_path / "ml-1m")
    common = ["--data", str(tables), "--model", str(base), *FAST]

    assert main(["train", *common, "--set", "train.targets_per_prompt=4"]) == 0
    assert main(["evaluate", *common, "--set", "train.targets_per_prompt=4"]) == 0

    run = tmp_path / "runs" / "ml-1m"
    raw = pl.read_ndjson(run / "data" / "test_raw.jsonl")
    test = pl.read_csv(tables / "test_ood2.csv")
    assert raw.height == test.height
    assert set(raw.select("user_id", "item_id").rows()) == set(test.select("uid", "iid").rows())
    assert raw.filter(pl.col("user_id") == 11)["history"].list.len().to_list() == [0]
    found = json.loads((run / "evaluation" / "metrics.json").read_text())
    assert found["n"] == test.height
    assert found["entries"][-1]["key"] == "fine-tuned"
    assert "(liked)" in raw["history_titles"].str.join("")[0]


def test_tables_are_prepared_into_a_folder_that_is_taken_as_it_is(base: Path, tmp_path: Path) -> None:
    tables, out = write_tables(tmp_path / "ml", "user {}"), tmp_path / "data"

    assert main(["prepare", "--data", str(tables), "--out", str(out), "--history-len", "5"]) == 0
    assert main(["evaluate", "--data", str(out), "--model", str(base), "--base-only", *FAST,
                 "--set", f"run_dir={tmp_path / 'run'}"]) == 0  # fmt: skip

    options = json.loads((out / "manifest.json").read_text())["options"]["prepare"]
    assert (options["split"], options["history_len"], options["rating_threshold"]) == ("given", 5, 0.5)
    scores = pl.read_parquet(tmp_path / "run" / "evaluation" / "scores" / "zero-shot.parquet")
    assert "user 11" in scores["user_id"].to_list()


def test_tables_that_changed_are_prepared_again(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tables = write_tables(tmp_path / "ml")
    command = ["evaluate", "--data", str(tables), "--model", str(base), "--base-only", *FAST]
    assert main(command) == 0
    before = json.loads((tmp_path / "runs" / "ml" / "data" / "manifest.json").read_text())
    lines = (tables / "train_ood2.csv").read_text().splitlines()
    (tables / "train_ood2.csv").write_text("\n".join(lines[:-1]) + "\n")

    assert main(command) == 0

    after = json.loads((tmp_path / "runs" / "ml" / "data" / "manifest.json").read_text())
    assert before["stats"]["samples"]["train"] - after["stats"]["samples"]["train"] == 1


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.pkl", b"\x80\x04", ["x.pkl: is a pickle", "to_parquet('x.parquet')"]),
        ("x.docx", b"PK", ["x.docx: has an unknown suffix", ".json"]),
        ("x.json", b'[{"instruction": "a", "output": "Perhaps"}]', ["x.json:1: record 1: the answer is 'Perhaps'"]),
        ("x.json", b'[{"instruction": "a"}]', ["x.json:1: record 1 has no 'output'"]),
        ("x.csv", b"user,item,label\n1,2,1\n", ["x.csv:1: has no split column"]),
        ("x.parquet", b"no", ["x.parquet: is not a Parquet file"]),
        ("deep/notes.txt", b"", ["deep: holds no data that Palate reads"]),
        ("deep/train_ood2.pkl", b"", ["deep/train_ood2.pkl: is a pickle"]),
        ("absent", None, ["absent: does not exist"]),
        ("some/train.json", b'[{"instruction": "a", "output": "No"}]', ["some: holds no test examples"]),
    ],
)
def test_data_that_cannot_be_read_are_refused_in_one_line(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes | None, words: list[str]
) -> None:
    home, out = tmp_path / "home", tmp_path / "out"
    home.mkdir()
    path = home / name
    path.parent.mkdir(exist_ok=True)
    if content is not None:
        path.write_bytes(content)
    data = path.parent if path.parent != home else path
    command = ["evaluate", "--data", str(data), "--model", str(base), "--base-only", "--out", str(out)]

    expect_refusal([*command, "--set", f"run_dir={out}"], capsys, "", words)

    assert not out.exists()


def test_training_needs_training_examples(
    movie: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = shutil.copy(movie / "test.json", tmp_path / "alone.json")
    command = ["train", "--data", str(alone), "--model", str(base), "--out", str(tmp_path / "out")]

    expect_refusal(command, capsys, "alone.json", ["no training examples"])
    assert not (tmp_path / "out").exists()


def test_an_adapter_of_other_answers_is_refused(
    trained: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "x.json", examples(6, yes="Yes", no="No"))
    command = ["evaluate", "--data", str(path), "--model", str(base), "--adapter", str(trained / "adapter")]

    expect_refusal([*command, "--out", str(tmp_path / "out")], capsys, "adapter", ["'Yes.'", "'Yes'"])


def test_what_needs_no_preparing_is_refused(movie: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expect_refusal(["prepare", "--data", str(movie), "--out", str(tmp_path / "out")], capsys, "movie", ["is ready"])
    expect_refusal(["score", "--data", str(movie)], capsys, "movie", ["palate evaluate"])
