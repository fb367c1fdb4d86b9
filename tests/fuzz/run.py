"""Read the inputs of many seeds in processes of their own: a crash, a hang, and memory are seen with the seed."""

import faulthandler
import multiprocessing
import os
import re
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

SECONDS = 20.0
"""Longest time of an input."""
TIMES, SPARE = 20, 64 << 20
"""Memory that an input may take: `TIMES` its bytes, and `SPARE` for libraries and buffers."""
BATCH = 5000
_MEMORY = 8 << 30


@dataclass
class Tally:
    """What became of the inputs of a reader."""

    reader: str
    first: int
    count: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[tuple[int, str]] = field(default_factory=list)
    """Seeds, and what was wrong."""
    seconds: float = 0.0
    peak: int = 0
    """The most memory that an input took, bytes."""


def run(reader: str, first: int, count: int, stop_at: float = float("inf")) -> Tally:
    """Read the inputs of the seeds from `first` on; ends early at `stop_at` seconds of the monotonic clock."""
    tally, begin, end = Tally(reader, first), time.monotonic(), first + count
    seed = first
    while seed < end and time.monotonic() < stop_at:
        last = min(seed + BATCH, end)
        seed = _batch(tally, reader, seed, last)
    tally.count, tally.seconds = seed - first, time.monotonic() - begin
    return tally


def _batch(tally: Tally, reader: str, first: int, last: int) -> int:
    """Read some seeds in a process; the next seed, behind one that ended or stopped the process."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    folder = tempfile.mkdtemp(prefix="palate-fuzz-", dir=_fast_folder())
    process = context.Process(target=_read_all, args=(reader, first, last, folder, send))
    process.start()
    send.close()
    seed, patience = first, 120.0  # the process imports first
    try:
        while seed < last:
            try:
                if not receive.poll(patience):
                    process.kill()
                    tally.faults.append((seed, f"takes more than {patience:.0f} s"))
                    return seed + 1
                done, outcome, fault, memory = receive.recv()
            except (EOFError, ConnectionResetError):
                process.join()
                tally.faults.append((seed, f"ended the process with {process.exitcode}"))
                return seed + 1
            patience = SECONDS
            seed = done + 1
            tally.outcomes[outcome] += 1
            tally.peak = max(tally.peak, memory)
            if fault:
                tally.faults.append((done, fault))
        return last
    finally:
        process.join(10)
        process.kill()
        receive.close()
        shutil.rmtree(folder, ignore_errors=True)


def _read_all(reader: str, first: int, last: int, scratch: str, send: Any) -> None:
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    tempfile.tempdir = scratch
    os.environ["PALATE_CACHE_DIR"] = f"{scratch}/cache"
    folder = Path(scratch) / "input"
    for seed in range(first, last):
        send.send((seed, *read(reader, seed, folder)))


def read(reader: str, seed: int, folder: Path) -> tuple[str, str, int]:
    """Read the input of a seed in this process: the outcome, what is wrong, and the memory in bytes."""
    from tests.fuzz.readers import READERS, Fault

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    case = READERS[reader].make(Random(f"{reader} {seed}"), folder)
    before = _reset_peak()
    with tempfile.TemporaryFile() as captured, _stderr_to(captured.fileno()):
        outcome, fault = "fault", ""
        try:
            outcome = READERS[reader].check(case, seed)
        except Fault as error:
            fault = str(error)
        except BaseException as error:
            fault = f"{type(error).__name__}: {error}\n{''.join(traceback.format_tb(error.__traceback__)[-3:])}"
        captured.seek(0)
        printed = captured.read(1000).decode(errors="replace")
    if printed.strip() and not fault:
        outcome, fault = "fault", f"printed {printed!r}"
    memory = max(0, _peak() - before)
    if memory > TIMES * case.size + SPARE and not fault:
        outcome, fault = "fault", f"took {memory / 2**20:.0f} MB for {case.size:,} bytes"
    return outcome, fault, memory


@contextmanager
def _stderr_to(descriptor: int) -> Any:
    """What is printed to the error stream meanwhile goes to a file."""
    sys.stderr.flush()
    own = os.dup(2)
    os.dup2(descriptor, 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(own, 2)
        os.close(own)


def _reset_peak() -> int:
    """The resident memory now, from where the peak begins anew."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(name: str) -> int:
    found = re.search(rf"{name}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(found[1]) if found else 0


def _fast_folder() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def main(arguments: Sequence[str]) -> None:
    """Read one input again, or a range: `python -m tests.fuzz.run READER FIRST [COUNT]`."""
    reader, first, *count = arguments
    tally = run(reader, int(first), int(count[0]) if count else 1)
    for seed, fault in tally.faults[:40]:
        print(f"{seed}: {fault[:700]}")
    print(tally.reader, tally.count, dict(tally.outcomes), f"{tally.seconds:.1f} s, peak {tally.peak / 2**20:.1f} MB")


if __name__ == "__main__":
    main(sys.argv[1:])
