"""What tables cost as a ratings log grows: seconds, memory and disk a million ratings.

    python benchmarks/growth.py --millions 1 10 32 200 --memory 5 --save   # kept as growth-large
    python benchmarks/growth.py --spark PYTHON --save           # also beside Spark; PYTHON has pyspark

Makes logs in MovieLens' shape with `synthetic.py`, or takes those that lie in `--data`; each size is measured in
a fresh process with an empty cache, beside Polars reading the same CSV and nothing else. A log that exceeds `--memory`
is worked on from the disk: 200 million ratings take 6 GB for the log, 13 GB for scratch and 4 GB for tables there. Its
peak memory has pages of these files, which the system drops when others need memory; private memory has none.
"""

import argparse
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import synthetic
from composed import grow, read_csv
from report import Result, in_own_process, number, publish, spread

TITLES = 87_000
LARGE = 100
"""Millions of ratings beyond which a result is kept by itself."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how the cost of tables grows with the ratings.")
    parser.add_argument("--millions", type=float, nargs="+", default=[1, 10, 32])
    parser.add_argument("--tokenizer", default="qwen3")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", type=float, help="GB that the way to tables may use (half of the machine's)")
    parser.add_argument("--data", type=Path, help="where the logs are kept (a temporary folder)")
    parser.add_argument("--spark", help="a Python with pyspark, which groups and sorts the largest log (not compared)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        memory = None if args.memory is None else int(1e9 * args.memory)
        data = args.data or Path(folder)
        rows = list(measured(args.millions, data, args.tokenizer, args.repeats, memory))
        if args.spark is not None:
            rows[-1]["spark"] = spark(args.spark, log_of(data, max(args.millions)) / "ratings.csv", args.repeats)
    title = f"From ratings.csv to ready token datasets, {args.tokenizer}, {TITLES:,} titles"
    results = [Result(title, rows, COLUMNS), Result("Targets", list(targets(rows)), CLAIMS)]
    name = "growth" if max(args.millions) <= LARGE else "growth-large"  # not measured so often
    publish(name, results, as_json=args.json, save=args.save)


def measured(
    millions: list[float], data: Path, tokenizer: str, repeats: int, memory: int | None
) -> Iterator[dict[str, Any]]:
    """One row a size, the smallest first."""
    before: dict[str, Any] | None = None
    for size in sorted(millions):
        log = log_of(data, size)
        if not (log / "ratings.csv").is_file():
            synthetic.write(log, int(size * 1e6), TITLES)
        runs = [in_own_process(grow, str(log), tokenizer, memory) for _ in range(repeats)]
        reading = [in_own_process(read_csv, str(log / "ratings.csv")) for _ in range(repeats)]
        seconds, read = spread([run["seconds"] for run in runs]), spread([seconds for seconds, _ in reading])
        processor = min(run["processor"] for run in runs)
        row = {
            "millions": size,
            **seconds,
            "read_csv": read,
            "times_read_csv": seconds["median"] / read["median"],
            "processor": processor,
            "times_processor": processor / min(used for _, used in reading),
            "peak": max(run["peak"] for run in runs),
            "private": max(run["private"] for run in runs),
            **{name: runs[0][name] for name in ("disk", "samples", "tokens", "unproved")},
        }
        if before is not None:
            more = size - before["millions"]
            row["further"] = {
                name: (row[name] - before[name]) / more for name in ("median", "processor", "private", "disk")
            }
        before = row
        yield row


def log_of(data: Path, millions: float) -> Path:
    """The folder of the log of this size."""
    return data / f"synthetic-{millions:g}m"


def spark(python: str, log: Path, repeats: int) -> float:
    """Median seconds in which Spark groups and sorts a log, without its start."""
    words = [python, str(Path(__file__).with_name("spark_script.py")), str(log)]
    return median(
        float(subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()[-1])
        for _ in range(repeats)
    )


def targets(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """What is claimed of the largest log, and of the cost of a further million ratings from one size to the next."""
    largest = rows[-1]
    yield claim("GB of private memory at most, largest log", largest["private"] / 1e9, 8)
    yield claim("times the time of Polars reading the CSV, largest log", largest["times_read_csv"], 5)
    if "spark" in largest:
        what = f"times Spark's {number(largest['spark'])} s to group and sort alone, largest log"
        yield claim(what, largest["median"] / largest["spark"], 1)
    first, *later = [row["further"] for row in rows if "further" in row] or [None]
    if first is None:  # of one size
        return
    for name, what in (("processor", "processor seconds"), ("private", "memory"), ("disk", "disk")):
        most = max([cost[name] for cost in later], default=first[name]) / first[name]
        yield claim(f"times the {what} of a further million ratings, last step against first", most, 1.3)


def claim(what: str, measured: float, target: float) -> dict[str, Any]:
    """One target, and whether it is met."""
    return {"what": what, "measured": measured, "target": target, "met": measured <= target}


COLUMNS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "ratings": lambda row: f"{row['millions']:g} M",
    "samples": lambda row: f"{row['samples']:,}",
    "tokens": lambda row: f"{row['tokens'] / 1e6:,.0f} M",
    "median (min–max)": lambda row: f"{number(row['median'])} s ({number(row['min'])}–{number(row['max'])})",
    "s a further million": lambda row: number(row["further"]["median"]) if "further" in row else "",
    "Polars read_csv": lambda row: f"{number(row['read_csv']['median'])} s",
    "× read_csv": lambda row: number(row["times_read_csv"]),
    "processor": lambda row: f"{number(row['processor'])} s, {number(row['times_processor'])} ×",
    "peak memory": lambda row: f"{row['peak'] / 1e9:.2f} GB",
    "private memory": lambda row: f"{row['private'] / 1e9:.2f} GB",
    "a further million": lambda row: f"{row['further']['private'] / 1e6:.0f} MB" if "further" in row else "",
    "disk": lambda row: f"{row['disk'] / 1e6:,.0f} MB",
    "a further million on disk": lambda row: f"{row['further']['disk'] / 1e6:.1f} MB" if "further" in row else "",
    "tokenized whole": lambda row: f"{row['unproved']:,}",
}
CLAIMS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "measured": lambda row: number(row["measured"]),
    "what": lambda row: row["what"],
    "target": lambda row: f"≤ {row['target']:g}",
    "met": lambda row: "yes" if row["met"] else "no",
}


if __name__ == "__main__":
    main()
