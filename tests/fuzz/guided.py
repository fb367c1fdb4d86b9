"""Inputs that reach other lines of Palate: atheris (libFuzzer) changes inputs of seeds, and keeps those that do.

    python -m tests.fuzz.guided READER [--minutes 5] [--found FOLDER]

An input is a folder of files as bytes, see `packed`. It begins as one of a seed of `tests/fuzz/readers.py`. It is
changed by libFuzzer's mutations of bytes, by those of `tests/fuzz/mutations.py`, or for the input of another seed. What
becomes of it is judged as that of seeds is (`judged`). The first fault ends the run; its input is kept in FOLDER.
`tests/fuzz/found/` has inputs that once were faults, which `make test` reads.
"""

import argparse
import logging
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.fuzz.case import Case, Fault, Reader
from tests.fuzz.mutations import BYTES, damage_bytes
from tests.fuzz.run import SECONDS, judged

SEEDS = 200
"""Inputs of seeds that a run begins with."""
LONGEST = 1 << 16
"""Bytes of an input."""
FOUND = Path(__file__).parent / "found"
_TRUTH = "truth"
_FIXED = {_TRUTH, "path"}
"""What is not changed: the path of a request is none of any server's paths otherwise."""
_SURE = (".gz", ".bz2", ".xz", ".zip", ".tgz")
"""Packed files with a checksum, of which no other content is read."""


@dataclass(frozen=True)
class Guided:
    """What a run of libFuzzer came to."""

    reader: str
    inputs: int
    seconds: float
    features: int
    """Lines, branches and compared values of Palate that were reached, as libFuzzer counts them."""
    corpus: int
    """Inputs that were kept because each reached another of these."""
    fault: str
    """What was wrong with the last input, and where it is; empty if nothing was."""


def packed(folder: Path, case: Case) -> bytes:
    """The files of an input, and what one of them holds; each with its name and its length."""
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    if case.truth is not None:
        files[_TRUTH] = case.truth
    chosen = "" if case.path == folder else case.path.name
    return b"".join(
        struct.pack("<BI", len(name), len(content)) + name.encode() + content
        for name, content in ((chosen, b""), *files.items())
    )


def unpacked(data: bytes) -> tuple[str, dict[str, bytes]] | None:
    """The file that is read (empty: the folder), and all files; None for bytes that are no input."""
    files, at = [], 0
    while at < len(data):
        if at + 5 > len(data):
            return None
        named, size = struct.unpack_from("<BI", data, at)
        name = data[at + 5 : at + 5 + named].decode("latin-1")
        if not re.fullmatch(r"[\w.-]*", name, re.ASCII) or at + 5 + named + size > len(data):
            return None
        files.append((name, data[at + 5 + named : at + 5 + named + size]))
        at += 5 + named + size
    if not files or files[0][1] or not all(name.strip(".") for name, _ in files[1:]):
        return None
    return files[0][0], dict(files[1:])


def written(data: bytes, folder: Path) -> Case | None:
    """Write an input into an empty folder; None for bytes that are no input."""
    if (found := unpacked(data)) is None:
        return None
    chosen, files = found
    truth = files.pop(_TRUTH, None)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return Case(folder / chosen if chosen else folder, sum(map(len, files.values())), truth)


def seeded(reader: Reader, draw: Random) -> bytes:
    """The input of a seed."""
    with tempfile.TemporaryDirectory() as name:
        return packed(Path(name), reader.make(draw, Path(name)))


def changed(reader: Reader, data: bytes, draw: Random, mutate: Callable[[bytes], bytes]) -> bytes:
    """The input with one file changed by `mutate`, or as files of seeds are; now and then that of a seed."""
    found = unpacked(data)
    if found is None or not (names := sorted(found[1].keys() - _FIXED)) or draw.random() < 0.1:
        return seeded(reader, draw)
    chosen, files = found
    name = draw.choice(names)
    content = files[name]
    content = mutate(content) if draw.random() < 0.6 else damage_bytes(draw, content, BYTES)
    if content != files[name] and not chosen.endswith(_SURE):
        files.pop(_TRUTH, None)
    files[name] = content
    order = ((chosen, b""), *files.items())
    return b"".join(struct.pack("<BI", len(n), len(c)) + n.encode() + c for n, c in order)


