"""What reading and checking a log costs, beside Polars reading the same file and checking nothing.

    python benchmarks/reading.py --millions 32 --save

Makes a log in MovieLens' shape with `synthetic.py`, or takes the one that lies in `--data`, and writes it in each form.
Each reading is a process of its own; the forms and the two readers take turns.
"""

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

import synthetic
from palate.ratings.load import load_ratings
from report import Result, clock, in_own_process, number, publish, said

READ: dict[str, Callable[[Path], pl.DataFrame]] = {
    ".csv": pl.read_csv,
    ".jsonl": pl.read_ndjson,
    ".parquet": pl.read_parquet,
}
TITLES = 87_000
TARGET = 1.5


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what reading a log costs.")
    parser.add_argument("--millions", type=float, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data", type=Path, help="where the log is kept (a temporary folder)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = list(measured(args.millions, args.data or Path(folder), args.repeats))
    title = f"Reading {args.millions:g} M ratings, target {TARGET} × the time of Polars"
    publish("reading", [Result(title, rows, COLUMNS)], as_json=args.json, save=args.save)


def measured(millions: float, data: Path, repeats: int) -> Iterator[dict[str, Any]]:
    """A row for each form."""
    log = data / f"synthetic-{millions:g}m"
    if not (log / "ratings.csv").is_file():
        synthetic.write(log, int(millions * 1e6), TITLES)
    in_own_process(written, log)
    runs: dict[str, list[dict[str, dict[str, float]]]] = {suffix: [] for suffix in READ}
    for _ in range(repeats):
        for suffix, found in runs.items():
            found.append({step.__name__: in_own_process(step, log, suffix) for step in (polars, palate)})
    for suffix, found in runs.items():
        seconds = {name: [run[name]["seconds"] for run in found] for name in ("polars", "palate")}
        cpu = {name: min(run[name]["cpu"] for run in found) for name in ("polars", "palate")}
        peak = {name: max(run[name]["peak"] for run in found) for name in ("polars", "palate")}
        ratio = sorted(mine / theirs for mine, theirs in zip(seconds["palate"], seconds["polars"], strict=True))
        size = os.path.getsize(log / f"ratings{suffix}")
        yield {"form": suffix, "size": size, "seconds": seconds, "cpu": cpu, "peak": peak, "ratios": ratio}


def written(log: Path) -> None:
    """Write the log in the other forms."""
    frame = pl.read_csv(log / "ratings.csv")
    if not (log / "ratings.parquet").is_file():
        frame.write_parquet(log / "ratings.parquet")
    if not (log / "ratings.jsonl").is_file():
        frame.write_ndjson(log / "ratings.jsonl")


def polars(log: Path, suffix: str) -> dict[str, float]:
    """Polars reads the file."""
    return timed(lambda: READ[suffix](log / f"ratings{suffix}"))


def palate(log: Path, suffix: str) -> dict[str, float]:
    """Palate reads and checks it, and its titles."""
    return timed(lambda: load_ratings(str(log / f"ratings{suffix}"), items=str(log / "movies.csv")))


def timed(read: Callable[[], Any]) -> dict[str, float]:
    """Seconds, seconds of processors, and the highest memory in bytes."""
    before = os.times()
    with clock() as work:
        read()
    after = os.times()
    return {"seconds": work.seconds, "cpu": after.user + after.system - before.user - before.system, "peak": work.peak}


def median(values: list[float]) -> float:
    """The middle value."""
    return sorted(values)[len(values) // 2]


COLUMNS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "form": lambda row: f"`{row['form']}`, {row['size'] / 1e9:.2f} GB",
    "Polars": lambda row: said(row["seconds"]["polars"]),
    "Palate": lambda row: said(row["seconds"]["palate"]),
    "ratio": lambda row: f"{median(row['ratios']):.2f} ({row['ratios'][0]:.2f}–{row['ratios'][-1]:.2f})",
    "ratio of processor time": lambda row: f"{row['cpu']['palate'] / row['cpu']['polars']:.2f}",
    "memory of Polars": lambda row: f"{number(row['peak']['polars'] / 1e9)} GB",
    "memory of Palate": lambda row: f"{number(row['peak']['palate'] / 1e9)} GB",
}

if __name__ == "__main__":
    main()
