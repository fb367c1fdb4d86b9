"""Rounds of faults: a stage runs with a fault at each of its file-system calls, and then again without."""

import errno
import json
import math
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import zip_longest
from pathlib import Path
from typing import Any

from tests.faults.forks import KINDS, Ended, Fault, Forks

CHANGES = ("create", "write", "sync", "close", "name", "remove", "size", "lock", "attribute", "rename")
NAMES = ("create", "name", "rename", "remove", "size", "attribute")
GROWS = ("create", "write", "sync", "name", "rename", "size")
FAULTS: dict[str, Fault] = {
    "kill -9": Fault("kill", kinds=CHANGES),
    "kill -9 of two runs": Fault("kill", kinds=CHANGES, again=True),
    "kill -9 within a write": Fault("tear", kinds=("write",)),
    "kill -9, half of a rename": Fault("tear", kinds=("rename",)),
    "power cut, unsynced bytes lost": Fault("power", kinds=CHANGES),
    "power cut, half of them lost": Fault("power", kinds=("write", "close", "name", "rename"), value=1),
    "short write": Fault("short", kinds=("write",)),
    "short read": Fault("short", kinds=("read",)),
    "ENOSPC": Fault("fail", kinds=GROWS, value=errno.ENOSPC),
    "ENOSPC from then on": Fault("fail", kinds=GROWS, value=errno.ENOSPC, lasting=True),
    "EDQUOT": Fault("fail", kinds=GROWS, value=errno.EDQUOT),
    "EIO": Fault("fail", kinds=tuple(kind for kind in KINDS if kind != "map"), value=errno.EIO),
    "EIO from then on": Fault(
        "fail", kinds=tuple(kind for kind in KINDS if kind != "map"), value=errno.EIO, lasting=True
    ),
    "EACCES": Fault("fail", kinds=("open", "create", "name", "rename", "remove", "attribute"), value=errno.EACCES),
    "EROFS from then on": Fault("fail", kinds=NAMES, value=errno.EROFS, lasting=True),
    "EMFILE": Fault("fail", kinds=("open", "create"), value=errno.EMFILE),
    "EINTR": Fault("fail", kinds=("open", "create", "read", "write"), value=errno.EINTR),
    "ENOMEM": Fault("fail", kinds=("open", "map"), value=errno.ENOMEM),
}
"""By name: what is done at a call, and the kinds of calls to which it can happen."""
FRESH = 100
"""One run of so many meets its fault in a new process, which takes as long as its imports, instead of a fork."""
DEADLY = ("kill", "tear", "power")

Tree = dict[str, bytes]


@dataclass(frozen=True)
class Stage:
    """A command whose input and result lie in one folder."""

    name: str
    words: Callable[[Path], list[str]]
    """The command, for a folder."""
    make: Callable[[Path], None]
    """Writes the input into an empty folder."""
    read: Callable[[Path], Tree] = field(default=lambda root: tree(root))
    """The result by name, without what no two runs have in common."""
    check: Callable[[Path, Ended], str] = lambda root, ended: ""
    """What of the result is wrong after the first run."""
    requests: bool = False
    """Whether each of several requests may report an error."""


@dataclass
class Round:
    """A stage's faults and what came of them."""

    stage: str
    calls: int
    possible: int
    """The number of faults that can be injected."""
    outcomes: dict[str, Counter[str]]
    """By fault: how often the command was killed, reported an error, or was unharmed."""
    wrong: list[str]
    """Each fault after which a promise was not kept."""

    @property
    def faults(self) -> int:
        """The number of injected faults."""
        return sum(counts.total() for counts in self.outcomes.values())


TIMES = {"seconds", "waited", "peak_memory", "resumed_at", "eval_seconds", "train_runtime", "train_samples_per_second",
         "train_steps_per_second", "train_loss", "created", "made"}  # fmt: skip
"""Entries of JSON that no two runs have in common: times, and what a run that goes on does not know."""