def read_again(name: str, data: bytes) -> tuple[str, str, int]:
    """The outcome of an input, what is wrong, and the memory in bytes, as `tests.fuzz.run.read` returns them."""
    with tempfile.TemporaryDirectory(prefix="palate-fuzz-") as folder:
        case = written(data, Path(folder))
        assert case is not None
        logging.disable()  # as in `tests.fuzz.run`
        try:
            return judged(_reader(name), case, zlib.crc32(data))
        finally:
            logging.disable(logging.NOTSET)


def run(name: str, minutes: float, found: Path) -> Guided:
    """Fuzz a reader in a process of its own until the first fault; the input of a fault is written into `found`."""
    with tempfile.TemporaryDirectory(prefix="palate-guided-") as scratch:
        corpus = Path(scratch, "corpus")
        corpus.mkdir()
        reader = _reader(name)
        for seed in range(SEEDS):
            (corpus / str(seed)).write_bytes(seeded(reader, Random(f"{name} {seed}")))
        options = {"max_total_time": round(60 * minutes), "max_len": LONGEST, "timeout": round(SECONDS),
                   "rss_limit_mb": 8192, "print_final_stats": 1, "artifact_prefix": f"{scratch}/"}  # fmt: skip
        words = [sys.executable, "-m", __spec__.name, name, "--child", str(corpus)]
        words += [f"-{option}={value}" for option, value in options.items()]
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
        log = done.stdout + done.stderr
        kept = next((path for path in Path(scratch).iterdir() if path.is_file()), None)
        fault = ""
        if kept is not None:
            found.mkdir(parents=True, exist_ok=True)
            to = found / f"{name.replace(' ', '-')}.{kept.name[-12:]}"
            shutil.copy(kept, to)
            said = re.search(r"^(?:tests\.fuzz\.case\.Fault|Fault): (.*)", log, re.MULTILINE | re.DOTALL)
            fault = f"{kept.name.partition('-')[0]} {said[1][:700] if said else log[-700:]} ({to})"
        elif done.returncode:
            raise RuntimeError(log[-2000:])
        ran = re.findall(r"^#(\d+)\s.*? ft: (\d+) corp: (\d+)", log, re.MULTILINE)
        last = ran[-1] if ran else ("0", "0", "0")
        inputs = re.search(r"number_of_executed_units: (\d+)", log)
        return Guided(name, int(inputs[1] if inputs else last[0]), 60 * minutes, int(last[1]), int(last[2]), fault)


def _reader(name: str) -> Reader:
    from tests.fuzz.faulty import FAULTY_FILE
    from tests.fuzz.readers import READERS

    return {**READERS, "faulty": FAULTY_FILE}[name]


def _child(name: str, options: list[str]) -> None:
    """Fuzz in this process; libFuzzer ends it."""
    import atheris

    logging.disable()
    with atheris.instrument_imports(include=["palate"], enable_loader_override=False):
        reader = _reader(name)
    folder = Path(tempfile.mkdtemp(prefix="palate-fuzz-"))

    def one(data: bytes) -> int:
        shutil.rmtree(folder)
        folder.mkdir()
        case = written(data, folder)
        if case is None:
            return -1  # it is not kept
        _, fault, _ = judged(reader, case, zlib.crc32(data))
        if fault:
            raise Fault(fault)
        return 0

    def mutated(data: bytes, most: int, seed: int) -> bytes:
        return changed(reader, data, Random(seed), lambda content: atheris.Mutate(content, most))[:most]

    atheris.Setup([sys.argv[0], *options], one, custom_mutator=mutated, internal_libfuzzer=True)
    atheris.Fuzz()


def main() -> None:
    """See the head of this module."""
    parser = argparse.ArgumentParser(description="Fuzz a reader, guided by coverage.")
    parser.add_argument("reader")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--found", type=Path, default=FOUND)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args, others = parser.parse_known_args()
    if args.child:
        _child(args.reader, others)
    print(run(args.reader, args.minutes, args.found))


if __name__ == "__main__":
    main()
