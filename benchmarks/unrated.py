"""What a fine-tuned model says of films that nobody had rated, beside the baselines.

    PALATE_DATA_DIR=… python benchmarks/unrated.py --save

All test rows of items without a rating in training or warm-up: what is known of them stands in the prompt. The model is
the last of `reached.py`, which is trained if it is not there.
"""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

import quality
import reached
from palate.config import Config
from palate.samples import Samples
from report import Result, in_own_process, publish

SLICE = ("training ratings of the item", "cold: none")
SHOWN = ("", "AUC", "95 %", "GAUC", "log loss", "ECE", "− best baseline", "detects")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what a fine-tuned model says of films without ratings.")
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark-quality"), help="goes on from here")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    args = parser.parse_args()
    arm = reached.ARMS[-1]
    config = reached.config_of(arm)
    out = quality.folder_of(config, args.folder)
    row: dict[str, Any] = {**arm._asdict(), "arm": arm.name, **quality.row_of(config, out, {})}
    own = Config.model_validate(config.model_dump(mode="json") | {"run_dir": str(args.folder / arm.variant)})
    row |= (found := in_own_process(measured, own, out / "adapter", out))
    print(f"{arm.name}: AUC {reached.entry(row, 'fine-tuned')['metrics']['auc']:.4f}", file=sys.stderr)
    title = f"{found['n']:,} test rows of films without ratings, {found['users']:,} users of ml-latest-small"
    result = Result(title, list(reached.lines([row])), {name: reached.COLUMNS[name] for name in SHOWN})
    publish("unrated", [result], as_json=args.json, save=args.save)


def unrated(samples: Samples) -> NDArray[np.int64]:
    """The test rows (n,) of items without a rating to learn from, ascending."""
    from palate.measure.slices import slices_of

    parts = slices_of(samples, samples.position[samples.of("test")])
    return next(np.sort(rows) for dimension, label, rows in parts if (dimension, label) == SLICE)


def measured(config: Config, adapter: Path, out: Path) -> dict[str, Any]:
    """Score these rows, kept in `out`, and measure them beside the baselines."""
    from palate.commands.prepare import prepared, sample_ids, scored_tokens
    from palate.commands.score import key_of, load_scorer, score_with
    from palate.measure.rows import evaluate

    data, scorer = prepared(config), load_scorer(config, adapter)
    rows, about = unrated(data.samples), sample_ids(data, "test")
    tokens = scored_tokens(config, data, scorer.chat, ("test",))["test"]
    key = key_of(scorer, config, tokens, adapter)
    columns = score_with(scorer, config, tokens, about, rows, key, out / "unrated.parquet").columns
    scores = {"fine-tuned": pl.DataFrame({name: columns[name] for name in ("row", "p")})}
    return asdict(evaluate(data.samples, scores, rows=rows, seed=config.seed))


if __name__ == "__main__":
    main()
