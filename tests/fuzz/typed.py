"""Tables with typed columns: Parquet, Arrow."""

import io
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq
from tests.fuzz.case import Case, Fault, Outcome, refusal
from tests.fuzz.mutations import ITEMS, RATINGS, TIMES, USERS, damage_bytes
from tests.fuzz.oracle import Wrong, differs, ratings_in
from tests.fuzz.text import on_disk

from palate.errors import PalateError
from palate.ratings.load import load_ratings

INTEGERS = (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())
TEXTS = (pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string()))
NUMBERS = (*INTEGERS, pa.float32(), pa.float64(), pa.float16(), pa.decimal128(9, 2), pa.bool_(), *TEXTS)
ZONES = (None, "UTC", "Europe/Berlin")
MOMENTS = (*(pa.timestamp(unit, zone) for unit in ("s", "ms", "us", "ns") for zone in ZONES),
           pa.date32(), pa.date64(), pa.int64(), pa.int32(), pa.float64(), pa.decimal128(18, 3),
           pa.string())  # fmt: skip
ODD = (pa.binary(), pa.null(), pa.list_(pa.int64()), pa.struct([("a", pa.int64())]), pa.time64("us"), pa.duration("s"),
       pa.binary(2), pa.map_(pa.string(), pa.int64()), pa.month_day_nano_interval())  # fmt: skip


def column_of(draw: Random, values: Sequence[Any], kinds: Sequence[pa.DataType]) -> pa.Array:
    """The values in a type that holds them, with a null here and there."""
    values = [None if draw.random() < 0.02 else value for value in values]
    for _ in range(20):
        kind = draw.choice(ODD) if draw.random() < 0.02 else draw.choice(kinds)
        is_text = kind in TEXTS
        with suppress(pa.ArrowException, ValueError, TypeError, OverflowError):
            return pa.array([None if v is None else str(v) if is_text else v for v in values], kind)
    return pa.array([None if value is None else str(value) for value in values])


def table_of(draw: Random) -> pa.Table:
    """A table with typed columns."""
    rows, begin = range(draw.randint(0 if draw.random() < 0.03 else 1, 9)), draw.choice((0, 10**9, 1_714_564_800))
    odd = draw.choice(((2**63 - 1, 2**64 - 1, 7), ("007", "7", "é", " a", "", "null", "a\0b")))
    ids = draw.choice((lambda: draw.randint(1, 6), lambda: f"u{draw.randint(1, 6)}", lambda: draw.choice(odd)))
    users, items = ([ids() if draw.random() < 0.9 else n for n in rows] for _ in range(2))
    ratings = [draw.choice((draw.randrange(1, 11) / 2, draw.randint(1, 5), 4)) for _ in rows]
    if draw.random() < 0.1 and ratings:
        ratings[draw.randrange(len(ratings))] = draw.choice((float("nan"), float("inf"), -1.0, 0.0, 1e300, 9))
    times: list[Any] = [begin + n for n in rows]
    if draw.random() < 0.1 and times:
        times[-1] = draw.choice((-1, 2**62, 253402300800, float("nan"), 1.5))
    columns = {
        draw.choice(USERS): column_of(draw, users, (*INTEGERS, *TEXTS)),
        draw.choice(ITEMS): column_of(draw, items, (*INTEGERS, *TEXTS)),
        draw.choice(RATINGS): column_of(draw, ratings, NUMBERS),
        draw.choice(TIMES): column_of(draw, times, MOMENTS),
    }
    arrays, names = list(columns.values()), list(columns)
    for _ in range(draw.choice((0, 0, 1, 2))):
        kind = draw.choice((*ODD, *TEXTS, *INTEGERS))
        arrays.append(pa.nulls(len(rows), kind))
        names.append(draw.choice(("note", "title", "x", f"x{len(names)}", "", draw.choice(names))))
    return pa.Table.from_arrays(arrays, names=names)


def make_parquet(draw: Random, folder: Path) -> Case:
    """A Parquet file with typed columns, whose bytes may be damaged, most in its footer."""
    table, file = table_of(draw), io.BytesIO()
    options: dict[str, Any] = {
        "row_group_size": (1, 2, 100), "compression": ("none", "snappy", "zstd", "gzip"), "store_schema": (True, False),
        "use_dictionary": (True, False), "data_page_version": ("1.0", "2.0"), "version": ("1.0", "2.4", "2.6"),
        "write_page_checksum": (False, False, True),
    }  # fmt: skip
    try:
        pq.write_table(table, file, **{name: draw.choice(values) for name, values in options.items()})
    except (pa.ArrowException, ValueError):
        file = io.BytesIO()
        pq.write_table(pa.table({"user": [1], "item": [2], "rating": [3], "time": [4]}), file)
    content = file.getvalue()
    if draw.random() < 0.6:
        footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
        cut = footer if draw.random() < 0.6 else 4
        content = content[:cut] + damage_bytes(draw, content[cut:], BINARY)
    name = draw.choice(("ratings.parquet", "log.pq"))
    (folder / name).write_bytes(content)
    return Case(folder / name, len(content))


BINARY = (b"", b"\x00", b"\xff", b"\x7f", b"\x80", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", bytes(8), b"PAR1", b"\x15")


def make_arrow(draw: Random, folder: Path) -> Case:
    """An Arrow file or stream, whose bytes may be damaged."""
    table, file = table_of(draw), io.BytesIO()
    options = ipc.IpcWriteOptions(compression=draw.choice((None, "zstd", "lz4")))
    opened = draw.choice((ipc.new_file, ipc.new_stream))
    with opened(file, table.schema, options=options) as out:
        out.write_table(table, max_chunksize=draw.choice((1, 3, 100)))
    content = file.getvalue()
    if draw.random() < 0.6:
        content = damage_bytes(draw, content, BINARY)
    name = draw.choice(("ratings.arrow", "log.feather"))
    (folder / name).write_bytes(content)
    return Case(folder / name, len(content))


def check_typed(case: Case, seed: int) -> Outcome:
    """Compare what was read with the values that pyarrow gives one by one."""
    try:
        found = load_ratings(str(case.path), untitled="id")
    except PalateError as error:
        found, outcome, problem = None, refusal(error, case.path.parent), str(error)
    else:
        outcome = "read"
        try:
            (roles,) = found.columns.values()
            named = [name for name, role in roles.items() if role and role != "title"]
            table = arrow_table(case.path, named)
            for name in named:
                table.column(name).validate(full=True)
            columns = [table.column(table.schema.get_all_field_indices(name)[0]).to_pylist() for name in named]
        except Exception as error:
            raise Fault(f"was read, but pyarrow does not: {error}") from None
        try:
            rows = [dict(zip(named, row, strict=True)) for row in zip(*columns, strict=True)]
            problem = differs(found, ratings_in(rows, found))
        except Wrong as error:
            raise Fault(f"it is to be refused: {error}") from None
        if problem:
            raise Fault(problem)
    if seed % 4 == 1 and case.path.suffix in (".parquet", ".pq") and "title" not in problem:  # which the disk has not
        on_disk(case.path, found)
    return outcome


def arrow_table(path: Path, columns: Sequence[str]) -> pa.Table:
    """The table of a file; of Parquet these columns alone, since others may be damaged."""
    if path.suffix in (".parquet", ".pq"):
        with pq.ParquetFile(path) as file:
            return file.read(columns=list(columns))
    content = pa.py_buffer(path.read_bytes())
    try:
        return ipc.open_file(content).read_all()
    except pa.ArrowInvalid:
        return ipc.open_stream(content).read_all()
