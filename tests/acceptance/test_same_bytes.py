"""Byte-equal files from the same config, input and seed, in another folder, locale, time zone and number of threads."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml
from tests.acceptance.ratings import write_ratings
from tests.tiny import toy_config

COMMANDS = """
from palate.cli import main
for words in ("run", "tokenize --out tokens", "baselines --out bar"):
    command, *options = words.split()
    assert main([command, "recipe.yaml", *options]) == 0, words
"""
PLACES = {
    "here": {"LC_ALL": "C.UTF-8", "TZ": "Asia/Kathmandu", "PYTHONHASHSEED": "1", "POLARS_MAX_THREADS": "1",
             "RAYON_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"},
    "Ünter/dort drüben": {"LC_ALL": "POSIX", "TZ": "America/St_Johns", "PYTHONHASHSEED": "2",
                          "POLARS_MAX_THREADS": "2", "RAYON_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "2"},
}  # fmt: skip
TIMED = r"training_log\.jsonl|training\.json|report\.html|manifest\.json"
DIFFERENT = {
    "training_log.jsonl": r'"(train_runtime|train_\w+_per_second|eval_seconds)": [\d.e-]+',
    "training.json": r'"(seconds|waited|peak_memory)": [\d.e-]+',
    "report.html": r'class="n seconds">[^<]+',
    "manifest.json": rf'"({TIMED})": "[0-9a-f]{{64}}"',
    "stages.json": rf'"({TIMED})": "[0-9a-f]{{64}}"',
}
"""What may differ: seconds, the peak of the memory, and the hashes of files that have them."""


def same_part(folder: Path) -> Iterator[tuple[str, bytes]]:
    """The files by name, without the log, the speed of scoring, and what is in `DIFFERENT`."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "run.log" and not path.name.endswith(".speed.json"):
            pattern = DIFFERENT.get(path.name, r"(?!)").encode()
            yield path.relative_to(folder).as_posix(), re.sub(pattern, b"", path.read_bytes())


def test_the_same_config_input_and_seed_give_the_same_bytes(tmp_path: Path, base: Path) -> None:
    recipe = {
        "name": "same",
        "run_dir": "run",
        "ratings": {"source": "log"},
        "prompt": toy_config(base).prompt.model_dump(mode="json"),
        "model": {"base": "model", "dtype": "float32"},
        "prepare": {"history_len": 3, "val_ratio": 0.2, "test_ratio": 0.2},
        "train": {"batch_size": 4, "gradient_accumulation": 1, "max_samples": 16, "save_steps": 2,
                  "lora": {"r": 2, "alpha": 4}},
        "evaluate": {"bootstrap": 20, "zero_shot": False, "baselines": "quick"},
    }  # fmt: skip
    processes = []
    for n, (place, environment) in enumerate(PLACES.items()):
        folder = tmp_path / place
        write_ratings(folder / "log", each=20)
        shutil.copytree(base, folder / "model")  # with its times, which tell the model's state
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        environment = os.environ | environment | {"PALATE_CACHE_DIR": str(tmp_path / "caches" / str(n))}
        command = [sys.executable, "-c", COMMANDS]
        processes.append(subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True))
    for process in processes:
        _, told = process.communicate()
        assert process.returncode == 0, told

    here, there = (dict(same_part(tmp_path / place)) for place in PLACES)
    names = ("data/train.json", "data/ratings.parquet", "scores/fine-tuned.parquet", "metrics.json", "report.html")
    adapter = ("adapter/adapter_config.json", "adapter/adapter_model.safetensors")
    assert {f"run/{name}" for name in (*names, *adapter)} | {"bar/baselines.json"} < here.keys()
    assert any(name.startswith("tokens/train/") for name in here)
    assert here.keys() == there.keys()
    assert [name for name, content in here.items() if content != there[name]] == []
