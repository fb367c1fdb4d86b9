"""Damaged inputs of every reader: each is read as a slow reader reads it, or refused in one line.

    python benchmarks/fuzz.py --count 100000 --more --save      # hours, in several sittings with --minutes
    python benchmarks/fuzz.py --guided 5 --more --save          # five minutes a reader, with atheris

Exits with 1 and names the seeds for another exception, a crash, a hang, more memory than 20 times the input and 64 MB,
or rows that differ. `tests/fuzz` has the inputs and the slow readers; `python -m tests.fuzz.run READER SEED` reads one
again. Several sittings read at several commits: the one named below the tables is the last.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from report import RESULTS, ROOT, Result, cores, number, publish

os.environ.setdefault("POLARS_MAX_THREADS", "1")  # of each process: inputs are tiny, and other processes have work
sys.path.append(str(ROOT))
from tests.fuzz import guided
from tests.fuzz.readers import READERS
from tests.fuzz.run import run

SEEDS, GUIDED = "damaged inputs", "inputs guided by coverage"
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description="Read damaged inputs with every reader.")
    parser.add_argument("--count", type=int, default=1000, help="inputs of each reader (1000)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (0)")
    parser.add_argument("--more", action="store_true", help="add to the kept result, up to --count inputs in all")
    parser.add_argument("--readers", default=",".join(READERS), help=f"with commas between them ({', '.join(READERS)})")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="of each reader, at most")
    parser.add_argument("--guided", type=float, help="instead of seeds: minutes of libFuzzer for each reader")
    parser.add_argument("--processes", type=int, default=cores(), help="readers at a time (one a core)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    args = parser.parse_args()
    file = RESULTS / "fuzz.json"
    results = json.loads(file.read_text())["results"] if args.more and file.is_file() else []
    kept = {each["title"]: {row["reader"]: row for row in each["rows"]} for each in results}
    seeds, guided_rows = kept.get(SEEDS, {}), kept.get(GUIDED, {})

    def one(reader: str) -> tuple[Row, list[str]]:
        if args.guided is not None:
            return _guided(reader, args.guided)
        row = seeds.get(reader) or {"reader": reader, "first": args.first, "inputs": 0}
        return _more(row, args.count - row["inputs"], time.monotonic() + 60 * args.minutes)

    faults: list[str] = []
    try:
        with ThreadPoolExecutor(args.processes) as pool:
            for row, found in pool.map(one, args.readers.split(",")):
                (seeds if args.guided is None else guided_rows)[row["reader"]] = row
                print(f"{row['reader']}: {row['inputs']:,} inputs", *found[:20], sep="\n  ", file=sys.stderr)
                faults += found
    finally:  # what was read counts, also if the user stops it
        tables = [(SEEDS, seeds, COLUMNS), (GUIDED, guided_rows, GUIDED_COLUMNS)]
        shown = [Result(title, [*rows.values()], columns) for title, rows, columns in tables if rows]
        publish("fuzz", shown, as_json=args.json, save=args.save)
    if faults:
        raise SystemExit(f"{len(faults)} faults")


def _more(row: Row, count: int, stop_at: float) -> tuple[Row, list[str]]:
    """The row with the next inputs of a reader, and their faults; with some it stays, so that they are read again."""
    (tally,) = run([row["reader"]], row["first"] + row["inputs"], count, stop_at)
    if tally.faults:
        return row, [f"{row['reader']} {seed}: {fault}" for seed, fault in tally.faults]
    found = {"inputs": tally.count, "read": 0, "refused": 0, "seconds": tally.seconds, "timed": tally.count,
             **tally.outcomes}  # fmt: skip
    summed = {name: row.get(name, 0) + value for name, value in found.items()}
    return {**row, **summed, "peak": max(row.get("peak", 0), tally.peak)}, []


def _guided(reader: str, minutes: float) -> tuple[Row, list[str]]:
    found = guided.run(reader, minutes, guided.FOUND)
    return asdict(found), [f"{reader}: {found.fault}"] if found.fault else []


Say = Callable[[Mapping[str, Any]], str]
COLUMNS: Mapping[str, Say] = {
    "reader": lambda row: row["reader"],
    "seeds": lambda row: f"{row['first']:,} to {row['first'] + row['inputs'] - 1:,}",
    "inputs": lambda row: f"{row['inputs']:,}",
    "read": lambda row: f"{row.get('read', 0):,}",
    "refused": lambda row: f"{row.get('refused', 0):,}",
    "inputs a processor second": lambda row: number(row["timed"] / row["seconds"]) if row.get("seconds") else "–",
    "most memory": lambda row: f"{row.get('peak', 0) / 1e6:.0f} MB",
}
GUIDED_COLUMNS: Mapping[str, Say] = {
    "reader": lambda row: row["reader"],
    "inputs": lambda row: f"{row['inputs']:,}",
    "minutes": lambda row: number(row["seconds"] / 60),
    "kept, as they reach other lines": lambda row: f"{row['corpus']:,}",
    "lines and branches": lambda row: f"{row['features']:,}",
    "fault": lambda row: row["fault"] or "none",
}

if __name__ == "__main__":
    main()
