"""How fast all users are recommended to on this machine alone, and on a Ray cluster of one and two processes.

    python benchmarks/scale.py --quick            # a tiny model on made-up ratings: does it all run?
    python benchmarks/scale.py --save             # SmolLM2-135M on 60 users of ml-latest-small, 50 candidates each
    python benchmarks/scale.py --cost --interactions 1e9 --scores 1e9 --price-hour 0.10 --price-gb 0.01

Each row is `palate recommend --all-users --retrieve N` in a process of its own, one after the other, with a thread for
each process that scores. `users/s` counts from the first user's recommendations to the last one's: Ray's start and the
loading of the model are only in `whole command`. The benchmark ends with an error if the files differ.

`--cost` measures nothing: it works out seconds, bytes and money from the results of other benchmarks in `results/`, for
a machine like those on which they ran, and prints each constant with its source.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import yaml

import costs
import synthetic
from palate.errors import PalateError
from palate.ratings.load import load_ratings
from palate.store.artifacts import sha256_file
from report import Result, in_own_process, number, publish
from training import tiny_model

SIDES: Mapping[str, list[str]] = {
    "local": [],
    **{f"Ray, {n} process{'es' * (n > 1)}": ["--engine", "ray", "--set", f"engine.workers={n}"] for n in (1, 2)},
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure recommending to all users, locally and on Ray.")
    parser.add_argument("--ratings", default="ml-latest-small", help="a data set's name or path")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--users", type=int, default=60, help="the first users of the log (60)")
    parser.add_argument("--retrieve", type=int, default=50, help="candidates of a user (50)")
    parser.add_argument("--cost", action="store_true", help="work out what a size costs, from kept results")
    parser.add_argument("--interactions", type=float, default=1e9, help="of the log, for --cost (1e9)")
    parser.add_argument("--scores", type=float, default=1e9, help="pairs of user and item, for --cost (1e9)")
    parser.add_argument("--items", type=float, default=1e4, help="of the catalogue, for --cost (1e4)")
    parser.add_argument("--price-hour", type=float, default=0.0, help="of a machine of two cores, for --cost")
    parser.add_argument("--price-gb", type=float, default=0.0, help="of a GB over the network, for --cost")
    parser.add_argument("--quick", action="store_true", help="a tiny model on made-up ratings: that everything runs")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    args = parser.parse_args()
    if args.cost:
        size = costs.Size(args.interactions, args.scores, args.items, args.price_hour, args.price_gb)
        publish("costs", costs.results(size), as_json=args.json, save=args.save)
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with tempfile.TemporaryDirectory() as name:
        run = prepared(Path(name), args)
        found = {side: in_own_process(recommended, run, words, args.retrieve) for side, words in SIDES.items()}
    rows = [{"side": side, **row, "local": found["local"]["rate"]} for side, row in found.items()]
    if len({row["sha256"] for row in rows}) != 1:
        raise SystemExit("error: the files of recommendations differ")
    title = f"Recommend to {rows[0]['users']} users of {'made-up ratings' if args.quick else args.ratings}, "
    title += f"{args.retrieve} candidates each, {'a tiny model' if args.quick else args.model}: identical files"
    publish("scale", [Result(title, rows, COLUMNS)], as_json=args.json, save=args.save)


def prepared(folder: Path, args: argparse.Namespace) -> Path:
    """A run with the first users' ratings."""
    from palate.cli import main as palate

    (folder / "ratings").mkdir()
    (folder / "run").mkdir()
    if args.quick:
        synthetic.write(folder / "made", 9000, 1000)
        tiny_model(folder / "model")
        args.ratings, args.model = str(folder / "made"), str(folder / "model")
    log = load_ratings(args.ratings)
    first = log.frame["user_id"].unique().sort().head(args.users)
    log.frame.filter(pl.col("user_id").is_in(first.implode())).write_csv(folder / "ratings/ratings.csv")
    log.items.select("item_id", "title").write_csv(folder / "ratings/items.csv")
    config = {
        "run_dir": str(folder / "run"),
        "ratings": {"source": str(folder / "ratings")},
        "model": {"base": args.model, "dtype": "float32"},
    }
    (folder / "run/config.yaml").write_text(yaml.safe_dump(config))
    if palate(["prepare", str(folder / "run")]) != 0:
        raise SystemExit("error: the ratings could not be prepared")
    return folder / "run"


def recommended(run: Path, words: list[str], retrieve: int) -> dict[str, Any]:
    """Recommend to all users: seconds of the command, users a second, and the file's hash."""
    from palate.cli import main as palate
    from palate.progress import Meter

    times: list[float] = []
    advance = Meter.advance

    def noted(meter: Meter, n: int, note: str = "") -> None:
        times.append(time.monotonic())
        advance(meter, n, note)

    setattr(Meter, "advance", noted)  # noqa: B010
    out, began = run / "top.parquet", time.monotonic()
    options = ["--base-only", "--all-users", "--retrieve", str(retrieve), "--top-k", "10", "--out", str(out)]
    if palate(["recommend", str(run), *options, *words]) != 0:
        raise SystemExit("error: nothing was recommended")
    seconds = time.monotonic() - began
    found: dict[str, Any] = {"seconds": seconds, "users": len(times), "rate": (len(times) - 1) / (times[-1] - times[0])}
    found |= {"rows": len(times) * retrieve, "sha256": sha256_file(out)}
    out.unlink()
    return found


COLUMNS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "": lambda row: row["side"],
    "users/s": lambda row: number(row["rate"]),
    "candidates/s": lambda row: number(row["rate"] * row["rows"] / row["users"]),
    "times local": lambda row: f"{row['rate'] / row['local']:.2f}",
    "whole command": lambda row: f"{number(row['seconds'])} s",
}


if __name__ == "__main__":
    try:
        main()
    except PalateError as error:
        raise SystemExit(f"error: {error}") from None
