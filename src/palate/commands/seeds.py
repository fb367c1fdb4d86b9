"""Seeds: the same training with several seeds, and how far the results lie apart."""

import gc
import shutil
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table

from palate import console
from palate.commands.data_option import alpaca_of
from palate.commands.ledger import Ledger, training
from palate.config import Config
from palate.console import log
from palate.models.adapter import TRAINING, announce
from palate.plan.predict import fitted
from palate.progress import clock
from palate.store.artifacts import MANIFEST, atomic_file, atomic_folder, read_json, sha256_file, write_json
from palate.store.manifest import PREPARE_AGAIN, read_manifest
from palate.train.processes import join

SEEDS = "seeds.json"
FOLDER = "seeds"
TOLD = {
    "train_loss": "train loss",
    "eval_loss": "eval loss",
    "eval_decision_loss": "decision loss",
    "eval_auc": "eval AUC",
    "seconds": "time",
}
"""The figures shown of each training: the key in `training.json`, and the name in the table."""


def train_seeds(
    config: Config, train: Any, evaluated: Any, manifest: Mapping[str, Any] | None, beside: Any = None
) -> Path:
    """Train with each seed in `seeds/SEED` of the run's folder; the first one's adapter becomes the run's.

    The function skips finished seeds and resumes an interrupted one. It writes `seeds.json`, prints its table and
    returns the run's adapter.
    """
    from palate.train.finetune import train as finetune
    from palate.train.report import LOG

    processes = join()
    run, seeds = config.run_path, seeds_of(config)
    rows = []
    for n, seed in enumerate(seeds):
        log.info("seed %d, %d of %d", seed, n + 1, len(seeds))
        folder = run / FOLDER / str(seed)
        made_from = {"data": _data(config), **training(config), "seed": seed}
        names = ("adapter_model.safetensors", "adapter_config.json", "palate.json", TRAINING)
        outputs = [folder / LOG, *(folder / "adapter" / name for name in names)]
        ledger = Ledger(folder)
        reason = processes.first(partial(ledger.reason, "train", made_from, outputs))
        if reason is None:
            log.info("skipped: trained before, and its inputs are unchanged")
        else:
            if reason != "not done yet":
                log.info("again: %s", reason)
            alone = config.train.model_copy(update={"seed": seed, "seeds": 1})
            one = config.model_copy(update={"train": alone})
            finetune(
                one, train, evaluated, folder, beside=beside, data_manifest=manifest, console=console.err, fitted=fitted
            )
            if processes.is_first:
                ledger.note("train", made_from, outputs)
            _free_memory()
        facts = read_json(folder / "adapter" / TRAINING)
        rows.append({"seed": seed, "steps": facts["steps"], **{name: facts[name] for name in TOLD}})
        if n == 0 and processes.is_first:  # at once: it can be evaluated while the others are trained
            _copy(folder, run, LOG)
    summary = {"seeds": rows, "spread": spread(rows)}
    if processes.is_first:
        write_json(run / SEEDS, summary)
        console.out.print(table(summary))
    return run / "adapter"


def seeds_of(config: Config) -> list[int]:
    """The seeds to train with."""
    return [config.train_seed + n for n in range(config.train.seeds)]


def spread(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean, standard deviation (of a sample, n − 1), lowest and highest of what all trainings have."""
    found = {}
    for name in TOLD:
        values = [row[name] for row in rows]
        if None not in values and len(values) > 1:
            deviation = statistics.stdev(values)
            found[name] = {"mean": statistics.fmean(values), "sd": deviation, "min": min(values), "max": max(values)}
    return found


def table(summary: Mapping[str, Any]) -> Any:
    """A line a seed, then mean, standard deviation and range."""
    found = Table(box=None, pad_edge=False, header_style="bold")
    found.add_column("seed")
    for name in ("steps", *TOLD.values()):
        found.add_column(name, justify="right")

    def cell(name: str, value: float | None) -> str:
        return "–" if value is None else clock(value) if name == "seconds" else f"{value:.4f}"

    rows, apart = summary["seeds"], summary["spread"]
    for n, row in enumerate(rows):
        last = n == len(rows) - 1
        cells = [cell(name, row[name]) for name in TOLD]
        found.add_row(str(row["seed"]), f"{row['steps']:,}", *cells, end_section=last)
    for what, label in (("mean", "mean"), ("sd", "sd"), ("min", "lowest"), ("max", "highest")):
        found.add_row(label, "", *(cell(name, apart.get(name, {}).get(what)) for name in TOLD))
    return found


def sentence(config: Config) -> str | None:
    """How far the run's seeds lie apart on validation; None for a run of one seed."""
    path = config.run_path / SEEDS
    if config.train.seeds == 1 or not path.is_file():
        return None
    summary = read_json(path)
    if [row["seed"] for row in summary["seeds"]] != seeds_of(config):
        return None
    found, name, digits = summary["spread"].get("eval_auc"), "AUC", 3
    if found is None:
        found, name, digits = summary["spread"].get("eval_loss"), "loss", 4
    if found is None:
        return None
    mean, deviation, low, high = (f"{found[key]:.{digits}f}" for key in ("mean", "sd", "min", "max"))
    return (
        f"validation {name} of {len(summary['seeds'])} seeds: {mean} ± {deviation} (sd), {low} to {high}; "
        f"the adapter is that of seed {seeds_of(config)[0]}"
    )


def _data(config: Config) -> dict[str, str]:
    """The hashes of what is trained and validated on."""
    folder = config.data_path
    if (folder / MANIFEST).is_file():
        hashes = read_manifest(folder / MANIFEST, PREPARE_AGAIN)["outputs"]
        return {name: hashes.get(name, "") for name in ("train.json", "eval.json")}
    alpaca = alpaca_of(config)
    files = {} if alpaca is None else alpaca.files
    return {path.name: sha256_file(path) for split, path in files.items() if split != "test"}


def _copy(folder: Path, run: Path, name: str) -> None:
    """Put a seed's adapter and its log where those of a run of one seed are."""
    with atomic_folder(run / "adapter", whole=True) as partial:
        shutil.copytree(folder / "adapter", partial, dirs_exist_ok=True)
        announce(run, partial)
    with atomic_file(run / name) as file:
        file.write((folder / name).read_bytes())


def _free_memory() -> None:
    """Let go of one training's model before the next one is loaded; a trainer is held by cycles."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
