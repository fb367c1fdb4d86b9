"""Read the ratings of a file with typed columns, such as Parquet."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import chain

import polars as pl

from palate.errors import InputError
from palate.ratings.formats import Format
from palate.ratings.ids import IDS, printable
from palate.ratings.layout import POLARS_FAULTS, roles_of
from palate.ratings.rating_forms import IN_WORDS, NUMBERS, in_numbers
from palate.ratings.rating_table import COLUMNS, RatingTable
from palate.ratings.reading import ON_DISK, TYPES, Reading, columns_of, numbered, timed, with_folders
from palate.ratings.source import SourceFile
from palate.ratings.spreadsheet import SUFFIXES
from palate.ratings.text import WHITE
from palate.ratings.times import TimesError, of_serials, time_form
from palate.ratings.wrong_rows import REMEDY, first_row, rating_problem
from palate.store.scratch import MissingError, Scratch

_WIDE = (pl.UInt64, pl.Int128)


def read_typed(file: SourceFile, typed: Format, how: Reading) -> RatingTable:
    """The ratings of a file with typed columns; raises `InputError` for the first value that cannot be read.

    With `how.skip` such values are null.
    """
    names = typed.header(file)
    roles = how.roles | {"title": "title"}
    used, above = columns_of(file, names, how)
    present = {name: column for name, column in used.items() if column is not None}
    if how.scratch is not None:
        present.pop("title", None)
        if above or typed.read_blocks is None:
            how.scratch.refuse(f"is {typed.name}, or has values in names of folders", file.place, ON_DISK)
        return _typed_on_disk(file, typed, present, how, how.scratch)
    found = typed.columns(file, list(dict.fromkeys(present.values())))
    casts = [
        pl.col(column).cast(type_of(roles[name], column, found.schema[column], file.place)).alias(name)
        for name, column in present.items()
    ]
    ones = [name for name in (*above, "rating") if name not in present]
    frame = found.select(*casts, *(pl.lit(1, TYPES.get(name, pl.Int64())).alias(name) for name in dict.fromkeys(ones)))
    frame = frame.with_columns(printable(frame[name]) for name in IDS)
    rated = IN_WORDS if "rating" in present and found.schema[present["rating"]] == pl.Boolean else NUMBERS
    table = RatingTable(frame, file, None)
    if frame["rating"].dtype == pl.String:
        texts = frame.with_columns(frame["rating"].str.strip_chars(WHITE).replace("", None))
        numbers, rated = in_numbers(texts)
        frame = numbers.with_columns(pl.col("rating").cast(pl.Float64, strict=False))
        wrong = frame["rating"].is_null() & texts["rating"].is_not_null()
        if not how.skip and wrong.any():
            problem = rating_problem(present["rating"], texts["rating"][first_row(wrong)], how.accepted, rated)
            table.fail(problem or "has a rating that is no number", first_row(wrong))
    frame = numbered(frame) if how.numbered else frame
    times = frame["timestamp"]
    if times.dtype == pl.String:
        times = times.str.strip_chars(WHITE).replace("", None)
    elif file.name.lower().endswith(SUFFIXES):
        times = of_serials(times)
    try:
        form = time_form(times)
    except TimesError as error:
        table.fail(f"{present['timestamp']} {error}", error.row)
    frame = frame.with_columns(form.values(times))
    table = RatingTable(frame, file, None, form, columns=roles_of(names, used), rated=rated)
    table = with_folders(table, above, how)
    if how.skip:
        return table
    wrong = frame["timestamp"].is_null() & times.is_not_null()
    if wrong.any():
        # Python has no dates of the years that a typed column may hold.
        value = (times.to_physical() if times.dtype.is_temporal() else times)[first_row(wrong)]
        table.fail(form.problem(present["timestamp"], str(value)), first_row(wrong))
    for name in COLUMNS:
        if frame[name].null_count():
            column = present.get(name, name)
            table.fail(f"{column} is empty, expected a value{REMEDY}", first_row(frame[name].is_null()))
    return table


def _typed_on_disk(
    file: SourceFile, typed: Format, present: Mapping[str, str], how: Reading, scratch: Scratch
) -> RatingTable:
    """Read typed columns block by block: ids that are integers or text, ratings that are numbers, times.

    Raises `InputError` as `read_typed` does, or for columns of other types.
    """
    blocks = typed.blocks(file, list(dict.fromkeys(present.values())))
    first = next(blocks)
    kinds = {name: type_of(how.roles[name], c, first.schema[c], file.place) for name, c in present.items()}
    times = kinds.get("timestamp", pl.Int64())
    if kinds["rating"] == pl.String or not (times.is_integer() or times.is_temporal()):
        scratch.refuse("has ratings or times as text, or times with fractions", file.place, ON_DISK)
    form = time_form(first[present["timestamp"]]) if times.is_temporal() else None

    def cast(block: pl.DataFrame) -> pl.DataFrame:
        frame = block.select(pl.col(column).cast(kinds[name]).alias(name) for name, column in present.items())
        if form is not None:
            frame = frame.with_columns(form.values(frame["timestamp"]))
        ids = (printable(frame[name]) for name in IDS)
        return frame.with_columns(ids).cast({} if how.numbered else {"timestamp": pl.Int64()})

    every = RatingTable(first.head(0), file, None, columns=roles_of(typed.header(file), present))
    every = replace(every, rated=IN_WORDS if first.schema[present["rating"]] == pl.Boolean else NUMBERS)
    try:
        table = replace(every, frame=scratch.table(cast(block) for block in chain([first], blocks)))
        return timed(table, how, scratch) if form is None else replace(table, form=form)
    except MissingError as error:
        lines = RatingTable(pl.DataFrame({"row": range(error.row + 1)}), file, None)
        lines.fail(f"{present.get(error.column, error.column)} is empty, expected a value", error.row)
    except POLARS_FAULTS:
        scratch.refuse("has ids or times of several types", file.place, ON_DISK)


def type_of(role: str, column: str, found: pl.DataType, place: str) -> pl.DataType:
    """The type to cast a role's typed column to; raises `InputError` if the column's type does not fit the role.

    Integer types that are wider than Int64 stay, see `printable`.
    """
    is_text = found in (pl.String, pl.Categorical, pl.Enum)
    wanted: pl.DataType
    remedy = f": `pl.col({column!r}).cast(pl.Int64)` of Polars makes them" if found.is_numeric() else ""
    if role in ("user", "item"):
        fits, expected = found.is_integer() or is_text, "integers or text" + remedy
        whole = found if found in _WIDE else pl.Int64()
        wanted = whole if found.is_integer() else pl.String()
    elif role == "title":
        fits, expected, wanted = is_text or found == pl.Null, "text", pl.String()
    elif role == "rating":
        fits, expected = found.is_numeric() or is_text or found == pl.Boolean, "numbers"
        wanted = pl.String() if is_text else pl.Float64()
    else:
        fits = found.is_numeric() or is_text or found in (pl.Date, pl.Datetime)
        expected, wanted = "times: numbers, text, dates or datetimes", pl.String() if is_text else found
    if not fits:
        raise InputError(f"column '{column}' holds {found}, expected {expected}", place)
    return wanted
