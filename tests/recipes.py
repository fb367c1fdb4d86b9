"""Configs beside the ratings and the tiny model that they name."""

from pathlib import Path
from typing import Any

import yaml
from tests.acceptance.ratings import write_ratings
from tests.tiny import random_adapter, tiny_folder, toy_config

from palate.config import load_config


def recipe_to_run(folder: Path, *, train: dict[str, Any], **sections: Any) -> Path:
    """The file of a config that trains for seconds; its run lies beside it."""
    config = {
        "name": "tiny",
        "run_dir": str(folder / "run"),
        "ratings": {"source": str(write_ratings(folder / "ratings"))},
        "model": {"base": str(tiny_folder(folder / "model")), "dtype": "float32"},
        "train": {"batch_size": 4, "gradient_accumulation": 1, "lora": {"r": 4, "alpha": 8}, **train},
        **sections,
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def recipe_to_evaluate(folder: Path, **adapters: float) -> Path:
    """The folder of a `config.yaml` whose run has untrained adapters, random at a scale each."""
    base = tiny_folder(folder / "model")
    config = {
        **toy_config(base).model_dump(include={"name", "prompt", "model", "tokens"}, mode="json"),
        "run_dir": str(folder / "run"),
        "ratings": {"source": str(write_ratings(folder / "ratings", users=12, each=20))},
        "prepare": {"history_len": 3, "val_ratio": 0.3, "test_ratio": 0.2},
        "evaluate": {"bootstrap": 20, "zero_shot": False, "baselines": "quick"},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    for name, scale in adapters.items():
        random_adapter(load_config(folder / "config.yaml"), folder / "run" / name, scale)
    return folder
