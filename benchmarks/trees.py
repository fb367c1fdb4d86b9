"""Boosted trees as bit sets beside LightGBM's own prediction, in one thread: the same bits, and processor time.

    python benchmarks/trees.py --save

Five models of 119 features and trees of 15 leaves, as the strongest baseline has, fitted on random numbers.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import lightgbm
import numpy as np

from palate.baselines.trees import Trees
from report import Result, number, publish

FEATURES, MODELS, TREES = 119, 5, 188


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the prediction of boosted trees.")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 20, 160, 8_000])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    args = parser.parse_args()
    rng = np.random.default_rng(5)
    x = rng.normal(size=(max(20_000, *args.rows), FEATURES)).astype(np.float32)
    liked = x[:20_000, :9].sum(axis=1) + 3 * rng.normal(size=20_000) > 0
    options = {"objective": "binary", "num_leaves": 15, "max_bin": 63, "learning_rate": 0.07, "verbose": -1}
    models = [
        lightgbm.train(options | {"feature_fraction": 0.3, "seed": n}, lightgbm.Dataset(x[:20_000], liked), TREES)
        for n in range(MODELS)
    ]
    trees = Trees.read([model.model_to_string() for model in models])
    rows = []
    for count in args.rows:
        some = np.ascontiguousarray(x[:count])

        def theirs(some: Any = some) -> Any:
            return np.array([model.predict(some, raw_score=True, num_threads=1) for model in models])

        def ours(some: Any = some) -> Any:
            return trees.sums(some)

        if not np.array_equal(theirs(), ours()):
            raise SystemExit(f"{count} rows: the sums differ")
        both = [(seconds(theirs, count), seconds(ours, count)) for _ in range(args.repeats)]  # in turn
        slow, fast = (median(each) for each in zip(*both, strict=True))
        rows.append({"rows": count, "lightgbm": slow, "palate": fast, "ratio": slow / fast})
    columns: dict[str, Callable[[Any], str]] = {
        "rows": lambda row: f"{row['rows']:,}",
        "LightGBM": lambda row: f"{number(1e3 * row['lightgbm'])} ms",
        "bit sets": lambda row: f"{number(1e3 * row['palate'])} ms",
        "ratio": lambda row: number(row["ratio"]),
    }
    title = f"Sums of {MODELS * TREES} trees, the same bits: processor time"
    publish("trees", [Result(title, rows, columns)], as_json=args.json, save=args.save)


def seconds(call: Callable[[], Any], count: int) -> float:
    """Processor seconds of a call, over enough calls to measure."""
    calls = max(1, 2_000 // count)
    began = time.process_time()
    for _ in range(calls):
        call()
    return (time.process_time() - began) / calls


if __name__ == "__main__":
    main()
