"""Small inputs that ask for much: each is refused, or read, in the time and the memory of any other."""

import gzip
import io
import zipfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
from tests.fuzz.bodies import check_body
from tests.fuzz.case import Case, Fault, Outcome, Reader, refusal
from tests.fuzz.configs import check_config

from palate.config import load_config
from palate.errors import PalateError
from palate.ratings.load import load_ratings

HEAD = b"userId,movieId,rating,timestamp\n"
MEGABYTE = 1 << 20


def _log(name: str, parts: Callable[[], Iterable[bytes]]) -> Reader:
    """A log in one file of some parts."""

    def make(draw: Random, folder: Path) -> Case:
        with (folder / name).open("wb") as file:
            for part in parts():
                file.write(part)
            return Case(folder / name, file.tell())

    return Reader(make, _check_log)


def _check_log(case: Case, seed: int) -> Outcome:
    try:
        found = load_ratings(str(case.path), untitled="id")
    except PalateError as error:
        return refusal(error, case.path.parent)
    raise Fault(f"was read: {found.frame}")


def _zipped(inner: bytes, times: int) -> Iterable[bytes]:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as members, members.open("ratings.csv", "w") as member:
        for _ in range(times):
            member.write(inner)
    yield file.getvalue()


def _many_rows(rows: int) -> Iterable[bytes]:
    """A Parquet file of three rows whose footer says that they are many."""
    file = io.BytesIO()
    pq.write_table(pa.table({"user": [1, 2, 3], "item": [4, 5, 6], "rating": [1.0, 2.0, 3.0], "time": [7, 8, 9]}), file)
    content = file.getvalue()
    size = int.from_bytes(content[-8:-4], "little")
    number, varint = 2 * rows, b""  # zigzag
    while number:
        varint += bytes([number & 127 | (128 if number > 127 else 0)])
        number >>= 7
    footer = content[-8 - size : -8].replace(b"\x16\x06", b"\x16" + varint)
    yield content[: -8 - size] + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def _config(text: bytes) -> Reader:
    def make(draw: Random, folder: Path) -> Case:
        (folder / "config.yaml").write_bytes(text)
        return Case(folder / "config.yaml", len(text))

    return Reader(make, check_config)


def _line(candidate: str) -> Reader:
    """A prompt whose candidate line is this one, filled with a film."""
    return Reader(_config(f"prompt: {{candidate_line: '{candidate}'}}".encode()).make, _check_line)


def _check_line(case: Case, seed: int) -> Outcome:
    try:
        line = load_config(case.path).prompt.candidate({"title": "Heat", "item_mean": 3.5})
    except PalateError as error:
        return refusal(error, case.path.parent)
    raise Fault(f"gave {len(line)} characters")


def _body(path: str, body: bytes) -> Reader:
    def make(draw: Random, folder: Path) -> Case:
        (folder / "path").write_text(path)
        (folder / "body").write_bytes(body)
        return Case(folder, len(body))

    return Reader(make, check_body)


def _laughs(levels: int = 9, times: int = 9) -> bytes:
    """A value of `times` ** `levels` words by aliases."""
    lines = ["a0: &a0 [lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * times)}]" for n in range(1, levels + 1)]
    return "\n".join(lines).encode()


def _columns(count: int) -> Iterable[bytes]:
    yield b"userId,movieId,rating,timestamp," + b",".join(b"c%d" % n for n in range(count)) + b"\n"
    yield b"1,2,3,4" + b"," * count + b"\n"


DEEP = 100_000
BOMBS: dict[str, Reader] = {
    "a zip of line breaks": _log("log.zip", partial(_zipped, b"\n" * MEGABYTE, 150)),
    "a gzip of zeros": _log("ratings.csv.gz", lambda: [gzip.compress(bytes(101_000_000), 1)]),
    "a gzip within a gzip": _log("ratings.csv.gz", lambda: [gzip.compress(gzip.compress(bytes(MEGABYTE)))]),
    "a line of 20 MB": _log("ratings.csv", lambda: [HEAD, *[b"x" * MEGABYTE] * 20]),
    "a header of 20 MB": _log("ratings.csv", lambda: [b"x" * MEGABYTE] * 20),
    "a quote of 20 MB": _log("ratings.csv", lambda: [HEAD, b'"', *[b"x,1,2,3\n" * 131072] * 20]),
    "columns": _log("ratings.csv", partial(_columns, 20_000)),
    "quotes": _log("ratings.csv", lambda: [HEAD, b'"' * 4 * MEGABYTE]),
    "NUL bytes": _log("ratings.csv", lambda: [HEAD, b"1,2,3,4\n", bytes(10 * MEGABYTE)]),
    "NUL bytes far down": _log("ratings.csv", lambda: [HEAD, *(b"%d,2,3,4\n" % n for n in range(99_999)), b"\0"]),
    "mixed encodings": _log("ratings.csv", lambda: [HEAD, "zoé,1,2,3\n".encode(), "ren\xe9,1,2,3\n".encode("utf-16")]),
    "NaN": _log("ratings.csv", lambda: [HEAD, b"1,2,NaN,4\n"]),
    "infinity": _log("ratings.csv", lambda: [HEAD, b"1,2,inf,4\n2,2,1e999,5\n"]),
    "lists in lists in JSON lines": _log("log.jsonl", lambda: [b"[" * DEEP + b"]" * DEEP + b"\n"]),
    "objects in objects in JSON lines": _log("log.jsonl", lambda: [b'{"user":' * DEEP + b"1" + b"}" * DEEP + b"\n"]),
    "objects in objects in an array": _log("log.json", lambda: [b"[", b'{"user":' * DEEP, b"1", b"}" * DEEP, b"]"]),
    "lists in lists in a dictionary": _log("log.json", lambda: [b"{'user': ", b"[" * DEEP, b"]" * DEEP, b"}\n"]),
    "keys of an object": _log("log.json", lambda: [b"{", *(b'"%d": 1,' % n for n in range(20_000)), b'"user": 1}\n']),
    "rows of Parquet that are not there": _log("log.parquet", partial(_many_rows, 2**31)),
    "rows of Parquet beyond all": _log("log.parquet", partial(_many_rows, 2**60)),
    "lists in lists in YAML": _config(b"run: " + b"[" * DEEP),
    "mappings in mappings in YAML": _config(b"".join(b" " * n + b"a:\n" for n in range(2_000))),
    "aliases of YAML": _config(_laughs()),
    "aliases of YAML as a value": _config(_laughs() + b"\ntrain: *a9\nrun_dir: *a9"),
    "a width of blanks": _line("{title:>1000000000}"),
    "a precision of zeros": _line("{item_mean:.999999999f}"),
    "a width of bars": _line("{item_mean:|>0999999999}"),
    "lists in lists in a body": _body("/v1/ratings", b'{"ratings": ' + b"[" * DEEP + b"]" * DEEP + b"}"),
    "a number of a body": _body("/v1/ratings", b'{"ratings": [{"user_id": ' + b"9" * DEEP + b"}]}"),
}
SLOW: dict[str, Reader] = {
    "a line of 1 GB": _log("ratings.csv", lambda: [HEAD, *[b"x" * MEGABYTE] * 1024]),
    "a header of 1 GB": _log("ratings.csv", lambda: [b"x" * MEGABYTE] * 1024),
    "a million columns": _log("ratings.csv", partial(_columns, 1_000_000)),
}
