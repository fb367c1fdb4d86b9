"""Checkpoints: which one a run may go on from, and how a run is asked to stop.

A checkpoint is believed if it was marked after its last file was on the disk, the files still have the sizes that
the mark says, and the folder's fingerprint says that model, data and options are those of this run. An older one goes
only when a newer one is marked, and loses its mark first: whenever a process is killed, one that is whole stays.
"""

import logging
import shutil
import signal
import threading
import time
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from palate.store.artifacts import files_of, sync, write_json
from palate.store.keys import damage_in, reason, recorded

log = logging.getLogger(__name__)

FINGERPRINT = "fingerprint.json"
WHOLE = "whole"


def resume_from(folder: Path, fingerprint: Mapping[str, Any]) -> Path | None:
    """The last whole checkpoint of a run with this fingerprint; None to start anew.

    Checkpoints of another run are set aside in a folder beside it, half-written ones removed; the log says why.
    """
    believed = recorded(folder / FINGERPRINT)
    checkpoints = _checkpoints(folder)
    why = reason(believed, fingerprint) if believed else "they do not say what they belong to"
    if checkpoints and why:
        aside = next(p for n in count(1) if not (p := folder.with_name(f"{folder.name}.{n}")).exists())
        folder.rename(aside)
        log.info("training starts over, %s; the checkpoints of before are kept in %s", why, aside)
        checkpoints = []
    for checkpoint in [c for c in checkpoints if not is_whole(c)]:
        log.info("checkpoint %s is half-written and not used", checkpoint)
        discard(checkpoint)
        checkpoints.remove(checkpoint)
    write_json(folder / FINGERPRINT, dict(fingerprint))
    if not checkpoints:
        return None
    log.info("training goes on from %s", checkpoints[-1])
    return checkpoints[-1]


def mark_whole(checkpoint: Path) -> None:
    """Have every file of a checkpoint on the disk, then say so: the mark names them with their sizes."""
    files = {name: path for name, path in files_of(checkpoint).items() if path.name != WHOLE}
    for path in files.values():
        sync(path)
    write_json(checkpoint / WHOLE, {name: path.stat().st_size for name, path in files.items()})
    sync(checkpoint)
    sync(checkpoint.parent)


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was marked and its files are still as large as then."""
    sizes = recorded(checkpoint / WHOLE)
    return bool(sizes) and damage_in(checkpoint, sizes) is None


def discard(checkpoint: Path) -> None:
    """Remove a checkpoint, its mark first: one that is half removed is not believed."""
    (checkpoint / WHOLE).unlink(missing_ok=True)
    shutil.rmtree(checkpoint, ignore_errors=True)


def rotate(folder: Path, limit: int, best: str | None) -> None:
    """Leave the last `limit` checkpoints; of these the place of the oldest goes to the best, if it is older."""
    checkpoints = _checkpoints(folder)
    kept = checkpoints[-limit:]
    best_one = [checkpoint for checkpoint in checkpoints if best is not None and checkpoint.name == Path(best).name]
    if best_one and best_one[0] not in kept:
        kept = best_one + (kept[1:] or kept)
    for checkpoint in checkpoints:
        if checkpoint not in kept:
            discard(checkpoint)


def going_on(folder: Path) -> str:
    """What the same command will do next, in words."""
    whole = [checkpoint for checkpoint in _checkpoints(folder) if is_whole(checkpoint)]
    if not whole:
        return "no checkpoint was written yet: the same command begins anew"
    return f"the last checkpoint is {whole[-1]}: the same command goes on from there"


def _checkpoints(folder: Path) -> list[Path]:
    """All that look like checkpoints, the earliest first."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


class StopRequest:
    """Notes Ctrl-C and SIGTERM, so that work ends after the step at hand; a second one ends it at once.

    A context manager; in other threads than the main one it notes nothing. What comes less than `echo` seconds after
    the first is taken for the same: a launcher passes on what the terminal may have sent to all.
    """

    def __init__(self, echo: float = 0.0) -> None:
        self.signal: str | None = None
        self.echo, self._since = echo, 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            if time.monotonic() - self._since < self.echo:
                return
            raise KeyboardInterrupt
        self._since = time.monotonic()
        self.signal = signal.Signals(number).name
        log.warning("%s: a checkpoint is written after this step; once more ends at once", self.signal)
