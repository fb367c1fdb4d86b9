"""Connects to a Ray cluster, and brings its processes to where this one works."""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from palate.config import EngineConfig
from palate.console import RUN, about, log
from palate.errors import InputError, WorkError, first_line

DEATHS = 3
"""Ended processes after which a piece of work is given up."""
_PASSED = ("PALATE_", "HF_", "TRANSFORMERS_", "TOKENIZERS_", "OMP_", "MKL_", "PYTORCH_")
_SECRET = ("KEY", "TOKEN")


def connect(engine: EngineConfig) -> Any:
    """The module `ray`, connected: to `engine.address`, else to this machine's cluster, else to a new one.

    Raises `InputError` without Ray, and for an address at which no cluster can be used from this machine.
    """
    try:
        import ray
    except ModuleNotFoundError:
        raise InputError("Ray is not installed, expected it: pip install 'palate[ray]'", "--engine ray") from None
    if ray.is_initialized():
        return ray
    if (engine.address or "").startswith("ray://"):
        raise InputError(
            f"is {engine.address!r}, expected HOST:PORT of a cluster to which this machine belongs", "--address"
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(engine.address, logging_level="ERROR", include_dashboard=None if engine.address else False)
    except Exception as error:  # a node that does not start, on a full disk say, is a bare `Exception` of Ray's
        place = f"at {engine.address}" if engine.address else "on this machine"
        raise InputError(f"there is no Ray cluster {place}: {first_line(error)}", "--address") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray's own would end this process without its last line
    return ray


def slots(ray: Any, engine: EngineConfig) -> tuple[int, dict[str, float]]:
    """How many processes the cluster has room for, and what each takes of a node.

    One for each GPU; on a cluster without any, one for every `engine.cpus` CPUs: by default those of its smallest node.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    cores = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
    each = engine.cpus or (1 if gpus else min(cores, default=1))
    room = gpus or sum(count // each for count in cores)
    if not (engine.workers or room):
        raise InputError(f"is {each}, more than any node of the cluster has, expected a smaller number", "engine.cpus")
    return engine.workers or room, {"num_cpus": each, **({"num_gpus": 1} if gpus else {})}


@dataclass(frozen=True)
class Place:
    """The folder and the environment of the process that made it."""

    folder: Path = field(default_factory=Path.cwd)
    environment: dict[str, str] = field(
        default_factory=lambda: {
            name: value
            for name, value in (os.environ | {RUN: about.get("run", "")}).items()
            if name.startswith(_PASSED) and not name.endswith(_SECRET)
        }
    )

    def enter(self) -> None:
        """Take both over in a process of the cluster, before it imports torch; raises `InputError` for no folder."""
        os.environ.update(self.environment)
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
        try:
            os.chdir(self.folder)
        except OSError as error:
            raise InputError(f"cannot be entered ({error.strerror}), expected a folder that all nodes see",
                             self.folder) from None  # fmt: skip


def on_node(ray: Any, error: InputError) -> InputError:
    """The error with the node on which it came up."""
    return InputError(f"{error.message} (on node {ray.util.get_node_ip_address()})", error.place, error.line)


@contextmanager
def work_errors(ray: Any, what: str) -> Iterator[None]:
    """Raise what a task raised, and `WorkError` for a task whose process ended `DEATHS` times."""
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        raise (error.cause or error) from None
    except ray.exceptions.RayError as error:
        why = f"{DEATHS} processes of the Ray cluster ended during {what}, the last with: {first_line(error)}"
        raise WorkError(why) from error


def ended(what: str, error: BaseException) -> None:
    """Log that a process or its node ended."""
    log.warning("%s ended (%s): another one takes over its work", what, first_line(error))
