"""Damaged inputs of every reader: each is read as a slow reader reads it, or refused in one line.

    python benchmarks/fuzz.py --count 100000 --save      # hours

Exits with 1 and names the seeds for another exception, a crash, a hang, more memory than 20 times the input and 64 MB,
or rows that differ. `tests/fuzz` has the inputs and the slow readers; `python -m tests.fuzz.run READER SEED` reads one
again.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from report import ROOT, Result, number, publish

sys.path.append(str(ROOT))
from tests.fuzz.readers import READERS
from tests.fuzz.run import run


def main() -> None:
    parser = argparse.ArgumentParser(description="Read damaged inputs with every reader.")
    parser.add_argument("--count", type=int, default=1000, help="inputs of each reader (1000)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (0)")
    parser.add_argument("--readers", default=",".join(READERS), help=f"with commas between them ({', '.join(READERS)})")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="of each reader, at most")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    faults: list[str] = []
    for reader in args.readers.split(","):
        (tally,) = run([reader], args.first, args.count, time.monotonic() + 60 * args.minutes)
        new = [f"{reader} {seed}: {fault}" for seed, fault in tally.faults]
        rows.append({"reader": reader, "first": tally.first, "inputs": tally.count, **tally.outcomes,
                     "faults": len(tally.faults), "seconds": tally.seconds, "peak": tally.peak})  # fmt: skip
        print(f"{reader}: {tally.count:,} inputs, {dict(tally.outcomes)}", *new[:20], sep="\n  ", file=sys.stderr)
        faults += new
    publish("fuzz", [Result("damaged inputs", rows, COLUMNS)], as_json=args.json, save=args.save)
    if faults:
        raise SystemExit(f"{len(faults)} faults")


Say = Callable[[Mapping[str, Any]], str]
COLUMNS: Mapping[str, Say] = {
    "reader": lambda row: row["reader"],
    "seeds": lambda row: f"{row['first']:,} to {row['first'] + row['inputs'] - 1:,}",
    "inputs": lambda row: f"{row['inputs']:,}",
    "read": lambda row: f"{row.get('read', 0):,}",
    "refused": lambda row: f"{row.get('refused', 0):,}",
    "faults": lambda row: f"{row['faults']:,}",
    "inputs/s": lambda row: number(row["inputs"] / row["seconds"]),
    "most memory": lambda row: f"{row['peak'] / 1e6:.0f} MB",
}

if __name__ == "__main__":
    main()
