"""The processes of a run: the rank of this one, and how they synchronize.

`torchrun`, `accelerate launch` and `palate train --launch` start the same command once for each device and set its rank
in the environment. The first process writes the run's files and the log; the others read the files.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, Literal, TypeVar

from palate.errors import InputError

T = TypeVar("T")

LAUNCHER = "PALATE_LAUNCHER"
"""Environment variable of `palate train --launch`: a pipe that closes when the launcher dies."""
PATIENCE = timedelta(days=7)
"""Timeout of a process that waits for data or for the others' step."""
LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Connection refused",
    "recvValue failed",
)
"""Errors of gloo and of the store after another process has ended."""

Sharding = Literal["fsdp2", "zero1", "zero2", "zero3"]


@dataclass(frozen=True)
class Processes:
    """One of `world` processes; `join` makes it."""

    rank: int = 0
    local_rank: int = 0
    """The rank on this machine."""
    world: int = 1
    group: Any = None
    """A gloo group beside the training group: a wait in it needs no GPU and has no NCCL timeout."""
    store: Any = None

    @property
    def is_first(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0

    def wait(self) -> None:
        """Block until all processes have called this."""
        if self.group is not None:
            import torch

            torch.distributed.barrier(group=self.group)

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Run the block on the first process, then on the first of each machine, then on the others.

        Later processes find the files of earlier ones.
        """
        turn = 0 if self.rank == 0 else 1 if self.local_rank == 0 else 2
        for _ in range(turn):
            self.wait()
        yield
        for _ in range(3 - turn):  # all leave together, with every file written
            self.wait()

    def first(self, do: Callable[[], T]) -> T:
        """Call `do` on the first process only; return its result on all."""
        value = [do() if self.is_first else None]
        if self.group is not None:
            import torch

            torch.distributed.broadcast_object_list(value, src=0, group=self.group)
        return value[0]  # type: ignore[return-value]

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set on any process."""
        if self.group is None:
            return flag
        import torch

        largest = torch.tensor(int(flag))
        torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX, group=self.group)
        return bool(largest)


def launched() -> bool:
    """Whether a launcher started this process."""
    return {"RANK", "WORLD_SIZE", "LOCAL_RANK"} <= os.environ.keys()


def place() -> Processes:
    """Read this process's ranks from the environment, without any communication."""
    if not launched():
        return Processes()
    ranks = {name: os.environ[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    for name, text in ranks.items():
        if not text.isdecimal():
            raise InputError(f"is {text!r}, expected a whole number, as torchrun sets it", name)
    return Processes(*map(int, ranks.values()))


def sharding() -> Sharding | None:
    """How accelerate shards the model over the devices; None: every device holds the whole model."""
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        return "fsdp2"
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
        named: dict[str, Sharding] = {"1": "zero1", "2": "zero2", "3": "zero3"}
        return named.get(stage, "zero2")
    return None


@cache
def join() -> Processes:
    """Connect to the other processes of this run, if a launcher started several.

    Raises `InputError` for more processes than GPUs, and for unsupported options of accelerate.
    """
    here = place()
    if here.world == 1:
        return here
    import torch
    from accelerate import PartialState

    from palate.models.load import quiet

    _check_options()
    gpus = torch.cuda.device_count()
    if torch.cuda.is_available() and here.local_rank >= gpus:
        option = "--launch" if LAUNCHER in os.environ else "LOCAL_RANK"
        raise InputError(f"more processes than GPUs on this machine ({gpus}), expected one for each at most", option)
    if LAUNCHER in os.environ:
        threading.Thread(target=_end_with, args=(int(os.environ[LAUNCHER]),), daemon=True).start()
    with quiet():
        PartialState(cpu=not torch.cuda.is_available())
        group = torch.distributed.new_group(backend="gloo", timeout=PATIENCE)
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = torch.distributed.TCPStore(host, port, is_master=False, timeout=timedelta(seconds=10))
    return Processes(here.rank, here.local_rank, here.world, group, store)


def leave() -> None:
    """Wait for the other processes and close the connection to them."""
    if join.cache_info().currsize and join().group is not None:
        import torch

        join().wait()
        torch.distributed.destroy_process_group()


def ends(code: int) -> tuple[bool, int]:
    """Record that this process failed; returns whether it reports the error, and its exit code.

    Only the first process that fails reports its error. The others exit with the same code.
    """
    here = place()
    if here.world == 1:
        return True, code
    store = join().store if join.cache_info().currsize else None
    if store is None:  # all processes read the same options and files; other machines may not
        return here.local_rank == 0, code
    prefix = f"palate/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/ended"
    try:
        if store.add(prefix, 1) == 1:
            store.set(prefix + "/code", str(code))
            return True, code
        return False, int(store.get(prefix + "/code"))
    except RuntimeError:  # the first process holds the store, and has ended
        return here.rank == 0, code


def lost_another(error: BaseException) -> bool:
    """Whether an error only follows from the end of another process."""
    return place().world > 1 and any(text in str(error) for text in LOST)


def _check_options() -> None:
    """Raise `InputError` for options of FSDP that change the result, or that fail only after the model is loaded."""
    if sharding() == "fsdp2":
        if (version := os.environ.get("FSDP_VERSION", "1")) != "2":
            raise InputError(f"is {version}, expected 2: adapters are trained with FSDP 2 only", "fsdp_version")
        if os.environ.get("FSDP_CPU_RAM_EFFICIENT_LOADING", "false").lower() == "true":
            raise InputError(
                "is true, expected false: every process tests its attention on the loaded weights",
                "fsdp_cpu_ram_efficient_loading",
            )
        if (kind := os.environ.get("FSDP_STATE_DICT_TYPE", "SHARDED_STATE_DICT")) != "FULL_STATE_DICT":
            raise InputError(
                f"is {kind}, expected FULL_STATE_DICT: a run must resume on any number of devices",
                "fsdp_state_dict_type",
            )


def _end_with(pipe: int) -> None:
    """Send this process SIGTERM when its launcher dies, even by SIGKILL."""
    with contextlib.suppress(OSError):
        os.read(pipe, 1)
    os.kill(os.getpid(), signal.SIGTERM)
