"""What the benchmarks have in common: the machine, a clock, tables, and the results that are kept."""

import json
import multiprocessing
import os
import platform
import re
import resource
import shlex
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
LOAD = os.getloadavg()[0]
"""What else the machine did when the benchmark began."""
PACKAGES = ("numpy", "polars", "tokenizers", "torch", "transformers", "peft", "datasets", "trl")

T = TypeVar("T")


@dataclass
class Work:
    """What a stretch of work took: seconds, and the process' highest memory until its end, in bytes."""

    seconds: float = 0.0
    peak: int = 0
    processor: float = 0.0
    """Seconds of all threads."""


@contextmanager
def clock() -> Iterator[Work]:
    """Time what stands inside."""
    work = Work()
    start, processor = time.perf_counter(), time.process_time()
    yield work
    work.seconds, work.processor = time.perf_counter() - start, time.process_time() - processor
    work.peak = python_peak()


@contextmanager
def private_memory(every: float = 0.02) -> Iterator[list[int]]:
    """The highest private memory of this process meanwhile, as the one element of a list; bytes, no pages of files."""
    peak, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(every):
            now = re.search(r"RssAnon:\s*(\d+) kB", Path("/proc/self/status").read_text())
            assert now is not None
            peak[0] = max(peak[0], 1024 * int(now[1]))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        ended.set()
        watcher.join()


def python_peak() -> int:
    """The highest resident memory that this process, or any one worker that it started and has ended, had; bytes.

    Read from VmHWM: `ru_maxrss` would count what the parent had when it started this process.
    """
    own = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert own is not None
    return 1024 * max(int(own[1]), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)


def in_own_process(step: Callable[..., T], *args: Any) -> T:
    """Call a module's function in a fresh Python, so that memory and warm caches are its own."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(send, step, args))
    process.start()
    send.close()
    try:
        result: T = receive.recv()
    except EOFError:
        raise SystemExit(f"{step.__name__} failed") from None
    finally:
        process.join()
    return result


def _send(send: Any, step: Callable[..., Any], args: Sequence[Any]) -> None:
    send.send(step(*args))


def machine() -> dict[str, str]:
    """Where, with what, on which code and by which command figures were measured."""
    info = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*:\s*(.*)", info)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    script = Path(sys.argv[0]).resolve()
    return {
        "cpu": model[1] if model else platform.machine(),
        "cores": str(cores()),
        "memory": f"{memory / 2**30:.0f} GiB",
        "load": f"{LOAD:.1f}",
        "python": platform.python_version(),
        **{name: version for name in PACKAGES if (version := _version(name)) is not None},
        "date": date.today().isoformat(),
        "commit": _git("rev-parse", "--short", "HEAD") + ("+" if _git("status", "--porcelain", "-uno") else ""),
        "command": shlex.join(["python", str(script.relative_to(ROOT)), *sys.argv[1:]]),
    }


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Median, minimum and maximum of repeated measurements."""
    return {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)}


def number(value: float) -> str:
    """A measured value with the three digits that it is good for."""
    return f"{float(f'{value:.3g}'):,g}"


def said(seconds: Sequence[float]) -> str:
    """Repeated measurements in words: "1.23 s (1.2–1.31)"."""
    between = f" ({number(min(seconds))}–{number(max(seconds))})" if len(seconds) > 1 else ""
    return f"{number(statistics.median(seconds))} s{between}"


class Result(NamedTuple):
    """A table of measurements; `columns` maps a heading to what it says of a row."""

    title: str
    rows: Sequence[Mapping[str, Any]]
    columns: Mapping[str, Callable[[Mapping[str, Any]], str]]

    def cells(self) -> list[list[str]]:
        """The table's body."""
        return [[say(row) for say in self.columns.values()] for row in self.rows]


def publish(name: str, results: Sequence[Result], *, as_json: bool, save: bool) -> None:
    """Print results as tables, or as JSON; with `save` keep both in `benchmarks/results/`."""
    where = machine()
    measured = [{"title": result.title, "rows": result.rows} for result in results]
    data = json.dumps({"machine": where, "results": measured}, ensure_ascii=False, indent=2)
    if as_json:
        print(data)
    else:
        console = Console(width=None if sys.stdout.isatty() else 160)
        for result in results:
            table = Table(*result.columns, title=result.title)
            for line in result.cells():
                table.add_row(*line)
            console.print(table)
        console.print(_line(where), highlight=False, style="dim")
    if save:
        RESULTS.mkdir(exist_ok=True)
        text = ""
        for result in results:
            lines = [[*result.columns], ["---" for _ in result.columns], *result.cells()]
            text += f"# {result.title}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines) + "\n"
        (RESULTS / f"{name}.json").write_text(data + "\n", encoding="utf-8")
        (RESULTS / f"{name}.md").write_text(f"{text}{_line(where)}\n", encoding="utf-8")


def _line(where: Mapping[str, str]) -> str:
    versions = ", ".join(f"{name} {where[name]}" for name in ("python", *PACKAGES) if name in where)
    return (
        f"{where['cpu']}, {where['cores']} cores, {where['memory']}, load {where['load']} before; {versions}; "
        f"{where['date']}, commit {where['commit']}: `{where['command']}`"
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # on a machine lent for its GPU, say
        return None


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()
