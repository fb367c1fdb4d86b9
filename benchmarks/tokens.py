"""How fast samples become tokens, beside the ways that a user has today.

    python benchmarks/tokens.py --quick          # the first 5,000 samples
    python benchmarks/tokens.py --save           # all samples; kept in benchmarks/results/

Every row makes the same sequences: all samples of the train, then of the validation, then of the test split,
users ascending, then time. Its ids are compared with those of the guide's path; then its time counts. Each run
has a fresh Python of its own.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from baselines import (
    Inputs,
    Run,
    Tokens,
    encode_batch_path,
    guides_messages,
    guides_path,
    map_lengths,
    trl_path,
)
from composed import kernel_times, loader_times, palate_lengths, palate_path
from palate.config import PrepareConfig
from palate.errors import InputError
from palate.prompt.spec import PromptSpec
from palate.ratings.load import load_ratings
from palate.samples import Samples, build_samples, iter_examples
from palate.samples.split import SPLITS
from report import Result, Work, cores, in_own_process, number, publish, said, spread

REFERENCE = "guide: datasets.map"
ROWS: dict[str, Callable[[Inputs], Run]] = {
    REFERENCE: guides_path,
    "TRL: SFTTrainer's preparation": trl_path,
    "tokenizers: encode_batch_fast": encode_batch_path,
    "Palate, from ratings.csv": palate_path,
    "lengths only: datasets.map": map_lengths,
    "lengths only: Palate, from ratings.csv": palate_lengths,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how fast samples become tokens.")
    parser.add_argument("--ratings", default="ml-latest-small", help="a data set's name or path")
    parser.add_argument("--tokenizer", default="qwen3")
    parser.add_argument("--quick", type=int, nargs="?", const=5000, metavar="N", help="the first N samples (5,000)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="", metavar="TEXT", help="rows whose name has this, beside the reference")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    args = parser.parse_args()
    try:
        samples = build_samples(load_ratings(args.ratings), PrepareConfig())
    except InputError as error:
        sys.exit(f"error: {error}")
    every = samples.position.size
    with tempfile.TemporaryDirectory() as folder:
        inputs = Inputs(
            Path(folder) / "examples.json",
            Path(folder) / "conversations.jsonl",
            args.tokenizer,
            cores(),
            args.ratings,
            args.quick if args.quick and args.quick < every else None,
        )
        write_inputs(samples, inputs)
        rows = list(measured(inputs, args.only, args.repeats))
        claims = list(targets(inputs, rows, args.repeats)) if not args.only else []
    title = f"Tokens of {Path(args.ratings).name}, {args.tokenizer}: {every:,} samples"
    if inputs.limit:
        title = f"Quick look at the first {inputs.limit:,}, start-up weighs more than in a full run. {title}"
    name = "tokens-quick" if inputs.limit else "tokens"
    results = [Result(title, rows, COLUMNS)] + ([Result("Targets", claims, CLAIMS)] if claims else [])
    publish(name, results, as_json=args.json, save=args.save)


def write_inputs(samples: Samples, inputs: Inputs) -> None:
    """Write the examples in the two forms that the paths read."""
    rows = (
        row
        for split in SPLITS
        for chunk in iter_examples(samples, split, PromptSpec())
        for row in chunk.iter_rows(named=True)
    )
    with (
        inputs.examples.open("w", encoding="utf-8") as examples,
        inputs.conversations.open("w", encoding="utf-8") as conversations,
    ):
        for n, row in enumerate(islice(rows, inputs.limit)):
            examples.write(("," if n else "[") + json.dumps(row, ensure_ascii=False) + "\n")
            *prompt, completion = guides_messages(row)
            conversation = {"prompt": prompt, "completion": [completion]}
            conversations.write(json.dumps(conversation, ensure_ascii=False) + "\n")
        examples.write("]\n")


def measured(inputs: Inputs, only: str, repeats: int) -> Iterator[dict[str, Any]]:
    """One row of the result after the other; the reference is first."""
    reference: Tokens | None = None
    base = 0.0
    for name, path in ROWS.items():
        if name != REFERENCE and only not in name:
            continue
        works: list[Work] = []
        differing: dict[str, int] = {}
        notes: dict[str, Any] = {}
        for _ in range(repeats):
            run = in_own_process(path, inputs)
            reference = reference or run.tokens
            found = differences(run.tokens, reference)
            differing = {what: max(n, differing.get(what, 0)) for what, n in found.items()}
            works.append(run.work)
            notes = run.notes
        seconds = [work.seconds for work in works]
        base = base or spread(seconds)["median"]
        print(f"{name}: {said(seconds)}", file=sys.stderr)  # a full run takes a quarter of an hour
        extra = {"differing": differing, "peak_bytes": max(work.peak for work in works), **notes}
        assert reference is not None
        yield row_of(name, reference, seconds, base) | extra


def targets(inputs: Inputs, rows: list[dict[str, Any]], repeats: int) -> Iterator[dict[str, Any]]:
    """What Palate claims, as ratios of medians of this run."""
    row = {row["name"]: row for row in rows}

    def ratio(what: str, of: str, to: str, target: float) -> dict[str, Any]:
        return claim(what, row[of]["median"] / row[to]["median"], ">=", target)

    ours, lengths = "Palate, from ratings.csv", "lengths only: Palate, from ratings.csv"
    yield ratio("times the speed of the guide's path", REFERENCE, ours, 100)
    yield ratio("times the speed of TRL's preparation", "TRL: SFTTrainer's preparation", ours, 80)
    yield ratio("times the speed of encode_batch_fast on ready texts", "tokenizers: encode_batch_fast", ours, 25)
    yield ratio("times the speed of tokenizing, for exact statistics", "lengths only: datasets.map", lengths, 100)
    yield claim("of the guide's bytes on disk", row[ours]["disk_bytes"] / row[REFERENCE]["disk_bytes"], "<=", 0.01)
    found = in_own_process(kernel_times, inputs, 3 * repeats)
    middle = {name: spread(seconds)["median"] for name, seconds in found.items()}
    for what in ("ids", "ids, labels, mask"):
        copy = "copy of the ids" if what == "ids" else f"copy of {what}"
        yield claim(f"of memcpy's speed, one thread: {what}", middle[copy] / middle[what], ">=", 0.5) | {
            "seconds": found
        }
    for name, seconds in in_own_process(loader_times, inputs).items():
        target = 1.0 if name == "composed" else None
        yield claim(f"ms a DataLoader batch of 32, {name}", 1000 * spread(seconds)["median"], "<=", target)


def claim(what: str, measured: float, side: str, target: float | None) -> dict[str, Any]:
    """One target and whether it is met."""
    met = None if target is None else measured >= target if side == ">=" else measured <= target
    return {"what": what, "measured": measured, "side": side, "target": target, "met": met}


def row_of(name: str, reference: Tokens, seconds: list[float], base: float) -> dict[str, Any]:
    """What is said of every row."""
    tokens, middle = int(reference.lengths.sum()), spread(seconds)["median"]
    return {
        "name": name,
        "samples": reference.lengths.size,
        "tokens": tokens,
        "seconds": seconds,
        **spread(seconds),
        "tokens_per_second": tokens / middle,
        "times_the_reference": base / middle,
    }


def differences(tokens: Tokens, reference: Tokens) -> dict[str, int]:
    """How many samples differ from the reference's, in what a path makes: lengths, ids, labels."""
    if tokens.lengths.size != reference.lengths.size:
        raise ValueError(f"{tokens.lengths.size} samples, expected {reference.lengths.size}")
    differing = {"lengths": int((tokens.lengths != reference.lengths).sum())}
    ends, reference_ends = np.cumsum(tokens.lengths)[:-1], np.cumsum(reference.lengths)[:-1]
    for what in ("ids", "labels"):
        made, expected = getattr(tokens, what), getattr(reference, what)
        if made is None:
            continue
        differing[what] = 0
        if not np.array_equal(made, expected):
            pairs = zip(np.split(made, ends), np.split(expected, reference_ends), strict=True)
            differing[what] = sum(not np.array_equal(one, other) for one, other in pairs)
    return differing


def agreement(row: Mapping[str, Any]) -> str:
    """What is the reference's, and in how many samples it is not."""
    differing = row.get("differing", {})
    same = ", ".join(what for what, n in differing.items() if not n)
    return "; ".join(filter(None, [same, *(f"{what} differ in {n:,}" for what, n in differing.items() if n)]))


COLUMNS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "": lambda row: row["name"],
    "same as the guide's": agreement,
    "median (min–max)": lambda row: said(row["seconds"]),
    "M tokens/s": lambda row: number(row["tokens_per_second"] / 1e6),
    "× guide": lambda row: number(row["times_the_reference"]),
    "largest process": lambda row: f"{row['peak_bytes'] / 2**20:,.0f} MiB" if "peak_bytes" in row else "",
    "on disk": lambda row: f"{row['disk_bytes'] / 2**20:,.1f} MiB" if "disk_bytes" in row else "",
}
CLAIMS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "measured": lambda row: number(row["measured"]),
    "what": lambda row: row["what"],
    "target": lambda row: "" if row["target"] is None else f"{'≥' if row['side'] == '>=' else '≤'} {row['target']:g}",
    "met": lambda row: {True: "yes", False: "no", None: ""}[row["met"]],
}


if __name__ == "__main__":
    main()
