"""Read the inputs of many seeds in processes of their own: a crash, a hang, and memory are seen with the seed."""

import faulthandler
import logging
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
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.case import Case, Fault, Reader

SECONDS = 20.0
"""Longest time of an input."""
TIMES, SPARE = 20, 64 << 20
"""Memory that an input may take: `TIMES` its bytes, and `SPARE` for libraries and buffers."""
BATCH = 5000
_MOST = 8 << 30
"""Bytes of addresses that a process may have, so that the machine survives an input that asks for all memory."""


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
    """Processor seconds, but for the first input of a process, which imports."""
    peak: int = 0
    """The most memory that an input took, bytes."""


def run(readers: Sequence[str], first: int, count: int, stop_at: float = float("inf")) -> list[Tally]:
    """Read the inputs of the seeds from `first` on; ends early at `stop_at` seconds of the monotonic clock."""
    inputs = [(reader, seed) for reader in readers for seed in range(first, first + count)]
    tallies, at = {reader: Tally(reader, first) for reader in readers}, 0
    while at < len(inputs) and time.monotonic() < stop_at:
        at += _batch(tallies, inputs[at : at + BATCH], stop_at)
    return list(tallies.values())


def _batch(tallies: Mapping[str, Tally], inputs: Sequence[tuple[str, int]], stop_at: float) -> int:
    """Read some inputs in a process; how many, with one that stopped the process or was stopped."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    folder = tempfile.mkdtemp(prefix="palate-fuzz-", dir=_fast_folder())
    process = context.Process(target=_read_all, args=(inputs, folder, send))
    process.start()
    send.close()
    patience, began = 120.0, 0.0  # the process imports first
    try:
        for done, (reader, seed) in enumerate(inputs, 1):
            tally = tallies[reader]
            tally.count += 1
            try:
                if not receive.poll(patience):
                    tally.faults.append((seed, f"takes more than {patience:.0f} s"))
                    return done
                (outcome, fault, memory), ended = receive.recv()
            except (EOFError, ConnectionResetError):
                process.join()
                if process.exitcode == 1:  # Python's own: the readers catch what an input causes
                    raise RuntimeError("the process failed") from None
                tally.faults.append((seed, f"ended the process with {process.exitcode}"))
                return done
            patience = SECONDS
            tally.outcomes[outcome] += 1
            tally.peak = max(tally.peak, memory)
            tally.seconds, began = tally.seconds + (ended - began if done > 1 else 0), ended
            if fault:
                tally.faults.append((seed, fault))
            if time.monotonic() > stop_at:
                return done
        return len(inputs)
    finally:
        process.kill()
        process.join()
        receive.close()
        shutil.rmtree(folder, ignore_errors=True)


def _read_all(inputs: Sequence[tuple[str, int]], scratch: str, send: Any) -> None:
    faulthandler.enable()
    logging.disable()  # what a reader says of a file is not what a library prints
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (_MOST, _MOST))
    tempfile.tempdir = scratch
    os.environ["PALATE_CACHE_DIR"] = f"{scratch}/cache"
    for reader, seed in inputs:
        outcome = read(reader, seed, Path(scratch) / "input")
        send.send((outcome, time.process_time()))


def read(reader: str, seed: int, folder: Path) -> tuple[str, str, int]:
    """Read the input of a seed in this process: the outcome, what is wrong, and the memory in bytes."""
    from tests.fuzz.bombs import BOMBS, SLOW
    from tests.fuzz.faulty import FAULTY
    from tests.fuzz.readers import READERS

    of = {**READERS, **BOMBS, **SLOW, "faulty": FAULTY}[reader]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return judged(of, of.make(Random(f"{reader} {seed}"), folder), seed)


def judged(of: Reader, case: Case, seed: int) -> tuple[str, str, int]:
    """Read an input in this process: the outcome, what is wrong, and the memory in bytes."""
    before = _reset_peak()
    with tempfile.TemporaryFile() as captured, _stderr_to(captured.fileno()):
        outcome, fault = "fault", ""
        try:
            outcome = of.check(case, seed)
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
    (tally,) = run([reader], int(first), int(count[0]) if count else 1)
    for seed, fault in tally.faults[:40]:
        print(f"{seed}: {fault[:700]}")
    print(tally.reader, tally.count, dict(tally.outcomes), f"{tally.seconds:.1f} s, peak {tally.peak / 2**20:.1f} MB")


if __name__ == "__main__":
    main(sys.argv[1:])
