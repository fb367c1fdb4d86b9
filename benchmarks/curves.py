"""What learning rate and rank do to what is learned: validation AUC along two lines through one recipe.

    python benchmarks/curves.py --quick        # a tiny model on made-up ratings: does it all run?
    python benchmarks/curves.py --save

One line goes through the learning rates at the recipe's rank, the other through the ranks at its learning rate, with
alpha in proportion; at their crossing stands one run whose prompt has no item statistics. Samples, their order and the
validation samples are the same in all runs; a run that is there is not made again, so that a benchmark that was broken
off goes on.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import quality
from palate.config import Config
from palate.errors import PalateError
from report import Result, publish
from training import TRAIN, small

RATES = (3e-4, 1e-3, 3e-3)
RANKS = (4, 16, 64)
QUICK = 64
"""Labelled examples with `--quick`."""
PLAIN = {"candidate_line": "{title}"}
"""A prompt that does not tell how the film was rated by others."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what learning rate and rank do to what is learned.")
    parser.add_argument("--samples", type=int, default=quality.SAMPLES, help="labelled examples of each run (640)")
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES))
    parser.add_argument("--ranks", type=int, nargs="+", default=list(RANKS))
    search("curves", parser, measured, lambda args: f"{args.samples:,} labelled examples, one epoch", COLUMNS)


def search(
    name: str,
    parser: argparse.ArgumentParser,
    measured: Callable[[Mapping[str, Any], argparse.Namespace, Path], Iterator[dict[str, Any]]],
    title: Callable[[argparse.Namespace], str],
    columns: quality.Columns,
    also: Callable[[Sequence[Mapping[str, Any]]], Iterable[Result]] = lambda _: (),
) -> None:
    """Train what `measured` makes of the recipe, and publish it; with `--quick` that of a tiny model.

    `also` makes further tables of its rows.
    """
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--folder", type=Path, default=Path(f"runs/benchmark-{name}"), help="goes on from here")
    parser.add_argument("--quick", action="store_true", help="a tiny model and few steps: that everything runs")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base, keep = quality.recipe(), args.folder
        if args.quick:
            base |= small(Path(folder)).config | {"train": base["train"] | TRAIN}
            args.samples, keep = QUICK, Path(folder) / "kept"
        try:
            rows = list(measured(base, args, keep))
        except PalateError as error:
            sys.exit(f"error: {error}")
    # Scores of single rows stay in the folder of the runs.
    kept = [{key: value for key, value in row.items() if key != "scores"} for row in rows]
    results = [Result(title(args), kept, columns), *also(rows)]
    publish(f"{name}{'-quick' if args.quick else ''}", results, as_json=args.json, save=args.save)


def measured(base: Mapping[str, Any], args: argparse.Namespace, keep: Path) -> Iterator[dict[str, Any]]:
    """A row for every point and seed; the recipe's own point is on both lines and trained once."""
    recipe = Config.model_validate(base).train
    lora, own_rate = recipe.lora.model_dump(mode="json"), recipe.learning_rate
    few = slice(0, 1) if args.quick else slice(None)
    points = [(rate, lora["r"], True) for rate in args.rates[few]]
    points += [(own_rate, rank, True) for rank in args.ranks[few]]
    points.append((own_rate, lora["r"], False))
    for rate, rank, told in sorted(set(points)):
        for seed in args.seeds:
            adapter = {**lora, "r": rank, "alpha": rank * lora["alpha"] / lora["r"]}
            train = {"learning_rate": rate, "lora": adapter, "max_samples": args.samples, "seed": seed}
            own = {"prepare": {"max_eval": quality.VALIDATION}, "train": {**base["train"], **train}}
            own["prompt"] = {**base["prompt"], **({} if told else PLAIN)}
            config = Config.model_validate({**base, **own})
            about = {"rate": rate, "rank": rank, "seed": seed, "told": told}
            yield (row := quality.row_of(config, quality.folder_of(config, keep), about))
            print(f"{rate:g}, r = {rank}, seed {seed}: AUC {row['auc']:.4f}", file=sys.stderr)


COLUMNS: quality.Columns = {
    "learning rate": lambda row: f"{row['rate']:g}",
    "rank": lambda row: f"{row['rank']}",
    "item statistics": lambda row: "yes" if row["told"] else "no",
    "seed": lambda row: f"{row['seed']}",
    **quality.LEARNED,
}


if __name__ == "__main__":
    main()
