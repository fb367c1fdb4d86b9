"""What `palate plan` says of the recipes for GPUs: memory, time and options, without a GPU.

    python benchmarks/recipes.py --save

All figures are estimates from data sheets, see docs/plan.md; no GPU is used. Prompts have the lengths of MovieLens with
Qwen3's tokenizer (`shapes.py`). Eight GPUs share a step; what they lose to each other is not counted.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from palate.config import Config, Override, load_config
from palate.plan import DEVICES, Workload, predict
from palate.plan.shape import shape_of
from palate.train.schedule import rate_of
from report import ROOT, Result, number, publish
from shapes import RESPONSE, SHAPES, SIZES

WIDER = {"hidden_size": 2_560, "intermediate_size": 9_728, "num_hidden_layers": 36, "num_attention_heads": 32}
RECIPES = {
    "qwen3_0.6b": SHAPES["Qwen3-0.6B"],
    "qwen3_4b": SHAPES["Qwen3-0.6B"] | WIDER,
    "qwen3_8b": SHAPES["Qwen3-8B"],
}
GPUS = {"24 GB": ("RTX4090", 1), "80 GB": ("H100", 1), "8 × 80 GB": ("H100", 8)}
TITLE = "Recipes for GPUs with the options that `palate plan` adds, estimated; eight GPUs share a step without a loss"
PROMPTS = 4_000
"""Prompts from which the lengths of all are estimated."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Show what palate plan says of the recipes for GPUs.")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    args = parser.parse_args()
    rows = [row for recipe in RECIPES for targets in (1, 16) for row in planned(recipe, targets)]
    publish("recipes", [Result(TITLE, rows, COLUMNS)], as_json=args.json, save=args.save)


def planned(recipe: str, targets: int) -> Iterator[dict[str, Any]]:
    """A row for each kind of GPU."""
    path = ROOT / "configs" / "gpu" / f"{recipe}.yaml"
    for gpus, (name, count) in GPUS.items():
        shared = recipe_of(path, targets).train.tokens_per_step or 0
        # A step of one pass each.
        overrides = [Override("train.tokens_per_batch", shared // count, "recipes")] if count > 1 else []
        config = recipe_of(path, targets, overrides)
        shape = shape_of(transformers_config(RECIPES[recipe]), config)
        device = next(device for device in DEVICES if device.name == name)
        plan = predict(config, workload(targets), shape=shape, devices=[device])
        (found,) = plan.estimates
        added = [Override(key, value, "recipes") for key, value in (found.remedy or {}).items()]
        fitting = recipe_of(path, targets, [*overrides, *added])
        (with_them,) = predict(fitting, workload(targets), shape=shape, devices=[device]).estimates
        each = plan.workload.tokens() / plan.workload.samples
        samples = config.train.max_samples or 0
        yield {
            "recipe": recipe, "targets": targets, "gpus": gpus, "fits": found.fits,
            "memory": with_them.memory.total, "checkpointing": found.checkpointing, "remedy": dict(found.remedy or {}),
            "samples": plan.schedule.step_samples, "tokens": plan.schedule.step_samples * each,
            "rate": rate_of(config.train, plan.schedule.step_samples),
            "seconds": found.seconds_a_step / count,
            "hours": found.seconds_a_step / count * samples / plan.schedule.step_samples / 3600,
        }  # fmt: skip


def recipe_of(path: Path, targets: int, more: list[Override] | None = None) -> Config:
    """A recipe with some targets a prompt."""
    known = {"train.targets_per_prompt": targets, "train.kernels": "compile"}  # as auto: it has thousands of steps
    return load_config(path, [*(Override(key, value, "recipes") for key, value in known.items()), *(more or [])])


def workload(targets: int) -> Workload:
    """Prompts of MovieLens' lengths."""
    draw = np.random.default_rng(7)
    prefix = np.maximum(64, draw.normal(*SIZES["history"], PROMPTS)).astype(np.int64)
    block = RESPONSE + np.maximum(8, draw.normal(*SIZES["candidate"], PROMPTS * targets)).astype(np.int64)
    return Workload(np.full(PROMPTS, targets), prefix, block, float(RESPONSE))


def transformers_config(shape: Mapping[str, Any]) -> Any:
    """A shape as transformers' config."""
    from transformers import AutoConfig

    return AutoConfig.for_model(**shape)


def options(row: Mapping[str, Any]) -> str:
    """What the plan adds to the recipe."""
    chosen = dict(row["remedy"])
    again = chosen.pop("train.gradient_checkpointing", row["checkpointing"])
    told = [f"{name.partition('.')[2]}={value}" for name, value in chosen.items()]
    if again:
        told.append("selective checkpointing" if again == "selective" else "checkpointing")
    return ", ".join(told) or "–"


COLUMNS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "recipe": lambda row: row["recipe"],
    "K": lambda row: str(row["targets"]),
    "GPU": lambda row: row["gpus"],
    "samples a step": lambda row: f"{row['samples']:,}",
    "tokens a step": lambda row: f"{row['tokens']:,.0f}",
    "learning rate": lambda row: f"{row['rate']:.2g}",
    "with": options,
    "memory with them": lambda row: f"{row['memory'] / 1e9:.0f} GB",
    "a step": lambda row: f"{number(row['seconds'])} s",
    "the run": lambda row: f"{number(row['hours'])} h",
}

if __name__ == "__main__":
    main()
