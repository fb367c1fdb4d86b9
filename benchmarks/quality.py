"""Whether prompts of several targets teach as much as prompts of one: validation AUC at equal labelled examples.

A run a seed and number of targets, each in a folder of its own, so that a benchmark that was broken off goes on where
it was. The seed decides which samples are drawn, their order, and the adapter's first weights; the validation samples
are the same in all runs.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from palate.config import Config
from palate.store.artifacts import sha256_of, write_json
from report import ROOT, in_own_process

SAMPLES = 640
FEW, SMALL_STEP = 256, {"batch_size": 4, "gradient_accumulation": 4}
"""So few samples are trained in steps of sixteen, that there are some steps."""
TARGETS = (1, 16)
SEEDS = (1, 2, 3)
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Student's t at 97.5 %, by the number of differences."""
VALIDATION = 300


LINES = {"history_line": "{rating:g} {title}", "candidate_line": "{title}, rated {item_mean:.1f} by {item_count}"}
"""What the recipe said when the first of these results were measured; `variants.py` found more to say."""


def recipe() -> dict[str, Any]:
    """Short prompts with item statistics, SmolLM2-135M, ml-latest-small, steps of 32 samples."""
    config = ROOT / "configs" / "smollm2_135m_movielens_lora.yaml"
    values: dict[str, Any] = yaml.safe_load(config.read_text(encoding="utf-8"))
    values["prompt"] |= LINES
    return {name: values[name] for name in ("ratings", "prompt", "model", "train")}


def measured(base: Mapping[str, Any], args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """A row for every seed and number of targets."""
    samples, seeds = (64, SEEDS[:2]) if args.quick else (args.quality_samples, SEEDS)
    keep = folder / "kept" if args.quick else args.quality_folder
    rows = []
    for seed in seeds:
        for targets in TARGETS:
            config = config_of(base, targets, samples, seed)
            row = row_of(config, folder_of(config, keep), {"targets": targets, "seed": seed, "samples": samples})
            rows.append(row)
            print(f"K = {targets}, seed {seed}: AUC {row['auc']:.4f}", file=sys.stderr)
    return rows


def folder_of(config: Config, keep: Path) -> Path:
    """Where a training is kept."""
    return keep / sha256_of([config.model_dump(mode="json"), VALIDATION])[:12]


def row_of(config: Config, out: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """What training comes to, and what is told `about` it; trained once."""
    kept = out / "row.json"
    if not kept.is_file():
        write_json(kept, {**about, **in_own_process(trained, config, out)})
    row: dict[str, Any] = json.loads(kept.read_text())
    return row


def config_of(base: Mapping[str, Any], targets: int, samples: int, seed: int) -> Config:
    own = {"targets_per_prompt": targets, "max_samples": samples, "save_steps": 5, "seed": seed}
    train = {**base["train"], **(SMALL_STEP if samples <= FEW else {}), **own}
    prepare = {"max_eval": VALIDATION}
    return Config.model_validate({**base, "prepare": prepare, "train": train})


def trained(config: Config, out: Path) -> dict[str, Any]:
    """Train, and what came of it; goes on from the last checkpoint in `out`."""
    from palate.commands.prepare import chat_of, evaluation_part, tokens_of_ratings
    from palate.train.finetune import train

    tokens = tokens_of_ratings(config, chat_of(config), ["train", "val"])
    result = train(config, tokens["train"], evaluation_part(config, tokens["val"]), out)
    return {
        "auc": result.eval_auc,
        "loss": result.eval_decision_loss,
        "steps": result.steps,
        "prompts": result.prompts,
        "trained": result.samples,
        "seconds": result.seconds,
        "waited": result.waited,
    }


def claims(rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The mean difference of the AUC with its 95 % t-interval, seeds paired; met if nothing speaks against 0."""
    by = {(row["targets"], row["seed"]): row["auc"] for row in rows}
    one, several = TARGETS
    differences = [by[several, seed] - by[one, seed] for seed in sorted({row["seed"] for row in rows})]
    n = len(differences)
    mean, half = student(differences)
    yield {
        "what": f"AUC of K = {several} less that of K = {one}, {n} seeds; ± {half:.3g} (95 %)",
        "measured": mean,
        "side": ">=",
        "target": -half,
        "met": mean >= -half,
        "differences": differences,
    }
    spread = {k: statistics.stdev([row["auc"] for row in rows if row["targets"] == k]) for k in TARGETS}
    for k, apart in spread.items():
        yield {
            "what": f"standard deviation of the AUC over seeds, K = {k}",
            "measured": apart,
            "side": "<=",
            "target": None,
            "met": None,
        }


def student(differences: Sequence[float]) -> tuple[float, float]:
    """The mean of a few differences, and how far its 95 % t-interval reaches to either side."""
    n = len(differences)
    return statistics.mean(differences), STUDENT[n] * statistics.stdev(differences) / n**0.5


Columns = Mapping[str, Callable[[Mapping[str, Any]], str]]
LEARNED: Columns = {
    "validation AUC": lambda row: f"{row['auc']:.4f}",
    "validation loss of the decision": lambda row: f"{row['loss']:.4f}",
}
COLUMNS: Columns = {
    "": lambda row: f"K = {row['targets']}",
    "seed": lambda row: f"{row['seed']}",
    "labelled examples": lambda row: f"{row['trained']:,} in {row['prompts']:,} prompts",
    **LEARNED,
}
