"""Runs commands in forks of a process that has imported everything, each with a fault in its file-system calls.

LD_PRELOAD=faults.so python tests/faults/forks.py ROOT       # reads jobs as lines of JSON, answers each with a line
LD_PRELOAD=faults.so python tests/faults/forks.py ROOT JOB   # does one
"""

import ctypes
import gc
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from palate.cli import main

ROOT = Path(__file__).parents[2]
LONGEST = 300.0
"""Seconds after which a command counts as hung."""
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
"""Where folders are in memory, so that a disk that is slow to sync does not count; None: where temporary files are."""
KINDS = ("look", "open", "create", "read", "write", "sync", "close", "name", "remove", "size", "lock", "attribute",
         "rename", "map")  # fmt: skip
"""Kinds of calls; the place of each is its bit in `faults.c`."""
ACTIONS = ("none", "kill", "fail", "short", "tear", "power", "clock", "stop")


class Fault(NamedTuple):
    """What is done to the first call from number `at` on whose kind is in `kinds`; if `lasting` to each later one."""

    action: str
    at: int = 1
    kinds: Sequence[str] = KINDS
    value: int = 0
    """`fail`: the error's number; `power`: 1 if half of what was not synced is there; `clock`: seconds."""
    lasting: bool = False
    below: str = ""
    """The folder in the root below which calls count."""
    again: bool = False
    """Whether the second run meets it, too."""


class Ended(NamedTuple):
    """How a command ended: its exit code, less than 0 for a signal, None if it hung; what it printed."""

    status: int | None
    stdout: str
    stderr: str
    fired: bool
    """Whether the fault was met."""


def why_not() -> str | None:
    """Why no faults can be injected here; None if they can."""
    if sys.platform != "linux":
        return "faults are injected with LD_PRELOAD, on Linux"
    return None if shutil.which("cc") else "there is no C compiler `cc`"


def compiled(folder: Path) -> Path:
    """The injector's library."""
    library = folder / "faults.so"
    source = Path(__file__).with_name("faults.c")
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl", "-lpthread"], check=True)
    return library


class Forks:
    """A server of forks whose faults are met below `root`; a context manager."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="forks-", dir=MEMORY)
        self.folder = Path(self._folder.name)
        self.root = root = self.folder / "root"
        alone = dict.fromkeys(("OMP", "OPENBLAS", "RAYON", "NUMBA"), "1")
        environment = {
            **os.environ,
            **{f"{name}_NUM_THREADS": one for name, one in alone.items()},
            "POLARS_MAX_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "HOME": str(self.folder),
            "PALATE_CACHE_DIR": str(root / "cache"),
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
            "LD_PRELOAD": str(compiled(self.folder)),
        }
        words = [sys.executable, __file__, str(root)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._server = subprocess.Popen(words, env=environment, **pipes)
        self._number, self._lock = 0, threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None) -> None:
        self._server.communicate(timeout=60)
        self._folder.cleanup()

    def _ask(self, **job: Any) -> Any:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        answer = self._server.stdout.readline()
        if not answer:
            raise RuntimeError("the server of forks has ended")
        return json.loads(answer)

    def learn(self, words: Sequence[str]) -> None:
        """Run a command, and import what it imported, so that the next forks need not."""
        child = self.start(words)
        modules = child[1].with_suffix(".modules")
        ended = self._ask(wait=child[0])
        assert ended == 0, child[1].with_suffix(".err").read_text()
        self._ask(modules=modules.read_text().split())

    def start(
        self, words: Sequence[str], fault: Fault | None = None, trace: Path | None = None, fresh: bool = False
    ) -> tuple[int, Path]:
        """Begin a command, a word `MODULE:FUNCTION` is called with the others; with `trace` a file lists the calls.

        A `fresh` one is a new process rather than a fork.
        """
        self._number += 1
        out = self.folder / str(self._number)
        for name in ("out", "err"):  # a test may look into them before the fork has begun
            out.with_suffix(f".{name}").touch()
        job = {"words": [*words], "fault": fault, "out": str(out), "trace": trace and str(trace), "fresh": fresh}
        return self._ask(start=job), out

    def end(self, child: tuple[int, Path]) -> Ended:
        """Wait for a command."""
        pid, out = child
        status = self._ask(wait=pid)
        texts = [out.with_suffix(f".{name}").read_text(errors="replace") for name in ("out", "err")]
        fired = out.with_suffix(".fired").is_file() or status == -signal.SIGKILL
        for path in self.folder.glob(f"{out.name}.*"):
            path.unlink()
        return Ended(status, texts[0], texts[1], fired)

    def run(
        self, words: Sequence[str], fault: Fault | None = None, trace: Path | None = None, fresh: bool = False
    ) -> Ended:
        """Run a command, as `start` begins it."""
        return self.end(self.start(words, fault, trace, fresh))


def state(pid: int) -> str:
    """A process' state, such as `T` for one that is stopped; empty if there is none."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def _serve(root: str) -> None:
    for line in sys.stdin:
        job, answer = json.loads(line), None
        if "start" in job:
            answer = _started(job["start"], root)
        elif "wait" in job:
            answer = _waited(job["wait"])
        else:
            _warm(job["modules"], root)
        print(json.dumps(answer), flush=True)


