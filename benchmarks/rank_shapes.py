"""How fast models of SmolLM2's and Qwen3's shapes rank a user's candidates: behind one prefix, and as whole prompts.

    python benchmarks/rank_shapes.py --quick     # a tiny shape: does it all run?
    python benchmarks/rank_shapes.py --save

Neither ratings nor a tokenizer are needed: weights are random, and prompts are random tokens, with the lengths that
MovieLens prompts have with Qwen3's tokenizer (`shapes.py`). Both sides begin at tokens and end at log-probabilities of
two answers; where these differ, the benchmark ends with an error. On a CUDA GPU all of it is in bfloat16, on a
processor in float32. Where a model does not fit into memory, some of its layers are measured, and what all of them
would take is worked out from two numbers of layers and called so. Each row is a process of its own, one after the
other.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from report import Result, clock, in_own_process, number, publish, said
from shapes import (
    FEW,
    LEAD,
    SHAPES,
    SIZES,
    TINY,
    default_dtype,
    device_name,
    fits,
    layers,
    memory_of,
    note,
    plain_model,
    where,
)
from training import CLAIMS, claim

CANDIDATES = 100
WHOLE, BATCH = 16, 8
"""Whole prompts that are timed, and in batches of how many."""
APART = {"float32": 1e-4, "bfloat16": 0.1}
"""How far log-probabilities behind a prefix may be from those of whole prompts: in float32 what sums in another order
differ by; random weights in bfloat16 have logits near 0, rounded to eight bits."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how fast models of real sizes rank a user's candidates.")
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--candidates", type=int, default=CANDIDATES, help=f"that are ranked ({CANDIDATES})")
    parser.add_argument("--repeats", type=int, default=3, help="how often each is timed (3)")
    parser.add_argument("--quick", action="store_true", help="a tiny shape and few candidates: that everything runs")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    args = parser.parse_args()
    wanted = {"tiny": TINY} if args.quick else {name: SHAPES[name] for name in args.shapes}
    rows = list(measured(wanted, args.candidates, args.repeats))
    device = "" if rows[0]["device"] == "CPU" else f", {rows[0]['device']}"
    title = f"Random weights, a user's candidates, {rows[0]['dtype']}{device}"
    results = [Result(title, rows, COLUMNS), Result("Targets", list(claims(rows)), CLAIMS)]
    publish(f"rank-shapes{'-quick' if args.quick else ''}", results, as_json=args.json, save=args.save)


def measured(shapes: Mapping[str, Mapping[str, Any]], candidates: int, repeats: int) -> Iterator[dict[str, Any]]:
    """A row for every shape and side, and for each number of layers that stands for all."""
    for name, shape in shapes.items():
        all_layers = shape["num_hidden_layers"]
        depths = [all_layers] if in_own_process(fits, shape) else list(FEW)
        for side in (behind_prefix, whole_prompts):
            rows = []
            for depth in depths:
                about = {"shape": name, "layers": depth, "of": all_layers, "worked_out": False}
                found = in_own_process(side, {**shape, "num_hidden_layers": depth}, candidates, repeats)
                rows.append(about | found)
                line = f"{name}, {layers(rows[-1])} layers, {found['name']}"
                print(f"{line}: {number(speed(rows[-1]))} candidates/s", file=sys.stderr)
            yield from rows
            if len(rows) > 1:
                yield worked_out(rows[0], rows[1], all_layers)


def behind_prefix(shape: Mapping[str, Any], candidates: int, repeats: int) -> dict[str, Any]:
    """All candidates behind what they share."""
    backend = backend_of(shape)
    prefix, rests = prompts_of(shape, candidates)

    def rank(n: int) -> Any:
        return backend.answers_behind(prefix, rests[:n], BATCH, lambda _: None)

    row = row_of(backend, candidates, lambda: rank(candidates), repeats)  # first, for the memory that it takes alone
    check(backend, rank(BATCH), [[*prefix, *rest] for rest in rests[:BATCH]])
    return {"name": "rank", "candidates": candidates, **row}


