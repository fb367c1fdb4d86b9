"""The processes of a run: which one this is, and how they wait for each other.

`torchrun`, `accelerate launch` and `palate train --launch` start the same command once for each device and say so in
the environment. The first process writes what a run leaves; the others read it, and keep silent.
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
"""Names, to a process that `palate train --launch` started, the pipe that tells when its launcher is gone."""
PATIENCE = timedelta(days=7)
"""How long processes wait for one that prepares data, or for each other at a step."""
LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Connection refused",
    "recvValue failed",
)
"""What gloo and the store say when another process is gone."""

Sharding = Literal["fsdp2", "zero1", "zero2", "zero3"]


@dataclass(frozen=True)
class Processes:
    """This process among `world`. Made by `join`."""

    rank: int = 0
    local_rank: int = 0
    """Among those of this machine."""
    world: int = 1
    group: Any = None
    """A gloo group beside the one that trains: waiting in it neither uses a GPU nor runs into NCCL's timeout."""
    store: Any = None

    @property
    def is_first(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0

    def wait(self) -> None:
        """Go on when all processes have come here."""
        if self.group is not None:
            import torch

            torch.distributed.barrier(group=self.group)

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Let the first process go ahead, then the first of each machine, then the others: they find what was made."""
        turn = 0 if self.rank == 0 else 1 if self.local_rank == 0 else 2
        for _ in range(turn):
            self.wait()
        yield
        for _ in range(3 - turn):  # nobody goes on before all have what they need
            self.wait()

    def first(self, do: Callable[[], T]) -> T:
        """What `do` gives on the first process, where alone it is called."""
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

        found = torch.tensor(int(flag))
        torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX, group=self.group)
        return bool(found)


def launched() -> bool:
    """Whether a launcher started this process, perhaps as the only one."""
    return {"RANK", "WORLD_SIZE", "LOCAL_RANK"} <= os.environ.keys()


def place() -> Processes:
    """What the environment says of this process; asks no other."""
    if not launched():
        return Processes()
    try:
        rank, local, world = (int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
    except ValueError:
        raise InputError("is not a number, expected what torchrun sets", "RANK, LOCAL_RANK, WORLD_SIZE") from None
    return Processes(rank, local, world)


def sharding() -> Sharding | None:
    """What accelerate is told to spread over the devices beside the samples; None: each device has all of the model."""
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        return "fsdp2"
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
        named: dict[str, Sharding] = {"1": "zero1", "2": "zero2", "3": "zero3"}
        return named.get(stage, "zero2")
    return None


@cache
def join() -> Processes:
    """Meet the other processes of this run; alone, where no launcher started more than one.

    Raises `InputError` for more processes than GPUs, and for options of accelerate that cannot be kept.
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
        raise InputError(f"more processes than this machine's {gpus} GPUs, expected one for each at most", "--launch")
    if LAUNCHER in os.environ:
        threading.Thread(target=_end_with, args=(int(os.environ[LAUNCHER]),), daemon=True).start()
    with quiet():
        PartialState(cpu=not torch.cuda.is_available())
        group = torch.distributed.new_group(backend="gloo", timeout=PATIENCE)
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = torch.distributed.TCPStore(host, port, is_master=False, timeout=timedelta(seconds=10))
    return Processes(here.rank, here.local_rank, here.world, group, store)


def leave() -> None:
    """Part in peace: all processes are done."""
    if join.cache_info().currsize and join().group is not None:
        import torch

        join().wait()
        torch.distributed.destroy_process_group()


def ends(code: int) -> tuple[bool, int]:
    """Say that this process ends badly; gives whether it is the one to tell why, and the code to exit with.

    What ends one process ends all, and is told once: by the first that met it. The others exit with its code.
    """
    here = place()
    if here.world == 1:
        return True, code
    if not join.cache_info().currsize:  # all processes read the same options and files; other machines may not
        return here.local_rank == 0, code
    prefix = f"palate/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/ended"
    try:
        store = join().store
        if store.add(prefix, 1) == 1:
            store.set(prefix + "/code", str(code))
            return True, code
        return False, int(store.get(prefix + "/code"))
    except RuntimeError:  # the first process holds the store, and has ended
        return here.rank == 0, code


def lost_another(error: BaseException) -> bool:
    """Whether an error says no more than that another process has ended."""
    return place().world > 1 and any(text in str(error) for text in LOST)


def _check_options() -> None:
    """Refuse what would train something else than one process does, or fail after the model is loaded."""
    if sharding() == "fsdp2":
        if os.environ.get("FSDP_VERSION", "1") != "2":
            raise InputError("is not 2, which is the one that adapters are trained with", "fsdp_version")
        if os.environ.get("FSDP_CPU_RAM_EFFICIENT_LOADING", "false").lower() == "true":
            raise InputError(
                "is true, expected false: every process proves its attention on weights that it has loaded",
                "fsdp_cpu_ram_efficient_loading",
            )
        if os.environ.get("FSDP_STATE_DICT_TYPE", "SHARDED_STATE_DICT") != "FULL_STATE_DICT":
            raise InputError(
                "is not FULL_STATE_DICT, with which a run goes on on any number of devices", "fsdp_state_dict_type"
            )


def _end_with(pipe: int) -> None:
    """Ask this process to stop when its launcher has died, however it died: nobody else would."""
    with contextlib.suppress(OSError):
        os.read(pipe, 1)
    os.kill(os.getpid(), signal.SIGTERM)
