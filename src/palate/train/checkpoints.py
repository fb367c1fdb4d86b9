"""Checkpoints: which one a run may go on from, and how a run is asked to stop.

A checkpoint is believed if it was marked after its last file was written, and if the folder's fingerprint
says that model, data and options are those of this run.
"""

import json
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

from palate.artifacts import write_json

log = logging.getLogger(__name__)

FINGERPRINT = "fingerprint.json"
WHOLE = "whole"


def resume_from(folder: Path, fingerprint: Mapping[str, Any]) -> Path | None:
    """The last whole checkpoint of a run with this fingerprint; None to start anew.

    Checkpoints of another run are set aside in a folder beside it, half-written ones removed; the log says why.
    """
    believed = _read(folder / FINGERPRINT)
    checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2]))
    if checkpoints and believed != fingerprint:
        keys = believed.keys() | fingerprint.keys()
        changed = sorted(key for key in keys if believed.get(key) != fingerprint.get(key))
        why = f"{', '.join(changed)} changed" if believed else "they do not say what they belong to"
        aside = next(p for n in count(1) if not (p := folder.with_name(f"{folder.name}.{n}")).exists())
        folder.rename(aside)
        log.info("training starts over, %s; the checkpoints of before are kept in %s", why, aside)
        checkpoints = []
    for checkpoint in [c for c in checkpoints if not (c / WHOLE).is_file()]:
        log.info("checkpoint %s is half-written and not used", checkpoint)
        shutil.rmtree(checkpoint)
        checkpoints.remove(checkpoint)
    write_json(folder / FINGERPRINT, dict(fingerprint))
    if not checkpoints:
        return None
    log.info("training goes on from %s", checkpoints[-1])
    return checkpoints[-1]


def mark_whole(checkpoint: Path) -> None:
    """Say that every file of a checkpoint is written."""
    (checkpoint / WHOLE).touch()


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


class StopRequest:
    """Notes Ctrl-C and SIGTERM, so that work ends after the step at hand; a second Ctrl-C ends it at once.

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
        log.warning("%s: a checkpoint is written after this step", self.signal)