def tree(root: Path) -> Tree:
    """Every file and folder below `root` with its bytes; times are left out, and digests, which are of times."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if not name.startswith("cache/digests") and not name.endswith(".speed.json"):
            found[f"{name}/" if path.is_dir() else name] = b"" if path.is_dir() else _timeless(path)
    return found


def _state(root: Path) -> str:
    """A hash of every name, mode and byte below `root` that a run can read: no times, and no random names."""
    found = sha256()
    for path in sorted(root.rglob("*")):
        content = b"" if path.is_dir() else path.read_bytes()
        with suppress(ValueError):  # half of a JSON
            content = b"" if path.is_dir() else _timeless(path)
        found.update(f"{nameless(str(path))} {path.stat().st_mode} {len(content)} ".encode() + content)
    return found.hexdigest()


def nameless(path: str) -> str:
    """A path without random names, and without those of digests, which are of times."""
    return re.sub(r"\.(partial|replaced)-[^/]+|\.tmp\w+|(?<=digests/).*", "", path)


def _timeless(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix == ".log":
        return b""
    if path.name == "report.html":
        return re.sub(rb'class="n seconds">[^<]+', b"", content)
    if path.name in ("entry.json", "training.json", "training_log.jsonl", "trainer_state.json"):
        for text in content.splitlines() if path.suffix == ".jsonl" else (content,):
            content = content.replace(text, json.dumps(_without(json.loads(text)), sort_keys=True).encode())
    return content


def _without(value: Any) -> Any:
    if isinstance(value, list):
        return [_without(each) for each in value]
    return {k: _without(v) for k, v in value.items() if k not in TIMES} if isinstance(value, dict) else value


class Runner:
    """Runs a stage in the folder of `forks`."""

    def __init__(self, stage: Stage, forks: Forks) -> None:
        self.stage, self.forks, self.root = stage, forks, forks.root
        self.words = stage.words(self.root)
        self.healed: set[str] = set()
        """What faults left, as `_state` has it, of which a second run made the right result; it is not run twice."""
        self.template = forks.folder / f"{stage.name}-template"
        shutil.rmtree(self.template, ignore_errors=True)
        self.reset(made=False)
        stage.make(self.root)
        shutil.copytree(self.root, self.template, symlinks=True)
        forks.learn(self.words)
        self.calls = self.traced()
        self.clean = stage.read(self.root)

    def traced(self, *, fresh: bool = False) -> list[tuple[str, str]]:
        """The kind, as its bit, and the path of each call of an undisturbed run, in a fork or a `fresh` process."""
        self.reset()
        trace = self.forks.folder / "trace"
        done = self.forks.run(self.words, trace=trace, fresh=fresh)
        assert done.status == 0, done.stderr
        lines = trace.read_text(errors="replace").splitlines()
        return [(kind, path) for kind, _, path in (line.partition(" ") for line in lines)]

    def reset(self, *, made: bool = True) -> None:
        """An empty folder, or the stage's input alone."""
        shutil.rmtree(self.root, ignore_errors=True)
        if made:
            shutil.copytree(self.template, self.root, symlinks=True)
        else:
            self.root.mkdir()

    def faults(self) -> list[tuple[str, Fault]]:
        """Every fault at every call to which it can happen, in turn of each kind; the first are spread over all."""
        kinds = [KINDS[int(bit).bit_length() - 1] for bit, _ in self.calls]
        found = []
        for name, fault in FAULTS.items():
            places = _spread([number for number, kind in enumerate(kinds, 1) if kind in fault.kinds])
            found.append([(name, fault._replace(at=number)) for number in places])
        return [each for turn in zip_longest(*found) for each in turn if each is not None]

    def outcome(self, fault: Fault, *, fresh: bool = False) -> tuple[str, str]:
        """What came of a fault, in a fork or in a `fresh` process, and which promise was not kept, if one was not."""
        self.reset()
        first = self.forks.run(self.words, fault, fresh=fresh)
        met, why = self._first(first, fault)
        why = why or self.stage.check(self.root, first)
        if fault.again and not why:
            second = self.forks.run(self.words, fault)
            why = self._first(second, fault)[1] or self.stage.check(self.root, second)
        if why or (first.status == 0 and not difference(self.clean, self.stage.read(self.root))):
            return met, why  # what a second run makes of a right result is known
        before = _state(self.root)
        if before in self.healed:
            return met, ""
        again = self.forks.run(self.words)
        if again.status != 0:
            return met, f"the second run ends with {again.status}: {last(again)}"
        why = difference(self.clean, self.stage.read(self.root))
        if not why:
            self.healed.add(before)
        return met, why

    def _first(self, ended: Ended, fault: Fault) -> tuple[str, str]:
        if ended.status is None:
            return "hung", "the first run hangs"
        if ended.status == -signal.SIGKILL and fault.action in DEADLY:
            return "killed", ""
        if "Traceback" in ended.stderr:
            return "failed", f"a traceback: {last(ended)}"
        if ended.status == 0:
            found = self.stage.read(self.root)  # with what a disk that turned read-only did not let it remove
            what = difference(self.clean, {name: found[name] for name in self.clean if name in found})
            return "unharmed" if ended.fired else "not met", what and f"exit code 0, but {what}"
        errors = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
        many = self.stage.requests and len(errors) > 1
        if (
            ended.status not in (1, 2)
            or (len(errors) != 1 and not many)
            or ended.stderr.splitlines()[-1:] != errors[-1:]
        ):
            return "failed", f"exit code {ended.status}, {len(errors)} error lines: {ended.stderr[-500:]!r}"
        if str(self.root) not in errors[0]:
            return "failed", f"no place is named: {errors[0]}"
        return "reported", ""


