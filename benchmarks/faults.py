"""Faults in the file-system calls of commands: the error line of each, and the result of the next run.

    python benchmarks/faults.py --save                              # hours: every fault at every call of every stage
    python benchmarks/faults.py train --most 1000 --minutes 5 --save --more   # goes on behind the kept faults

A stage runs with one fault (kill -9, a power cut, a full disk, an I/O error, a short write, …) at one of its calls,
and then again without (`tests/faults/`). Ends with 1 if a promise is not kept: one plain error line that names the
place, nothing half-written read, nothing left behind, and the bytes of an undisturbed run.
"""

import argparse
import json
import math
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from report import RESULTS, ROOT, Result, publish

sys.path.append(str(ROOT))

from tests.faults.forks import Forks, why_not
from tests.faults.rounds import Round, Runner, run_round
from tests.faults.stages import STAGES


def main() -> None:
    stages = {stage.name: stage for stage in STAGES}
    parser = argparse.ArgumentParser(description="Inject faults into the file-system calls of commands.")
    parser.add_argument("stages", nargs="*", help=f"some of {', '.join(stages)} (all); NAME=N: at most N faults")
    parser.add_argument("--most", type=int, help="faults of a stage, drawn evenly among their kinds (all)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="time for the faults of a stage (no limit)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    parser.add_argument("--more", action="store_true", help="go on behind the faults of the kept result, and add to it")
    args = parser.parse_args()
    if (reason := why_not()) is not None:
        raise SystemExit(reason)
    for number in (signal.SIGINT, signal.SIGTERM):  # a background job ignores the first
        signal.signal(number, signal.default_int_handler)
    rows, kinds = (_kept(0), _kept(1)) if args.save or args.more else ([], [])
    wrong = []
    for name, _, most in (each.partition("=") for each in args.stages or stages):
        began = time.monotonic()
        with Forks() as forks:
            runner = Runner(stages[name], forks)
            before = [row for row in rows if args.more and row["stage"] == name]
            # Faults at other calls do not add up, nor those that the program did not survive before it was mended.
            before = [row for row in before if row["possible"] == len(runner.faults()) and not row["not kept"]]
            first = sum(row["faults"] for row in before)
            found = run_round(runner, first, int(most) if most else args.most, args.minutes, _tell)
        now = _row(found, time.monotonic() - began)
        if args.save:
            rows, kinds = _kept(0), _kept(1)  # another process may have added its stages
        now |= {key: now[key] + before[0][key] for key in SUMS if before}
        counted = [{"stage": name, "fault": fault, **counts} for fault, counts in found.outcomes.items()]
        counted = _added([row for row in kinds if row["stage"] == name] if before else [], counted)
        rows = [*(row for row in rows if row["stage"] != name), now]
        kinds = [*(row for row in kinds if row["stage"] != name), *counted]
        wrong += found.wrong
        if args.save:  # each stage takes long
            publish("faults", _results(rows, kinds), as_json=args.json, save=True)
    if not args.save:
        publish("faults", _results(rows, kinds), as_json=args.json, save=False)
    if wrong:
        raise SystemExit(f"{len(wrong)} promises were not kept")


def _results(rows: list[dict[str, Any]], kinds: list[dict[str, Any]]) -> list[Result]:
    return [Result("faults in file-system calls", rows, ROUNDS), Result("by kind", kinds, KINDS)]


def _kept(number: int) -> list[dict[str, Any]]:
    """The rows of a table of the kept result."""
    kept = RESULTS / "faults.json"
    return json.loads(kept.read_text())["results"][number]["rows"] if kept.is_file() else []


def _added(before: list[dict[str, Any]], now: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The outcomes by fault of two rounds of a stage."""
    counts = {row["fault"]: dict(row) for row in before}
    for row in now:
        into = counts.setdefault(row["fault"], {"stage": row["stage"], "fault": row["fault"]})
        for name in row.keys() - {"stage", "fault"}:
            into[name] = into.get(name, 0) + row[name]
    return list(counts.values())


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _row(found: Round, seconds: float) -> dict[str, Any]:
    totals = sum(found.outcomes.values(), Counter())
    return {"stage": found.stage, "calls": found.calls, "possible": found.possible, "faults": found.faults,
            **{name: totals[name] for name in OUTCOMES}, "not kept": len(found.wrong), "seconds": seconds}  # fmt: skip


OUTCOMES = ("killed", "reported", "unharmed")
SUMS = ("faults", *OUTCOMES, "not kept", "seconds")


def _count(name: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda row: f"{row.get(name, 0):,}"


ROUNDS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "stage": lambda row: row["stage"],
    **{name: _count(name) for name in ("calls", "possible", "faults", *OUTCOMES, "not kept")},
    "took": lambda row: f"{row['seconds'] / 60:.0f} min",
}
KINDS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "stage": lambda row: row["stage"],
    "fault": lambda row: row["fault"],
    **{name: _count(name) for name in OUTCOMES},
}

if __name__ == "__main__":
    main()
