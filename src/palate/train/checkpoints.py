"""Checkpoints: from which one a run resumes, and how a signal stops a run.

A run resumes from a checkpoint on three conditions: the checkpoint is marked (after its last file was synced to the
disk), its files still have the sizes in the mark, and the folder's fingerprint equals this run's model, data and
options. An older checkpoint is removed, its mark first, only after a newer one is marked: a process killed at any time
leaves a complete one.
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

from palate.errors import WorkError, first_line
from palate.store.artifacts import files_of, sync, write_json
from palate.store.keys import damage_in, reason, recorded

log = logging.getLogger(__name__)

FINGERPRINT = "fingerprint.json"
WHOLE = "whole"


def resume_from(folder: Path, fingerprint: Mapping[str, Any]) -> Path | None:
    """The last complete checkpoint of a run with this fingerprint; None if there is none.

    Moves checkpoints of another run to a folder beside it and removes incomplete ones; logs the reason.
    """
    stored = recorded(folder / FINGERPRINT)
    checkpoints = _checkpoints(folder)
    why = reason(stored, fingerprint) if stored else f"the checkpoints have no {FINGERPRINT}"
    if checkpoints and why:
        aside = next(p for n in count(1) if not (p := folder.with_name(f"{folder.name}.{n}")).exists())
        folder.rename(aside)
        log.info("training starts over: %s; moved the earlier checkpoints to %s", why, aside)
        checkpoints = []
    whole = [checkpoint for checkpoint in checkpoints if is_whole(checkpoint)]
    for checkpoint in checkpoints:
        if checkpoint not in whole:
            log.info("removed the incomplete checkpoint %s", checkpoint)
            discard(checkpoint)
    write_json(folder / FINGERPRINT, dict(fingerprint))
    if not whole:
        return None
    log.info("training resumes from %s", whole[-1])
    return whole[-1]


def mark_whole(checkpoint: Path) -> None:
    """Sync every file of a checkpoint to the disk, then write the mark: their names and sizes."""
    files = {name: path for name, path in files_of(checkpoint).items() if path.name != WHOLE}
    for path in files.values():
        sync(path)
    write_json(checkpoint / WHOLE, {name: path.stat().st_size for name, path in files.items()})
    sync(checkpoint)
    sync(checkpoint.parent)


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint has a mark and its files have the sizes in it."""
    sizes = recorded(checkpoint / WHOLE)
    return bool(sizes) and damage_in(checkpoint, sizes) is None


def discard(checkpoint: Path) -> None:
    """Remove a checkpoint, its mark first, so that no run resumes from a half-removed one."""
    (checkpoint / WHOLE).unlink(missing_ok=True)
    shutil.rmtree(checkpoint, ignore_errors=True)


def rotate(folder: Path, limit: int, best: str | None) -> None:
    """Keep the last `limit` checkpoints; an older best one takes the place of the oldest of them."""
    checkpoints = _checkpoints(folder)
    kept = checkpoints[-limit:]
    older = [checkpoint for checkpoint in checkpoints[:-limit] if best and checkpoint.name == Path(best).name]
    kept = older + (kept[1:] or kept) if older else kept
    for checkpoint in checkpoints:
        if checkpoint not in kept:
            discard(checkpoint)


def going_on(folder: Path) -> str:
    """What the same command will do next, for an error message."""
    whole = [checkpoint for checkpoint in _checkpoints(folder) if is_whole(checkpoint)]
    if not whole:
        return "there is no checkpoint yet: the same command starts over"
    return f"the last checkpoint is {whole[-1]}: the same command resumes from it"


def unwritten(checkpoint: Path, error: Exception) -> WorkError | None:
    """Remove an incomplete checkpoint; returns an error with the reason, None for a complete one."""
    if not checkpoint.is_dir() or is_whole(checkpoint):
        return None
    discard(checkpoint)  # the space is needed
    cause: BaseException | None = error
    while cause is not None and not (isinstance(cause, OSError) and cause.strerror):
        cause = cause.__cause__ or cause.__context__
    reason = str(cause.strerror) if isinstance(cause, OSError) else first_line(error)
    if cause is None and ("space left" in reason or "unexpected pos" in reason):  # safetensors, torch
        reason = "the disk is full"
    free = shutil.disk_usage(checkpoint.parent).free / 1e6
    return WorkError(f"{checkpoint}: cannot be written: {reason} ({free:,.0f} MB free); {going_on(checkpoint.parent)}")


def _checkpoints(folder: Path) -> list[Path]:
    """All checkpoint folders, the earliest first."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


class StopRequest:
    """Records Ctrl-C and SIGTERM, so that training ends after the current step; a second signal ends it at once.

    A context manager; it has no effect outside the main thread. A signal less than `echo` seconds after the first
    counts as the same: a launcher may forward a signal that the terminal has sent to all processes.
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
        log.warning("%s: stopping after this step with a checkpoint; repeat to stop at once", self.signal)
