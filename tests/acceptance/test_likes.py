"""A log of clicks from the command line: prepared, measured by baselines, and run with a tiny model."""

import json
import re
from pathlib import Path

import polars as pl
import pytest
import yaml
from tests.clicks import write_clicks
from tests.command import palate
from tests.tiny import tiny_folder

from palate.baselines.registry import OF_LIKES, RANKERS
from palate.config import load_config

SET = "ratings.likes=popularity"
MARK = "against sampled negatives (popularity, 4 per like)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clicks")
    write_clicks(folder / "shop")
    return folder


def words(text: str) -> str:
    """The text with single spaces, as if nothing had broken its lines."""
    return " ".join(text.split())


def test_the_refusal_names_the_option(folder: Path) -> None:
    done = palate("prepare", "--ratings", "shop", "--out", "refused", cwd=folder)
    assert done.returncode == 2
    assert "has no rating column" in done.stderr
    assert f"--set {SET}" in done.stderr
    assert not (folder / "refused").exists()


@pytest.mark.parametrize("options", [["prepare.split=cold-items"], ["ratings.also=sqlite:///feedback.db"]])
def test_what_has_no_meaning_for_likes_is_refused(folder: Path, options: list[str]) -> None:
    done = palate("prepare", "--ratings", "shop", "--set", SET, "--set", *options, "--out", "refused", cwd=folder)
    assert done.returncode == 2
    assert "ratings.likes" in done.stderr
    assert not (folder / "refused").exists()


def test_prepared_prompts_show_likes_without_ratings_and_the_same_each_time(folder: Path) -> None:
    for out in ("data", "again"):
        done = palate("prepare", "--ratings", "shop", "--set", SET, "--out", out, cwd=folder)
        assert done.returncode == 0, done.stderr
    train = json.loads((folder / "data" / "train.json").read_text())
    assert [row["output"] for row in train[:5]] == ["Yes", "No", "No", "No", "No"]
    assert re.search(r"\n15\. (Red|Green|Blue) thing \d+\n\n", train[0]["input"])
    taken = pl.read_csv(folder / "shop" / "interactions.csv")
    negatives = pl.read_parquet(folder / "data" / "negatives.parquet")
    log = pl.read_parquet(folder / "data" / "ratings.parquet")
    asked = negatives.with_columns(customer_id=log["user_id"].gather(negatives["row"]), sku="item_id")
    assert asked.join(taken, on=["customer_id", "sku"], how="semi").is_empty()
    assert log.height == taken.height
    for name in ("train.json", "test_raw.jsonl", "negatives.parquet"):
        assert (folder / "data" / name).read_bytes() == (folder / "again" / name).read_bytes()


def test_baselines_are_measured_against_the_sampled_negatives(folder: Path) -> None:
    options = ["--set", SET, "--set", "prepare.history_len=5", "--set", "evaluate.bootstrap=50"]
    done = palate("baselines", "shop", *options, "--out", "measured", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert MARK in words(done.stdout)
    assert "log loss" not in done.stdout.split("•")[0]
    assert "they are left out" in words(done.stdout)
    found = json.loads((folder / "measured" / "baselines.json").read_text())
    assert found["negatives"] == {"rule": "popularity", "per_like": 4}
    assert {e["key"] for e in found["entries"]} == {key for key in OF_LIKES if not RANKERS[key].reads_text}
    for entry in found["entries"]:
        assert entry["metrics"]["auc"] is not None
        assert {entry["metrics"][name] for name in ("log_loss", "ece", "slope", "accuracy")} == {None}
        assert set(entry["intervals"]) == {"auc", "gauc", "pair_auc"}
    auc = {entry["key"]: entry["metrics"]["auc"] for entry in found["entries"]}
    assert auc["logistic-knn"] > 0.6, "users click on things of their taste"


def test_a_run_reports_what_its_figures_are_against(folder: Path) -> None:
    tiny_folder(folder / "model")
    config = {
        "name": "clicks",
        "run_dir": "run",
        "ratings": {"source": "shop", "likes": "popularity"},
        "prepare": {"history_len": 5, "max_eval": 5, "val_ratio": 0.15},
        "model": {"base": "model", "dtype": "float32"},
        "train": {
            "max_samples": 24, "batch_size": 4, "gradient_accumulation": 1, "targets_per_prompt": 2,
            "lora": {"r": 4, "alpha": 8},
        },
        "evaluate": {"bootstrap": 50, "baselines": "quick", "rank_users": 2, "ablations": ["empty"]},
        "score": {"calibration": "platt", "stack": True},
    }  # fmt: skip
    (folder / "clicks.yaml").write_text(yaml.safe_dump(config))
    done = palate("run", "clicks.yaml", cwd=folder)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    assert metrics["negatives"] == {"rule": "popularity", "per_like": 4}
    assert any(MARK in sentence for sentence in metrics["verdict"])
    models = [entry for entry in metrics["entries"] if entry["kind"] == "model"]
    assert models
    assert all(entry["metrics"]["log_loss"] is None for entry in metrics["entries"])
    assert next(rung["key"] for rung in metrics["ladder"]["rungs"]) == "popularity"
    assert {pair["metric"] for pair in metrics["comparison"]["pairs"] if pair["value"] is not None} == {
        "auc", "gauc", "pair_auc",
    }  # fmt: skip
    assert {entry["key"] for table in metrics["rankings"] for entry in table["entries"]} >= {
        "popularity",
        "first-stage",
    }
    page = (folder / "run" / "report.html").read_text()
    assert MARK in page
    assert "Reliability" not in page
    assert ">log loss<" not in page
    again = palate("run", "clicks.yaml", cwd=folder)
    assert again.returncode == 0, again.stderr
    assert "skipped" in again.stderr
    for line, expected in (
        ("evaluate run", MARK),
        ("compare run run/evaluation", MARK),
        ("advise run --minutes 1", MARK),
        ("recommend run --user 3 --model liked-knn", "user 3: 23 likes latest: Red thing"),
        ("evaluate --data run/data --model model --base-only --set run_dir=other --set evaluate.baselines=quick", MARK),
    ):
        after = palate(*line.split(), cwd=folder)
        assert after.returncode == 0, after.stderr
        assert expected in words(after.stdout)
    assert palate("refresh", "run", cwd=folder).returncode == 2


def test_init_writes_a_config_of_likes(folder: Path) -> None:
    done = palate("init", "shop", "--set", SET, "--noun", "product", "--out", "mine.yaml", cwd=folder)
    assert done.returncode == 0, done.stderr
    text = (folder / "mine.yaml").read_text()
    config = load_config(folder / "mine.yaml")
    assert (config.ratings.likes, config.prompt.history_line) == ("popularity", "{n}. {title}")
    assert not re.search("rating_threshold|scale|rated before|bad_rows", text)
    done = palate("prepare", "mine.yaml", "--out", "of-mine", cwd=folder)
    assert done.returncode == 0, done.stderr


def test_inspect_does_not_ask_for_a_threshold_of_likes(folder: Path) -> None:
    done = palate("inspect", "shop", "--set", SET, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "20.0% Yes" in done.stdout
    assert "rating_threshold" not in done.stdout
    assert "scale" not in done.stdout
