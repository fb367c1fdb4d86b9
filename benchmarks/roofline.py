"""The roofline of each recipe for GPUs, before and after Palate was made ready for them: an estimate, without a GPU.

    python benchmarks/roofline.py --save

Whole passes run on fake tensors of a CUDA device (`tests/train/a_step.py`): a kernel is an operation other than a view,
its bytes are its inputs and results, its FLOPs those of its matrix product. Counts of one and two layers give those of
all. A kernel takes the longer of its FLOPs at the data sheet's peak and its bytes at the data sheet's bandwidth; a step
the sum over its kernels, or 5 µs for each if that is more. Nothing else is in it, so no GPU can be as fast.

*Before* is this code with the options of commit 5aa5a8d, on the same base: `segments`, dropout 0.05, adapters that cast
their inputs, steps of 32 samples, layers computed again except in the 0.6B recipe. *After* is `configs/gpu` with the
checkpointing that `palate plan` chooses, in compiled layers. The compiler cannot run without a GPU; its kernels are
counted as runs of element-wise operations and sums between products, which it joins.
"""

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from palate.plan.devices import DEVICES, OPERATION
from recipes import GPUS, RECIPES, planned
from report import ROOT, Result, number, publish

PASS = {1: 16, 16: 2}
"""Prompts of a pass before: a half of 32 samples with one target each, all of them with sixteen."""
HISTORY, OWN = 410, 44
"""Tokens that the targets of a prompt share, and of each alone."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Estimate the least time of each recipe for GPUs, before and after.")
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    args = parser.parse_args()
    rows = [row for recipe in args.recipes for row in compared(recipe)]
    title = "Rooflines of the recipes for GPUs, estimated: 1,000 samples on each row's GPUs, before → after"
    publish("roofline", [Result(title, rows, COLUMNS)], as_json=args.json, save=args.save)


def compared(recipe: str) -> Iterator[dict[str, Any]]:
    """A row for each number of targets and kind of GPU."""
    rows = list(cases_of(recipe))
    passes: dict[str, dict[str, Any]] = {}  # by all but the number of prompts, for which nothing is compiled again
    for case in (row[when] for row in rows for when in ("before", "after")):
        kind = passes.setdefault(json.dumps(case["pass"]), case["pass"] | {"prompts": []})
        kind["prompts"] += [case["prompts"]] if case["prompts"] not in kind["prompts"] else []
    found = dict(zip(passes, counted([*passes.values()]), strict=True))
    for row in rows:
        for when in ("before", "after"):
            name = json.dumps(row[when]["pass"])
            place = passes[name]["prompts"].index(row[when]["prompts"])
            row[when] = whole(row[when], [layers[place] for layers in found[name]])
        yield row


def cases_of(recipe: str) -> Iterator[dict[str, Any]]:
    """What is compared: a pass of one GPU, the passes of a step, and the samples of a step on all GPUs."""
    for targets in (1, 16):
        for row in planned(recipe, targets):
            name, count = GPUS[row["gpus"]]
            size = min(row["remedy"].get("train.tokens_per_batch", 8_192), 32_768 // count)
            new = max(1, int(size / (HISTORY + OWN * targets)))
            passes = max(1, round(row["samples"] / count / (new * targets)))
            again = row["remedy"].get("train.gradient_checkpointing", row["checkpointing"])
            # Of 32 samples eight GPUs had four prompts each, or a quarter of one, whose history four GPUs computed.
            old, each = (PASS[targets], targets) if count == 1 else (4, 1) if targets == 1 else (1, 4)
            layers_again = recipe != "qwen3_0.6b"
            yield {
                "recipe": recipe, "targets": targets, "gpus": row["gpus"],
                "before": {
                    "gpu": name, "prompts": old, "passes": 32 // (old * each * count), "samples": 32,
                    "pass": {"shape": RECIPES[recipe], "targets": each, "now": False, "checkpointing": layers_again},
                },
                "after": {
                    "gpu": name, "prompts": new, "passes": passes, "samples": passes * new * targets * count,
                    "pass": {"shape": RECIPES[recipe], "targets": targets, "now": True, "checkpointing": again},
                },
            }  # fmt: skip


def whole(case: Mapping[str, Any], found: list[dict[str, Any]]) -> dict[str, float]:
    """A GPU's counts for a thousand samples of all GPUs, from the counts of one and two layers."""
    one, two = found
    layers, step = case["pass"]["shape"]["num_hidden_layers"], {}

    def figure(counts: Mapping[str, Any], name: str) -> float:
        return float(counts[name][case["gpu"]] if name == "seconds" else counts[name])

    for name in ("kernels", "bytes", "flops", "seconds", "needed"):
        first, more = ({part: figure(of[part], name) for part in of} for of in (one, two))
        each = {part: first[part] + (layers - 1) * (more[part] - first[part]) for part in first}
        step[name] = (case["passes"] * each["pass"] + each["update"]) * 1_000 / case["samples"]
    step["launches"] = step["kernels"] * OPERATION
    (device,) = (device for device in DEVICES if device.name == case["gpu"])
    step["used"] = step["needed"] / max(step["seconds"], step["launches"]) / device.flops["bfloat16"]
    return step


def counted(cases: list[dict[str, Any]]) -> list[Any]:
    """The counts of each case, in a process that believes in a GPU."""
    with tempfile.TemporaryDirectory() as folder:
        torch = Path(sysconfig.get_path("purelib")) / "torch"
        library = Path(folder) / "fake_cuda.so"
        source = [str(ROOT / "tests/train/fake_cuda.cpp"), "-o", str(library), f"-I{torch}/include"]
        links = [f"-L{torch}/lib", "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{torch}/lib"]
        subprocess.run(["g++", "-std=c++20", "-shared", "-fPIC", *source, *links], check=True)
        command = [sys.executable, str(ROOT / "benchmarks/passes.py"), str(library)]
        paths = {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
        done = subprocess.run(
            command, env=os.environ | paths, input=json.dumps(cases), capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise SystemExit(done.stderr[-4000:])
    return list(json.loads(done.stdout.splitlines()[-1]))


def options(part: str, scale: float, digits: Callable[[float], str] = number) -> Callable[[Mapping[str, Any]], str]:
    """A column with a figure before and after."""
    return lambda row: " → ".join(digits(row[when][part] / scale) for when in ("before", "after"))


COLUMNS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "recipe": lambda row: row["recipe"],
    "K": lambda row: str(row["targets"]),
    "GPU": lambda row: row["gpus"],
    "kernels, thousands": options("kernels", 1e3),
    "moved, TB": options("bytes", 1e12),
    "products, PFLOP": options("flops", 1e15),
    "kernels' least, s": options("seconds", 1.0),
    "their start, s": options("launches", 1.0),
    "peak used at most": options("used", 1.0, lambda share: f"{share:.0%}"),
}

if __name__ == "__main__":
    main()
