"""Trains a run in several legs, each a forked process that may kill or signal itself at a chosen place.

A place is a pattern and which of its matches is meant. It is looked for in what the run does to its folder, such as
`os.rename …/whole`, as Python tells it just before it is done, and in `evaluate`, the beginning of an evaluation.
"""

import json
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
LOUD = {"os.rename", "os.remove", "os.mkdir", "os.rmdir"}


def watch(folder: str, seen: Callable[[str], None]) -> None:
    """Tell each change of the folder before it happens, and each evaluation."""
    from palate.train import answers

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(args[0], (str, os.PathLike)) and (args[2] or 0) & WRITES:
            path = os.fspath(args[0])
        elif event in LOUD and isinstance(args[0], (str, os.PathLike)):
            path = os.fspath(args[1 if event == "os.rename" else 0])
            if not os.path.isabs(path):  # relative to an open folder, as shutil.rmtree removes files
                path = f"{folder}…/{path}"
        else:
            return
        if str(path).startswith(folder):
            seen(f"{event} {str(path).removeprefix(folder)}")

    within = answers.without_dropout

    def without_dropout(model: Any) -> Any:
        seen("evaluate")
        return within(model)

    answers.without_dropout = without_dropout
    sys.addaudithook(hook)


def leg(config: dict[str, Any], place: tuple[str, int] | None, number: int, log: Path) -> None:
    """One leg of a run, in this process."""
    from palate.commands.train import train
    from palate.config import Config
    from palate.errors import PalateError

    found = 0

    def seen(what: str) -> None:
        nonlocal found
        with log.open("a") as file:
            file.write(what + "\n")
        if place is not None and re.search(place[0], what):
            found += 1
            if found == place[1]:
                os.kill(os.getpid(), number)

    whole = Config.model_validate(config)
    watch(f"{whole.run_path}/", seen)
    try:
        train(whole)
    except PalateError as error:
        print(f"error: {error}", file=sys.stderr)
        os._exit(error.exit_code)
    except KeyboardInterrupt:
        os._exit(99)


def main() -> None:
    """Read a list of legs, run each in a fork of this process, and print how each ended and what it left."""
    # All that takes long to load; nothing is computed before the fork, so that no thread is lost by it.
    import peft
    import torch
    import transformers

    import palate.commands.train
    import palate.train.answers
    import palate.train.finetune
    import palate.train.report  # noqa: F401

    torch.set_num_threads(1)
    assert peft
    assert transformers
    told = []
    for one in json.load(sys.stdin):
        log = Path(one["log"])
        log.write_text("")
        child = os.fork()
        if child == 0:
            try:
                leg(one["config"], one["place"], one["signal"], log)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(70)
            sys.stderr.flush()
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        run = Path(one["config"]["run_dir"])
        checkpoints = sorted(p.parent.name for p in run.glob("checkpoints/checkpoint-*/whole"))
        told.append({"status": status, "whole": checkpoints, "adapter": (run / "adapter").is_dir()})
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    main()