def last(ended: Ended) -> str:
    """The last line that a command printed to stderr."""
    return (ended.stderr.splitlines() or [""])[-1]


def difference(clean: Tree, found: Tree) -> str:
    """The first few differences between two results, in words; empty if there is none."""
    names = [name for name in sorted({*clean, *found}) if clean.get(name) != found.get(name)]
    how = [f"{n} {'is missing' if n not in found else 'is left' if n not in clean else 'differs'}" for n in names]
    return ", ".join(how[:4])


def _spread(numbers: list[int]) -> list[int]:
    """In another order, of which every beginning is spread evenly: by the reversed bits of each place."""
    bits = len(numbers).bit_length()
    order = sorted(range(len(numbers)), key=lambda n: f"{n:0{bits}b}"[::-1])
    return [numbers[n] for n in order]


def run_round(
    runner: Runner,
    first: int = 0,
    most: int | None = None,
    minutes: float = math.inf,
    tell: Callable[[str], Any] = lambda _: None,
) -> Round:
    """Run a stage with the faults from number `first` to `most`, or every fault at every call, in the time there is."""
    stage, forks = runner.stage, runner.forks
    for fresh in (False, True) if first == 0 else (False,):
        again = runner.traced(fresh=fresh)
        assert unnamed(again) == unnamed(runner.calls), "the calls of two runs differ"
        assert not difference(runner.clean, stage.read(forks.root)), difference(runner.clean, stage.read(forks.root))
    every, end = runner.faults(), time.monotonic() + 60 * minutes
    found = Round(stage.name, len(runner.calls), len(every), {}, [])
    with suppress(KeyboardInterrupt):  # what came of the others is kept
        for n, (name, fault) in enumerate(every[first:most], first):
            if time.monotonic() > end:
                break
            met, why = runner.outcome(fault, fresh=n % FRESH == FRESH - 1)
            found.outcomes.setdefault(name, Counter())[met] += 1
            if why:
                found.wrong.append(f"{stage.name}, {name} at call {fault.at} {runner.calls[fault.at - 1]}: {why}")
                tell(found.wrong[-1])
            if n % 100 == 99:
                tell(f"{stage.name}: {n + 1} of {len(every[:most])}")
    return found


def unnamed(calls: list[tuple[str, str]]) -> Counter[tuple[str, str]]:
    """Calls without random names, order (threads take turns) and the log, whose lines of progress depend on time."""
    return Counter((kind, nameless(path)) for kind, path in calls if not path.endswith("/run.log"))
