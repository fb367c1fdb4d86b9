"""How long a user waits for the first optimizer step: from starting the process to the step's beginning and end.

Palate's side is `palate train` on data that `palate prepare` wrote, with the token tables in the cache and without.
TRL's side is `trl_script.py`, given the same train.json as prompt and completion. The rows that stand first are those
of Palate's first step, so that the two losses can be compared; of all others the ids are.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from baselines import guides_messages
from palate.config import Config
from report import cores, in_own_process, number, said

POLL = 0.01
"""Seconds between two looks at whether the first step is done."""
PATIENCE = 3600.0


def measured(config: Config, targets: int, repeats: int, folder: Path) -> list[dict[str, Any]]:
    """Palate's rows (tables made anew, found, found with several targets), and TRL's last."""
    data = folder / "prepared"
    config = config.model_copy(update={"data_dir": str(data)})
    palate("prepare", config, folder / "prepare.yaml")
    rows: list[dict[str, Any]] = [
        {"name": name, "targets": k, "begun": [], "seconds": [], "loss": None}
        for name, k in (
            ("palate train, nothing cached", 1),
            ("palate train, tables cached", 1),
            (f"palate train, nothing cached, K = {targets}", targets),
            (f"palate train, tables cached, K = {targets}", targets),
            ("TRL", 1),
        )
    ]
    script = in_own_process(for_trl, config, folder)
    for _ in range(repeats):
        for row in rows[:-1]:
            if "nothing" in row["name"]:
                forget_tables()
            train = config.train.model_copy(update={"targets_per_prompt": row["targets"]})
            add(row, palate_starts(config.model_copy(update={"train": train}), folder / "run"))
        add(rows[-1], trl_starts(script, folder / "trl"))
    return rows


class Start(NamedTuple):
    """A training process' way into its first step."""

    begun: float
    """Seconds from the start of the process until it trains."""
    seconds: float
    """Seconds until the step is done."""
    loss: float


def add(row: dict[str, Any], found: Start) -> None:
    row["begun"].append(found.begun)
    row["seconds"].append(found.seconds)
    row["loss"] = found.loss
    print(f"{row['name']}: first step from {number(found.begun)} to {number(found.seconds)} s", file=sys.stderr)


def palate(command: str, config: Config, file: Path) -> None:
    """Run a command to its end."""
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")), encoding="utf-8")
    words = [sys.executable, "-m", "palate", command, "--config", str(file)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment(), check=False)
    if done.returncode:
        raise SystemExit(f"palate {command}: {done.stderr.strip()}")


def environment() -> dict[str, str]:
    return {**os.environ, "CUDA_VISIBLE_DEVICES": ""}


def forget_tables() -> None:
    """Empty the cache but for converted models."""
    for path in Path(os.environ["PALATE_CACHE_DIR"]).iterdir():
        if path.name not in ("models", "numba"):
            shutil.rmtree(path)


def palate_starts(config: Config, run: Path) -> Start:
    """The first step of `palate train`."""
    shutil.rmtree(run, ignore_errors=True)
    file = run.with_suffix(".yaml")
    config = config.model_copy(update={"run_dir": str(run)})
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")), encoding="utf-8")
    return until(
        [sys.executable, "-m", "palate", "train", "--config", str(file)], run / "training_log.jsonl", environment()
    )


def trl_starts(script: Mapping[str, Any], out: Path) -> Start:
    """The same of TRL's script, whose ids are then compared with Palate's; its cache is empty."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    settings = out / "settings.json"
    settings.write_text(json.dumps({**script["settings"], "out": str(out)}))
    caches = {"HF_DATASETS_CACHE": str(out / "datasets"), "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    words = [sys.executable, str(Path(__file__).with_name("trl_script.py")), str(settings)]
    found = until(words, out / "first.jsonl", {**environment(), **caches}, wait=True)
    ids = json.loads((out / "tokens.json").read_text())
    if ids != script["tokens"]:
        raise SystemExit(f"TRL made other tokens of train.json, {ids}; Palate's are {script['tokens']}")
    return found


def until(words: Sequence[str], log: Path, env: Mapping[str, str], wait: bool = False) -> Start:
    """Wait until a process, which opens its log as it begins to train, logs a loss.

    With `wait` it may end by itself, else it is killed.
    """
    said_there = log.with_suffix(".err")
    with said_there.parent.parent.joinpath(f"{log.parent.name}.err").open("w+") as errors:
        started, begun = time.perf_counter(), None
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=errors, env=env)
        try:
            while (loss := logged(log)) is None:
                if begun is None and log.is_file():
                    begun = time.perf_counter() - started
                if process.poll() is not None or time.perf_counter() - started > PATIENCE:
                    errors.seek(0)
                    raise SystemExit(f"{words[1:4]} made no step: {errors.read().strip()[-2000:]}")
                time.sleep(POLL)
            seconds = time.perf_counter() - started
            if wait and process.wait():
                errors.seek(0)
                raise SystemExit(f"{words[1:4]} failed: {errors.read().strip()[-2000:]}")
        finally:
            process.kill()
            process.wait()
    return Start(seconds if begun is None else begun, seconds, loss)


def logged(log: Path) -> float | None:
    """The loss of a log's first line that has one and is written whole."""
    if not log.is_file():
        return None
    for line in log.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n") and "loss" in (entry := json.loads(line)):
            return float(entry["loss"])
    return None


def for_trl(config: Config, folder: Path) -> dict[str, Any]:
    """Write train.json as TRL reads it, and tell its script's settings and the tokens that it should come to."""
    from palate.commands.prepare import chat_of, prepared, tokens_of
    from palate.models.load import model_folder
    from palate.train.schedule import schedule_of
    from palate.train.training_prompts import prompts_of

    chat = chat_of(config)
    tokens = tokens_of(config, prepared(config), chat, ["train"])["train"]
    schedule = schedule_of(config, prompts_of(config, chat, tokens, None))
    first = schedule.prompts.order[np.concatenate([np.arange(a, b) for a, b in schedule.pieces(0).tolist()])]
    order = np.concatenate([first, np.setdiff1d(np.arange(len(tokens)), first)])
    examples = json.loads((config.data_path / "train.json").read_text(encoding="utf-8"))
    if len(examples) != len(tokens):
        raise SystemExit(f"train.json has {len(examples)} samples, of which {len(tokens)} are trained")
    file = folder / "train.jsonl"
    with file.open("w", encoding="utf-8") as out:
        for row in order.tolist():
            *prompt, completion = guides_messages(examples[row])
            out.write(json.dumps({"prompt": prompt, "completion": [completion]}, ensure_ascii=False) + "\n")
    settings = {
        "data": str(file),
        "model": str(model_folder(config.model)),
        "config": config.model_dump(mode="json"),
        "processes": cores(),
    }
    ids, labels, offsets = tokens.ragged(order)
    return {"settings": settings, "tokens": digest(ids, labels, np.diff(offsets))}


def digest(ids: Any, labels: Any, lengths: Any) -> dict[str, Any]:
    """What sequences are compared by."""
    hashes = [hashlib.sha256(np.ascontiguousarray(x, np.int32).tobytes()).hexdigest() for x in (ids, labels, lengths)]
    return {"samples": len(lengths), "tokens": len(ids), "ids": hashes[0], "labels": hashes[1], "lengths": hashes[2]}


COLUMNS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "": lambda row: row["name"],
    "until it trains": lambda row: said(row["begun"]),
    "to the end of the first step": lambda row: said(row["seconds"]),
    "its loss": lambda row: f"{row['loss']:.4f}",
}
