"""What tables cost as a ratings log grows: seconds, memory and disk a million ratings.

    python benchmarks/growth.py --millions 1 10 32 --save

Makes logs in MovieLens' shape with `synthetic.py`, or takes those that lie in `--data`; each size is measured in
a fresh process with an empty cache, beside Polars reading the same CSV and nothing else.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import synthetic
from composed import grow, read_csv
from report import Result, in_own_process, number, publish, spread

TITLES = 87_000


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how the cost of tables grows with the ratings.")
    parser.add_argument("--millions", type=float, nargs="+", default=[1, 10, 32])
    parser.add_argument("--tokenizer", default="qwen3")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data", type=Path, help="where the logs are kept (a temporary folder)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = list(measured(args.millions, args.data or Path(folder), args.tokenizer, args.repeats))
    title = f"From ratings.csv to ready token datasets, {args.tokenizer}, {TITLES:,} titles"
    publish("growth", [Result(title, rows, COLUMNS)], as_json=args.json, save=args.save)


def measured(millions: list[float], data: Path, tokenizer: str, repeats: int) -> Iterator[dict[str, Any]]:
    """One row a size."""
    for size in millions:
        log = data / f"synthetic-{size:g}m"
        if not (log / "ratings.csv").is_file():
            synthetic.write(log, int(size * 1e6), TITLES)
        runs = [in_own_process(grow, str(log), tokenizer) for _ in range(repeats)]
        reading = [in_own_process(read_csv, str(log / "ratings.csv")) for _ in range(repeats)]
        seconds, read = spread([run["seconds"] for run in runs]), spread(reading)
        yield {
            "millions": size,
            **seconds,
            "a_million": seconds["median"] / size,
            "read_csv": read,
            "times_read_csv": seconds["median"] / read["median"],
            "peak": max(run["peak"] for run in runs),
            **{name: runs[0][name] for name in ("disk", "samples", "tokens", "unproved")},
        }


COLUMNS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "ratings": lambda row: f"{row['millions']:g} M",
    "samples": lambda row: f"{row['samples']:,}",
    "tokens": lambda row: f"{row['tokens'] / 1e6:,.0f} M",
    "median (min–max)": lambda row: f"{number(row['median'])} s ({number(row['min'])}–{number(row['max'])})",
    "s a million": lambda row: number(row["a_million"]),
    "Polars read_csv": lambda row: f"{number(row['read_csv']['median'])} s",
    "× read_csv": lambda row: number(row["times_read_csv"]),
    "peak memory": lambda row: f"{row['peak'] / 1e9:.2f} GB",
    "disk a million": lambda row: f"{row['disk'] / row['millions'] / 1e6:.1f} MB",
    "plain": lambda row: f"{row['unproved']:,}",
}


if __name__ == "__main__":
    main()