def whole_prompts(shape: Mapping[str, Any], candidates: int, repeats: int) -> dict[str, Any]:
    """The first of the candidates, one whole prompt each, in batches."""
    backend = backend_of(shape)
    prefix, rests = prompts_of(shape, min(candidates, WHOLE))
    prompts = [[*prefix, *rest] for rest in rests]

    def score() -> None:
        for start in range(0, len(prompts), BATCH):
            backend.answers(prompts[start : start + BATCH])

    row = row_of(backend, len(prompts), score, repeats)
    return {"name": f"whole prompts, batches of {BATCH}", "candidates": candidates, **row}


def backend_of(shape: Mapping[str, Any]) -> Any:
    """A model with random weights that answers with one of two tokens."""
    import torch

    from palate.score.local import LocalBackend

    on, dtype = where()
    torch.manual_seed(0)
    with torch.device(on), default_dtype(dtype):
        model = plain_model(shape)
    return LocalBackend(model, 1, 2)


def prompts_of(shape: Mapping[str, Any], candidates: int) -> tuple[list[int], list[list[int]]]:
    """What a user's prompts share, and each one's own rest: random tokens of MovieLens' lengths."""
    draw = np.random.default_rng(7)
    mean, deviation = SIZES["candidate"]
    own = np.maximum(8, draw.normal(mean, deviation, candidates)).astype(int) + LEAD
    vocabulary = shape["vocab_size"]
    prefix = draw.integers(1, vocabulary, SIZES["history"][0]).tolist()
    return prefix, [draw.integers(1, vocabulary, size).tolist() for size in own.tolist()]


def check(backend: Any, shared: Any, prompts: Any) -> None:
    """End the benchmark if what is said behind a prefix is not what is said of whole prompts."""
    apart = float(np.abs(shared - backend.answers(prompts)).max())
    if not apart <= APART[name_of(backend)]:
        raise SystemExit(f"behind a prefix log P is {apart:.2g} off whole prompts: the times are worth nothing")


def name_of(backend: Any) -> str:
    """The number format of the weights."""
    return str(next(backend.model.parameters()).dtype).removeprefix("torch.")


def row_of(backend: Any, timed: int, work: Callable[[], Any], repeats: int) -> dict[str, Any]:
    """Time some work, after once without a clock. Scores are numpy arrays, so that a GPU has ended what it did."""
    work()
    seconds = []
    for _ in range(repeats):
        with clock() as took:
            work()
        seconds.append(took.seconds)
    on = backend.model.device
    about = {"device": device_name(on), "dtype": name_of(backend), "memory": memory_of(on)}
    return {"timed": timed, "seconds": seconds, **about}


def worked_out(few: Mapping[str, Any], more: Mapping[str, Any], whole: int) -> dict[str, Any]:
    """What all layers would take: each further one as much as those that two rows differ by."""
    times = (whole - few["layers"]) / (more["layers"] - few["layers"])
    first, second = (statistics.median(each["seconds"]) for each in (few, more))
    return {
        **more,
        "layers": whole,
        "worked_out": True,
        "seconds": [first + times * (second - first)],
        "memory": few["memory"] + times * (more["memory"] - few["memory"]),
    }


def speed(row: Mapping[str, Any]) -> float:
    """Candidates a second."""
    return float(row["timed"] / statistics.median(row["seconds"]))


def claims(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Of each shape with all its layers, measured or worked out."""
    every = [row for row in rows if row["layers"] == row["of"]]
    for ours, theirs in zip(every[::2], every[1::2], strict=True):
        what = f"times whole prompts, {ours['shape']}, {ours['candidates']:,} candidates{note(ours)}"
        yield claim(what, speed(ours) / speed(theirs), ">=", 8)


COLUMNS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "shape": lambda row: row["shape"],
    "layers": layers,
    "": lambda row: row["name"],
    "candidates": lambda row: f"{row['timed']:,}" + ("" if row["timed"] == row["candidates"] else " of them"),
    "median (min–max)": lambda row: said(row["seconds"]),
    "candidates/s": lambda row: number(speed(row)),
    "memory": lambda row: f"{row['memory'] / 1e9:.1f} GB",
}


if __name__ == "__main__":
    main()
