"""Compressed files and archives."""

import bz2
import csv
import gzip
import io
import lzma
import tarfile
import zipfile
from functools import partial
from pathlib import Path
from random import Random

import pyarrow as pa
from tests.fuzz.case import Case, Outcome, refusal
from tests.fuzz.mutations import damage_bytes, log_of
from tests.fuzz.text import compare

from palate.errors import PalateError
from palate.ratings.load import load_ratings


def make_packed(draw: Random, folder: Path) -> Case:
    """A right table of text, compressed or in an archive, whose bytes are damaged."""
    log = log_of(draw)
    text = io.StringIO()
    csv.writer(text).writerows([log.header, *log.rows])
    truth = text.getvalue().encode()
    name = draw.choice(("ratings.csv.gz", "ratings.csv.bz2", "ratings.csv.xz", "ratings.csv.zst", "log.zip", "log.zip",
                        "log.tar", "log.tgz", "ratings.csv"))  # fmt: skip
    packed = truth if name == "ratings.csv" else pack(draw, name, truth)
    content = damage_bytes(draw, packed)
    (folder / name).write_bytes(content)
    is_sure = content == packed or not name.endswith((".tar", ".zst", ".csv"))  # whose bytes have no checksum
    return Case(folder / name, len(content), truth if is_sure else None)


def pack(draw: Random, name: str, truth: bytes) -> bytes:
    """The bytes of a compressed file or an archive."""
    file = io.BytesIO()
    member = draw.choice(("ratings.csv", "log/ratings.csv"))
    if name.endswith(".zip"):
        method = draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
        with zipfile.ZipFile(file, "w", method) as members:
            members.writestr(member, truth)
            members.writestr("README", b"of another kind")
    elif name.endswith((".tar", ".tgz")):
        with tarfile.open(fileobj=file, mode="w") as tar:
            info = tarfile.TarInfo(member)
            info.size = len(truth)
            tar.addfile(info, io.BytesIO(truth))
        return gzip.compress(file.getvalue(), mtime=0) if name.endswith(".tgz") else file.getvalue()
    else:
        kind = name.rpartition(".")[2]
        compress = {"gz": partial(gzip.compress, mtime=0), "bz2": bz2.compress, "xz": lzma.compress}
        return compress[kind](truth) if kind in compress else pa.compress(truth, "zstd", asbytes=True)
    return file.getvalue()


def check_packed(case: Case, seed: int) -> Outcome:
    """What was read is what was packed, unless the bytes have no checksum."""
    try:
        found = load_ratings(str(case.path), untitled="id")
    except PalateError as error:
        return refusal(error, case.path.parent)
    if case.truth is not None:
        compare("ratings.csv", found, case.truth)
    return "read"