def _warm(modules: Sequence[str], root: str) -> None:
    """Import modules, and compute what they compute once in a process; reads no file of the stage, starts no thread."""
    for name in modules:
        with suppress(ImportError):
            import_module(name)
    if "numba" in sys.modules:
        from numba.core.registry import cpu_target

        cpu_target.typing_context.refresh()
        cpu_target.target_context.refresh()
    if "transformers.conversion_mapping" in sys.modules:
        from transformers.conversion_mapping import get_checkpoint_conversion_mapping

        get_checkpoint_conversion_mapping("")
    if "jinja2" in sys.modules:
        from jinja2 import Environment, FileSystemBytecodeCache

        begin = Environment.__init__
        *others, _, last = begin.__defaults__ or ()  # the last but one is `bytecode_cache`
        begin.__defaults__ = (*others, FileSystemBytecodeCache(str(Path(root).parent)), last)
    gc.collect()
    gc.freeze()


def _started(job: dict[str, Any], root: str) -> int:
    child = os.fork()
    if child == 0:
        status = 70
        try:
            if job["fresh"]:
                os.execv(sys.executable, [sys.executable, __file__, root, json.dumps(job)])
            status = _child(job, root)
        finally:
            os._exit(status)
    return child


def _waited(child: int) -> int | None:
    timer = threading.Timer(LONGEST, os.kill, (child, signal.SIGABRT))
    timer.start()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    timer.cancel()
    return None if status == -signal.SIGABRT else status


def _child(job: dict[str, Any], root: str) -> int:
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{job['out']}.{name}", os.O_WRONLY | os.O_CREAT), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(Path(root).parent)
    trace = os.open(job["trace"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC) if job["trace"] else -1
    library, fault = ctypes.CDLL(None), Fault(*job["fault"] or ("none",))
    bits = sum(1 << KINDS.index(kind) for kind in fault.kinds)
    what, at, value = ACTIONS.index(fault.action), ctypes.c_long(fault.at), ctypes.c_long(fault.value)
    library.faults_arm(os.fsencode(Path(root, fault.below)), what, bits, at, value, int(fault.lasting), trace)
    words = job["words"]
    module, _, name = words[0].partition(":")
    try:
        status = int(getattr(import_module(module), name)(*words[1:]) if name else main(words))
    except SystemExit as stop:
        status = int(stop.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if fault.action == "none":
        Path(f"{job['out']}.modules").write_text("\n".join(sorted(sys.modules)))
    if library.faults_fired():
        Path(f"{job['out']}.fired").touch()
    return status


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit(_child(json.loads(sys.argv[2]), sys.argv[1]))
    _serve(sys.argv[1])
