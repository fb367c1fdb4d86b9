"""The stages that run with faults."""

import shutil
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from tests.acceptance.ratings import write_ratings
from tests.command import palate
from tests.faults import writer
from tests.faults.forks import MEMORY, Ended
from tests.faults.rounds import Stage, Tree
from tests.small import small_tokenizer
from tests.tiny import random_adapter, tiny_folder

from palate.config import load_config
from palate.errors import InputError
from palate.models.adapter import check_pinned
from palate.store.artifacts import MANIFEST, read_json, write_manifest
from palate.store.keys import damage_in

SMALL: dict[str, Any] = {"num_attention_heads": 1, "num_key_value_heads": 1, "num_hidden_layers": 1}


def _log(root: Path) -> None:
    write_ratings(root / "log", users=6, each=16, items=20)


def _tokenizer(root: Path) -> None:
    _log(root)
    small_tokenizer().save_pretrained(root / "tokenizer")


def _over(root: Path) -> None:
    """The folder of the result holds that of other options."""
    _log(root)
    done = palate("prepare", "--ratings", root / "log", "--out", root / "out", "--set", "prepare.history_len=4")
    assert done.returncode == 0, done.stderr


def _half_written(root: Path, ended: Ended) -> str:
    """A file of the result that is not as its manifest has it, or half-written files with a manifest."""
    manifest = root / "out" / MANIFEST
    damage = damage_in(manifest.parent, read_json(manifest)["outputs"]) if manifest.is_file() else None
    return f"a manifest, and {damage}" if damage else ""


def _prepare(root: Path) -> list[str]:
    return ["prepare", "--ratings", f"{root}/log", "--out", f"{root}/out"]


PREPARE = Stage("prepare", _prepare, _log, check=_half_written)
PREPARE_OVER = Stage("prepare-over", _prepare, _over, check=_half_written)
TOKENIZE = Stage(
    "tokenize",
    lambda root: ["tokenize", "--ratings", f"{root}/log", "--tokenizer", f"{root}/tokenizer", "--out", f"{root}/out"],
    _tokenizer,
    check=_half_written,
)


def _run(root: Path, train: dict[str, Any]) -> dict[str, Any]:
    """A recipe that trains for moments; the model and the prepared data lie beside."""
    tiny_folder(root / "model", hidden=16, **SMALL)
    _log(root)
    return {
        "name": "tiny",
        "run_dir": str(root / "run"),
        "ratings": {"source": str(root / "log")},
        "prepare": {"history_len": 3, "val_ratio": 0.2, "test_ratio": 0.2, "max_eval": 6},
        "prompt": {"system": "S", "instruction": "I", "question": "Yes or No?"},
        "model": {"base": str(root / "model"), "dtype": "float32"},
        "train": {"max_samples": 8, "batch_size": 4, "gradient_accumulation": 1, "save_steps": 1,
                  "logging_steps": 1, "lora": {"r": 2, "alpha": 4}, **train},
        "evaluate": {"bootstrap": 10, "baselines": "quick", "zero_shot": False},
        "score": {"calibration": "platt"},
    }  # fmt: skip


def _train(root: Path) -> None:
    config = _run(root, {})
    (root / "config.yaml").write_text(yaml.safe_dump(config))
    assert palate("prepare", "--config", root / "config.yaml").returncode == 0


def _evaluate(root: Path) -> None:
    _train(root)
    random_adapter(load_config(root / "config.yaml"), root / "run" / "adapter")


def _train_again(root: Path) -> None:
    """The run has an adapter of an earlier training, whose hashes its manifest has."""
    _evaluate(root)
    write_manifest(root / "run", "run", inputs={}, options={}, stats={})


def _exchanged(root: Path, ended: Ended) -> str:
    """The refusal of the run's adapter as one that was exchanged."""
    try:
        check_pinned(root / "run")
    except InputError as error:
        return str(error)
    return ""


TRAIN = Stage("train", lambda root: ["train", "--config", f"{root}/config.yaml"], _train_again, check=_exchanged)
EVALUATE = Stage("evaluate", lambda root: ["evaluate", "--config", f"{root}/config.yaml"], _evaluate)


def _stored(file: Path) -> Tree:
    """What a store holds, by table; a service's own times are left out."""
    columns = {
        "requests": "key, body",
        "ratings": "key, user_id, item_id, rating, timestamp",
        "events": "key, event, user_id, item_id, timestamp",
        "sqlite_master": "sql",
    }
    found = {}
    with closing(sqlite3.connect(file)) as database:
        for name, wanted in columns.items():
            with suppress(sqlite3.OperationalError):  # no such table yet
                rows = database.execute(f"SELECT {wanted} FROM {name}").fetchall()
                found[name] = "\n".join(sorted(map(str, rows))).encode()
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    return found


def _lost(root: Path, ended: Ended) -> str:
    """What of the acknowledged requests is not stored, or not as it was sent."""
    with TemporaryDirectory(dir=MEMORY) as folder:  # a copy, so that the next writer recovers the file itself
        shutil.copytree(root, folder, dirs_exist_ok=True)
        if not Path(folder, "feedback.sqlite").exists():
            return "nothing is stored" if ended.stdout else ""
        stored = _stored(Path(folder, "feedback.sqlite"))
    for number in map(int, ended.stdout.split()):
        key = f"('\"request {number}\"'".encode()
        table, rows = ("events", 1) if writer.is_event(number) else ("ratings", len(writer.rows_of(number)))
        found = sum(line.startswith(key) for line in stored.get(table, b"").splitlines())
        if found != rows:
            return f"request {number} was acknowledged and has {found} of {rows} rows"
    return ""


WRITER = Stage(
    "writer",
    lambda root: ["tests.faults.writer:write", str(root)],
    lambda root: None,
    lambda root: _stored(root / "feedback.sqlite") | dict.fromkeys(map(str, root.iterdir()), b""),
    _lost,
    requests=True,
)
STAGES = (PREPARE, PREPARE_OVER, TOKENIZE, TRAIN, EVALUATE, WRITER)
