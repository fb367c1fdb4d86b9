"""Starts a command once for each device of this machine; reports one error and one exit code."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from palate.config import read_mapping
from palate.console import RUN, about
from palate.errors import InputError, WorkError, first_line
from palate.train.processes import LAUNCHER

GRACE = 20.0
"""Seconds that the other processes get to end after one has failed."""


def launch(words: Sequence[str], processes: int, accelerate_config: Path | None = None) -> int:
    """Run `palate WORDS` in `processes` processes; returns the exit code of the first that failed, or 0.

    Ctrl-C and SIGTERM are forwarded: the processes agree on a step, write one checkpoint, and end. They share this
    process's stdout and stderr. `accelerate_config` is a file as `accelerate config` writes it.

    Raises `InputError` for a file that accelerate rejects, `WorkError` if a process was killed.
    """
    if processes < 1:
        raise InputError(f"is {processes}, expected at least 1 process", "--launch")
    port = _free_port()
    environment = {**os.environ, **(accelerate_environment(accelerate_config, processes) if accelerate_config else {})}
    # With a thread per core in every process, the processes would compete for the cores.
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    # Where one process fails, torch would print a stack trace for each that waited for it.
    environment.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    read, write = os.pipe()
    children: list[subprocess.Popen[bytes]] = []
    try:
        with _passing_on(children) as passed:
            for rank in range(processes):
                place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
                where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, LAUNCHER: read, RUN: about["run"]}
                # In its own session a child gets Ctrl-C once: forwarded, not from the terminal too.
                child = subprocess.Popen(
                    [sys.executable, "-m", "palate", *words],
                    env=environment | {name: str(value) for name, value in {**place, **where}.items()},
                    pass_fds=(read,),
                    start_new_session=True,
                )
                children.append(child)
            codes = _wait(children)
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
        os.close(read)
        os.close(write)
    return _outcome(codes, passed)


def accelerate_environment(config: Path, processes: int) -> dict[str, str]:
    """The environment variables that `accelerate launch` sets for a config file, on one machine."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

    if not config.is_file():
        raise InputError("not found, expected a file of `accelerate config`", config)
    if config.suffix != ".json":
        read_mapping(config)  # of accelerate's own errors some have no line, or none of these classes
    words = ["--config_file", str(config), "--num_processes", str(processes), "--main_process_port", "0", "palate"]
    try:
        args, defaults, _ = _validate_launch_command(launch_command_parser().parse_args(words))
        if (args.num_machines or 1) > 1:
            raise InputError("configures several machines, expected `accelerate launch` on each of them", config)
        args.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config or ())
        environment = prepare_deepspeed_cmd_env(args)[1] if args.use_deepspeed else prepare_multi_gpu_env(args)
    except (ValueError, TypeError, KeyError, AttributeError) as error:  # its loader checks little
        raise InputError(f"accelerate rejects it: {first_line(error)}", config) from error
    return {name: value for name, value in environment.items() if os.environ.get(name) != value}


class _Passed:
    """The last forwarded signal."""

    signal: int | None = None


@contextmanager
def _passing_on(children: Sequence["subprocess.Popen[bytes]"]) -> Iterator[_Passed]:
    passed = _Passed()

    def note(number: int, frame: Any) -> None:
        passed.signal = number
        for child in children:
            child.send_signal(number)  # no effect on a child that has ended

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield passed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(children: Sequence["subprocess.Popen[bytes]"]) -> Mapping[int, int]:
    """The exit codes by rank, in order of exit; kills the rest `GRACE` seconds after a failure."""
    codes: dict[int, int] = {}
    last: float | None = None
    while len(codes) < len(children):
        for rank, child in enumerate(children):
            code = child.poll()
            if code is None or rank in codes:
                continue
            codes[rank] = code
            if code != 0 and last is None:
                last = time.monotonic() + GRACE
        if last is not None and time.monotonic() > last:
            for rank, child in enumerate(children):
                if rank not in codes:
                    child.kill()
                    child.wait()
                    codes[rank] = 0  # another one failed
        time.sleep(0.05)
    return codes


def _outcome(codes: Mapping[int, int], passed: _Passed) -> int:
    failed = [code for code in codes.values() if code > 0]
    killed = next(((rank, -code) for rank, code in codes.items() if code < 0), None)
    if killed is not None and killed[1] == passed.signal:  # no training to finish: the default handler ran
        return 128 + killed[1]
    if killed is not None:
        name = signal.Signals(killed[1]).name
        hint = ": the system may have run out of memory" if name == "SIGKILL" else ""
        raise WorkError(f"process {killed[0]} of {len(codes)} was ended by {name}{hint}")
    return failed[0] if failed else 0


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
