"""A run of a config, made once: prepared, trained and scored, with the P(like) of its test rows."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from palate.config import Config
from palate.measure.metrics import Users
from palate.samples.queries import Labels, Scores
from palate.store.artifacts import read_json, sha256_of, write_json
from report import ROOT, in_own_process


def recipe(name: str = "demo") -> dict[str, Any]:
    """The options of a config that is shipped."""
    values: dict[str, Any] = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text(encoding="utf-8"))
    return values


def config_in(folder: Path, values: Mapping[str, Any]) -> Config:
    """A config whose run lies in a folder named after its options."""
    return Config.model_validate({**values, "run_dir": str(folder / sha256_of(values)[:12])})


def scored(config: Config) -> dict[str, Any]:
    """What came of a run: `p`, `row`, `liked` and `users` of its test rows, and seconds; made once."""
    kept = config.run_path / "row.json"
    if not kept.is_file():
        write_json(kept, in_own_process(run, config))
    found: dict[str, Any] = read_json(kept)
    return found


def rows_of(found: dict[str, Any]) -> tuple[Labels, Users, Scores]:
    """Labels, users and P(like) of the scored rows, taken out of `found`."""
    liked, users, p = (np.array(found.pop(name)) for name in ("liked", "users", "p"))
    return liked, users, p


def run(config: Config) -> dict[str, Any]:
    """Prepare, train and score; a model that corrects a baseline is scored as their sum."""
    from palate.commands.prepare import chat_of, prepare, prepared, scored_tokens
    from palate.commands.score import score_sum
    from palate.commands.train import train

    began = time.process_time()
    prepare(config)
    took = time.process_time() - began
    data = prepared(config)
    began = time.process_time()
    adapter = train(config)
    trained = time.process_time() - began
    columns = score_sum(config, data, adapter, config.run_path / "scores.npz")
    row = columns["row"]
    tokens = scored_tokens(config, data, chat_of(config))["test"]
    user = data.samples.timeline["user_id"].gather(data.samples.position[data.samples.of("test")[row]])
    return {
        "p": columns["p"].astype(float).tolist(),
        "row": row.tolist(),
        "liked": columns["label"].astype(bool).tolist(),
        "users": user.rank("dense").to_list(),
        "user": str(user[0]),
        "tokens": float(np.mean([len(ids) for ids in tokens.prompts(row)])),
        "prepare": took,
        "train": trained,
        "adapter": str(adapter),
    }
