"""How fast an adapter is trained, and in how much memory, beside TRL's SFTTrainer.

    python benchmarks/training.py --quick          # a tiny model on made-up ratings: does it all run?
    python benchmarks/training.py --save           # SmolLM2-135M on ml-latest-small, on this processor
    python benchmarks/training.py --rows quality --save

Both sides get the same model, sequences, adapter, optimizer, number format and labelled examples. Before anything is
timed, loss and gradients of the two are compared in float32, and the losses of the steps in the format that is timed;
the benchmark ends with an error if they differ. Each side is a fresh process, and one after the other: nothing else
runs beside it.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import first_step
import quality
import synthetic
from palate.config import Config
from palate.errors import PalateError
from report import Result, in_own_process, number, publish, said, spread
from sides import FREED, Case, Made, Side, warm_up

TARGETS = 16
"""Of a prompt, where there are several; and the labelled examples of a step."""
EXACT = 1e-4
"""Most relative difference of a loss in float32; ten times as much of the gradients."""
ROUNDED = 0.1
"""Most relative difference of a step's loss in bfloat16, whose eight bits leave a few hundredths; it is the comparison
in float32 that proves the two to be the same, this one that both train the same samples and count them alike."""
ROWS = ("k16", "k1", "memory", "plan", "first-step")
APART = ("quality",)
WARM = 2
"""Steps that are not timed: until then the process still asks for memory, whose pages the kernel must clear."""


@dataclass(frozen=True)
class Scale:
    """How large the benchmark is."""

    config: dict[str, Any]
    steps: int
    """Timed steps a side."""
    batches: Sequence[int]
    """Samples in a forward pass that both sides may choose from."""
    proved: int
    first_steps: int
    """How often the way to the first step is timed."""
    quick: bool


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how fast an adapter is trained, beside TRL.")
    parser.add_argument("--rows", nargs="+", choices=(*ROWS, *APART), default=list(ROWS))
    parser.add_argument("--ratings", default="ml-latest-small", help="a data set's name or path")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--repeats", type=int, default=3, help="timed steps a side (3)")
    parser.add_argument("--first-steps", type=int, default=1, help="how often the way to the first step is timed (1)")
    parser.add_argument("--batches", type=int, nargs="+", default=[4, 16], help="samples in a pass, to choose from")
    parser.add_argument("--quality", action="store_true", help="the same as --rows quality")
    parser.add_argument("--quality-samples", type=int, default=quality.SAMPLES, metavar="N")
    parser.add_argument("--quality-folder", type=Path, default=Path("runs/benchmark-quality"), help="goes on from here")
    parser.add_argument("--quick", action="store_true", help="a tiny model and few steps: that everything runs")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    args = parser.parse_args()
    wanted = [name for name in APART if getattr(args, name)] or args.rows
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            results = list(measured(wanted, args, folder))
        except PalateError as error:
            sys.exit(f"error: {error}")
    kind = "".join(f"-{name}" for name in wanted) if set(wanted) <= set(APART) else ""
    publish(f"training{kind}{'-quick' if args.quick else ''}", results, as_json=args.json, save=args.save)


def measured(wanted: Sequence[str], args: argparse.Namespace, folder: Path) -> Iterator[Result]:
    """The tables of the rows that are wanted."""
    claims: list[dict[str, Any]] = []
    if set(wanted) & set(ROWS):
        scale = small(folder) if args.quick else whole(args)
        title = "Quick look: a tiny model. " if args.quick else ""
        title += f"{scale.config['model']['base'] if not args.quick else 'random weights'}, "
        title += f"{Path(scale.config['ratings']['source']).name}, {TARGETS} labelled examples a step"
        yield from on_this_processor(wanted, scale, title, folder, claims)
    if "quality" in wanted:
        base = quality.recipe() | (small(folder / "quality").config | {"train": TRAIN} if args.quick else {})
        rows = quality.measured(base, args, folder)
        yield Result("Validation AUC at equal labelled examples", rows, quality.COLUMNS)
        claims += quality.claims(rows)
    if claims:
        yield Result("Targets", claims, CLAIMS)


def whole(args: argparse.Namespace) -> Scale:
    """The benchmark as it is reported."""
    config = {"ratings": {"source": args.ratings}, "model": {"base": args.model}, "train": TRAIN}
    return Scale(config, args.repeats, args.batches, 4, args.first_steps, False)


def small(folder: Path) -> Scale:
    """A tiny model with a real tokenizer on ratings that are made up."""
    ratings, model = folder / "ratings", folder / "model"
    synthetic.write(ratings, ratings=3_000, titles=1_000, seed=1)
    in_own_process(tiny_model, model)
    config = {"ratings": {"source": str(ratings)}, "model": {"base": str(model)}, "train": TRAIN}
    config |= {"prepare": {"history_len": 3}, "prompt": quality.recipe()["prompt"]}
    return Scale(config, 1, [4], 3, 1, True)


TRAIN: dict[str, Any] = {
    "learning_rate": 1e-4,
    "warmup_ratio": 0.1,
    "logging_steps": 1,
    "lora": {"r": 16, "alpha": 32, "dropout": 0.0, "target_modules": "all-linear"},
}
"""The adapter has no dropout, whose draws the two sides would not share."""


def tiny_model(folder: Path) -> None:
    """A Llama of two small layers with random weights, and SmolLM2's tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from palate.prompt.tokenizer import load_tokenizer

    tokenizer = load_tokenizer("smollm2")
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=2048, initializer_range=0.1, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def config_of(scale: Scale, targets: int, batch: int, samples: int = TARGETS, **train: Any) -> Config:
    """The config of `targets` a prompt, steps of `samples` in passes of `batch` samples."""
    options = {"targets_per_prompt": targets, "batch_size": batch, "gradient_accumulation": samples // batch}
    return Config.model_validate(scale.config | {"train": {**scale.config["train"], **options, **train}})


def on_this_processor(
    wanted: Sequence[str], scale: Scale, title: str, folder: Path, claims: list[dict[str, Any]]
) -> Iterator[Result]:
    """What is measured beside TRL on a CPU."""
    os.environ["PALATE_CACHE_DIR"] = str(kept_cache(folder))
    told: dict[int, Any] = {}
    speeds: list[dict[str, Any]] = []
    tuned: dict[str, dict[int, float]] = {}
    for targets, name, target in ((1, "k1", 1.0), (TARGETS, "k16", 5.0)):
        if name not in wanted and not (name == "k16" and "plan" in wanted):
            continue
        rows = list(speed(scale, targets, tuned))
        speeds += rows
        ours, theirs = rows
        told[targets] = ours
        ratio = ours["examples_per_second"] / theirs["examples_per_second"]
        claims.append(claim(f"times TRL's examples/s, K = {targets}", ratio, ">=", target))
    if speeds:
        yield Result(title, speeds, SPEED)
    sizes: list[dict[str, Any]] = []
    if "memory" in wanted or "plan" in wanted:
        for targets in (1, TARGETS):
            rows = memory(scale, targets)
            sizes += rows
            ours, theirs = (row["growth"] / row["tokens"] for row in rows)
            what = "of TRL's memory beyond the model's, same sequences in a pass"
            what = what if targets == 1 else f"of TRL's memory beyond the model's, by token in a pass, K = {targets}"
            claims.append(claim(what, ours / theirs, "<=", 1.0))
        yield Result("Memory at the peak, one pass a step", sizes, MEMORY)
    if "plan" in wanted:
        yield Result("What palate plan says beforehand", list(planned(scale, told, sizes)), PLAN)
    if "first-step" in wanted:
        rows = first_step.measured(config_of(scale, 1, min(scale.batches)), TARGETS, scale.first_steps, folder)
        rows = list(agreeing(rows))
        yield Result("From the start of the process to the end of the first step", rows, first_step.COLUMNS)
        for part, what in (("begun", "until it trains"), ("seconds", "to the end of the first step")):
            base = spread(rows[-1][part])["median"]
            for row in rows[:-1]:
                share = spread(row[part])["median"] / base
                claims.append(claim(f"of TRL's time {what}: {row['name']}", share, "<=", 0.1))


def kept_cache(folder: Path) -> Path:
    """An empty cache, in which a model that had to be converted lies already."""
    kept = Path(os.environ.get("PALATE_CACHE_DIR", ".cache")).resolve() / "models"
    cache = folder / "cache"
    cache.mkdir()
    kept.mkdir(parents=True, exist_ok=True)
    (cache / "models").symlink_to(kept)
    return cache


def speed(scale: Scale, targets: int, tuned: dict[str, dict[int, float]]) -> Iterator[dict[str, Any]]:
    """Palate's row and TRL's: each at its fastest batch. `tuned` keeps how fast TRL's batches were."""
    steps = WARM + scale.steps
    warm_up(config_of(scale, targets, min(scale.batches)))
    tried: dict[str, dict[int, float]] = {"Palate": {}, "TRL": dict(tuned.get("TRL", {}))}
    for name in tried if len(scale.batches) > 1 else ():
        for batch in scale.batches if not tried[name] else ():
            with Side(Case(name, config_of(scale, targets, batch), 2)) as side:
                side.step()
                tried[name][batch] = side.step().seconds
            print(f"K = {targets}, {name}, {batch} in a pass: {number(tried[name][batch])} s", file=sys.stderr)
    tuned.update(tried)
    best = {name: min(found, key=found.__getitem__, default=scale.batches[0]) for name, found in tried.items()}
    made: dict[str, list[Made]] = {}
    about: dict[str, Any] = {}
    proofs: dict[str, Any] = {}
    for name, batch in best.items():  # after each other: at its fastest TRL leaves no memory for another beside it
        with Side(Case(name, config_of(scale, targets, batch), steps, scale.proved)) as side:
            about[name], proofs[name] = side.about, side.exact()
            made[name] = [side.step() for _ in range(steps)]
    exact = same(proofs["Palate"], proofs["TRL"], f"K = {targets}")
    apart = same_losses(made, f"K = {targets}")
    for name, every in made.items():
        timed = every[WARM:]
        seconds = [each.seconds for each in timed]
        yield {
            "name": name,
            "targets": targets,
            "batch": best[name],
            "tried": tried[name],
            "attention": about[name]["attention"],
            "seconds": seconds,
            "tokens": sum(each.tokens for each in timed) / len(timed),
            "examples_per_second": TARGETS / spread(seconds)["median"],
            "losses": [each.loss for each in every],
            "exact": exact,
            "apart": apart,
        }


def same(ours: tuple[float, Any], theirs: tuple[float, Any], what: str) -> dict[str, float]:
    """How far loss and gradients are apart in float32; ends the benchmark if that is too far."""
    loss = abs(ours[0] - theirs[0]) / abs(theirs[0])
    gradient = float(np.linalg.norm(ours[1] - theirs[1]) / np.linalg.norm(theirs[1]))
    if not (loss <= EXACT and gradient <= 10 * EXACT):
        raise SystemExit(
            f"{what}: the two do not compute the same: losses {ours[0]} and {theirs[0]}, gradients {gradient:.3g} apart"
        )
    return {"loss": loss, "gradient": gradient}


def same_losses(made: Mapping[str, Sequence[Made]], what: str) -> float:
    """The largest relative difference of the steps' losses; ends the benchmark if it is too large."""
    ours, theirs = (np.array([each.loss for each in made[name]]) for name in ("Palate", "TRL"))
    apart = float(np.max(np.abs(ours - theirs) / np.abs(theirs)))
    if not apart <= ROUNDED:
        raise SystemExit(f"{what}: the steps' losses differ by {100 * apart:.2g} %: {ours} and TRL's {theirs}")
    return apart


def memory(scale: Scale, targets: int) -> list[dict[str, Any]]:
    """Palate's row and TRL's: one forward pass a step, of as many tokens on both sides as sequences allow."""
    batch = 4
    configs = {"Palate": config_of(scale, targets, batch, batch), "TRL": config_of(scale, targets, batch, batch)}
    if targets > 1:  # one whole prompt; the sequences of TRL's pass are as many as make up as many tokens
        prompts = warm_up(configs["TRL"])
        rows = max(1, round(float(prompts.tokens(prompts.pieces()).mean() / prompts.lengths.mean())))
        configs["Palate"] = config_of(scale, targets, TARGETS)
        configs["TRL"] = config_of(scale, targets, rows, rows)
    proved = batch if targets == 1 else 0
    with ExitStack() as stack:
        cases = [Case(name, config, 3, proved, FREED) for name, config in configs.items()]
        sides = [stack.enter_context(Side(case)) for case in cases]
        about = [side.about for side in sides]
        proofs = [side.exact() for side in sides] if proved else []
        made = {side.case.side: [side.step() for _ in range(side.case.steps)] for side in sides}
    if targets == 1:  # the same samples
        same(proofs[0], proofs[1], "memory")
        same_losses(made, "memory")
    return [
        {
            "name": name,
            "targets": targets,
            "samples": config.train.batch_size * config.train.gradient_accumulation,
            "tokens": max(size for step in told["passes"] for size in step),
            "growth": max(each.peak for each in made[name]),
            "model": told["model"] - told["libraries"],
            "trainer": told["ready"] - told["model"],
            "config": config.model_dump(mode="json"),
        }
        for (name, config), told in zip(configs.items(), about, strict=True)
    ]


def planned(scale: Scale, told: Mapping[int, Any], sizes: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Memory and seconds that were predicted, beside those of the real runs."""
    steps = [(targets, row, config_of(scale, targets, row["batch"])) for targets, row in told.items()]
    passes = [(row, Config.model_validate(row["config"])) for row in sizes if row["name"] == "Palate"]
    found = iter(in_own_process(predicted, [config for *_, config in steps] + [config for _, config in passes]))
    for targets, row, _ in steps:
        yield {
            "what": f"seconds a step, K = {targets}",
            "predicted": next(found)["seconds"],
            "measured": spread(row["seconds"])["median"],
        }
    for row, _ in passes:
        yield {
            "what": f"GB of weights, states and one pass, K = {row['targets']}",
            "predicted": next(found)["bytes"] / 1e9,
            "measured": (row["growth"] + row["model"] + row["trainer"]) / 1e9,
        }


def predicted(configs: Sequence[Config]) -> list[dict[str, float]]:
    """What `palate plan` makes of configs on this machine: seconds an average step, and bytes beside the libraries."""
    from palate.commands.plan import workload_of
    from palate.plan import load_shape, predict
    from palate.plan.devices import this_machine

    found = []
    for config in configs:
        work, _ = workload_of(config, from_ratings=True)
        shape = load_shape(config)
        here = this_machine(shape.config, config, work.longest_sequence)
        estimate = predict(config, work, shape=shape, devices=[here]).estimates[0]
        needed = estimate.memory.total - estimate.memory.parts["framework"]
        found.append({"seconds": estimate.seconds_a_step, "bytes": needed})
    return found


def agreeing(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows of the first step, once those of the same samples have the same loss."""
    theirs = rows[-1]["loss"]
    for row in rows:
        apart = abs(row["loss"] - theirs) / theirs
        if row["targets"] == 1 and not apart <= ROUNDED:
            raise SystemExit(f"{row['name']}: the first step's loss is {row['loss']}, TRL's is {theirs}")
        yield row


def claim(what: str, measured: float, side: str, target: float | None) -> dict[str, Any]:
    """One target and whether it is met."""
    met = None if target is None else measured >= target if side == ">=" else measured <= target
    return {"what": what, "measured": measured, "side": side, "target": target, "met": met}


Columns = Mapping[str, Callable[[Mapping[str, Any]], str]]
SPEED: Columns = {
    "": lambda row: f"{row['name']}, K = {row['targets']}",
    "in a pass": lambda row: f"{row['batch']}",
    "a step": lambda row: said(row["seconds"]),
    "examples/s": lambda row: number(row["examples_per_second"]),
    "tokens a step": lambda row: f"{row['tokens']:,.0f}",
    "tokens/s": lambda row: number(row["tokens"] / spread(row["seconds"])["median"]),
    "others tried": lambda row: ", ".join(f"{n}: {number(s)} s" for n, s in row["tried"].items()),
    "losses apart": lambda row: f"{row['apart']:.0e}; in float32 gradients {row['exact']['gradient']:.0e}",
}
MEMORY: Columns = {
    "": lambda row: f"{row['name']}, K = {row['targets']}",
    "examples in a pass": lambda row: f"{row['samples']}",
    "tokens in the largest pass": lambda row: f"{row['tokens']:,}",
    "base model": lambda row: f"{row['model'] / 2**20:,.0f} MiB",
    "grown since then": lambda row: f"{row['growth'] / 2**20:,.0f} MiB",
    "KiB a token": lambda row: number(row["growth"] / row["tokens"] / 1024),
}
PLAN: Columns = {
    "": lambda row: row["what"],
    "predicted": lambda row: number(row["predicted"]),
    "measured": lambda row: number(row["measured"]),
    "off by": lambda row: f"{100 * (row['predicted'] / row['measured'] - 1):+.0f} %",
}
CLAIMS: Columns = {
    "measured": lambda row: number(row["measured"]),
    "what": lambda row: row["what"],
    "target": lambda row: "" if row["target"] is None else f"{'≥' if row['side'] == '>=' else '≤'} {row['target']:g}",
    "met": lambda row: {True: "yes", False: "no", None: ""}[row["met"]],
}


if __name__ == "__main__":
    main()
