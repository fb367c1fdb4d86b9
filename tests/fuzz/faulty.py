"""A reader with every kind of fault, which tests the runner."""

import os
import signal
import time
from pathlib import Path
from random import Random

from tests.fuzz.case import Case, Outcome, Reader


def _make(draw: Random, folder: Path) -> Case:
    return Case(folder, 100)


def _check(case: Case, seed: int) -> Outcome:
    match seed:
        case 1:
            raise ValueError("a traceback")
        case 2:
            time.sleep(60)
        case 3:
            os.kill(os.getpid(), signal.SIGKILL)
        case 4:
            bytearray(200 << 20)
        case 5:
            os.write(2, b"a panic")
    return "read"


def _make_file(draw: Random, folder: Path) -> Case:
    (folder / "input").write_bytes(b"1")
    return Case(folder / "input", 1)


def _check_file(case: Case, seed: int) -> Outcome:
    if b"!" in case.path.read_bytes():
        raise ValueError("a traceback")
    return "read"


FAULTY = Reader(_make, _check)
FAULTY_FILE = Reader(_make_file, _check_file)
