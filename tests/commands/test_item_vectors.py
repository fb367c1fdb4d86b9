"""Vectors of items in the prompt, from `palate run` to an exported model, on a signal that only they have."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from tests.tiny import tiny_folder, toy_config

from palate.cli import main

LINES = {"history_line": "{item_vector} {title} {rating:g}", "candidate_line": "{title} {item_vector}"}


def write_log(folder: Path, users: int = 40, each: int = 24, items: int = 60) -> Path:
    """Items whose titles say nothing, half of them liked by nearly everybody."""
    draw = random.Random(0)
    folder.mkdir(parents=True)
    rows = ["userId,movieId,rating,timestamp"]
    titles = ["movieId,title", *(f"{item},{'xyz'[item % 3] * 3}" for item in range(1, items + 1))]
    for user in range(1, users + 1):
        for time, item in enumerate(draw.sample(range(1, items + 1), each)):
            rating = 5.0 if (item % 2 == 0) == (draw.random() < 0.95) else 1.0
            rows.append(f"{user},{item},{rating},{1_000_000 + 1000 * user + time}")
    (folder / "movies.csv").write_text("\n".join(titles) + "\n")
    (folder / "ratings.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a config whose run went through."""
    folder = tmp_path_factory.mktemp("vectors")
    toy = toy_config(tiny_folder(folder / "model", "llama"))
    config = {
        **toy.model_dump(include={"name", "model", "tokens"}, mode="json"),
        "prompt": toy.prompt.model_dump(mode="json") | LINES,
        "run_dir": str(folder / "run"),
        "ratings": {"source": str(write_log(folder / "ratings"))},
        "prepare": {"history_len": 3, "val_ratio": 0.2, "test_ratio": 0.2, "max_eval": 40},
        "train": {
            "epochs": 2, "batch_size": 4, "gradient_accumulation": 1, "learning_rate": 0.005, "targets_per_prompt": 2,
            "train_on": "answer", "lora": {"r": 8, "alpha": 16, "dropout": 0.0},
        },
        "evaluate": {"bootstrap": 50, "baselines": "quick"},
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["run", str(folder / "config.yaml")]) == 0
    return folder


def palate(*words: str | Path) -> int:
    return main([str(word) for word in words])


def test_run(home: Path) -> None:
    found = json.loads((home / "run" / "metrics.json").read_text())
    for e in found["entries"]:
        print(e["key"], e["metrics"]["auc"], e["metrics"]["log_loss"])
    assert palate("export", "--merge", "--config", home / "config.yaml", "--out", home / "merged") == 0
    assert 0
