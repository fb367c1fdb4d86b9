"""Read a table of ratings: typed columns in one pass, and the first wrong line if a value is wrong."""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import islice, pairwise, takewhile
from typing import NoReturn

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate.errors import InputError
from palate.ratings.blocks import BLOCK, bounds_of
from palate.ratings.formats import Format, format_of
from palate.ratings.layout import (
    IN_UTF8,
    POLARS_FAULTS,
    Layout,
    check_encoding,
    check_roles,
    column_of,
    layout_of,
    records,
    rewritten_rows,
    roles_of,
    width_problem,
)
from palate.ratings.source import SourceFile
from palate.ratings.text import WHITE, is_shown
from palate.ratings.times import SECONDS, TimeForm, TimesError, time_form

COLUMNS = ("user_id", "item_id", "rating", "timestamp")
_ROLES = ("user", "item", "rating", "timestamp")
_TYPES = {"rating": pl.Float64(), "timestamp": pl.Int64()}
_IDS = ("user_id", "item_id")
_WAY_OUT = "; `--bad-rows skip` leaves such rows out"
_WIDE = (pl.UInt64, pl.Int128)
NOWHERE = -1
"""The place of the ratings of a table that has likes alone."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_FACTORS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0xD6E8FEB86659FD93)
"""Factors of `_hashes`: odd random numbers of 64 bits."""


@dataclass(frozen=True)
class RatingTable:
    """The ratings of one file in file order, with the file and its layout to find a rating's line.

    `frame` has `COLUMNS` and, if the file has it, `title`.
    """

    frame: pl.DataFrame
    file: SourceFile
    layout: Layout | None
    """None for a file with typed columns."""
    form: TimeForm = SECONDS
    """The form of the times; `timestamp` has its integers."""
    skipped: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema={"row": pl.Int64, "reason": pl.String}))
    """The rows of the file that `frame` lacks, counted from 0, and why."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """The role of each column of the file, see `roles_of`."""

    def fail(self, message: str, row: int) -> NoReturn:
        """Raise `InputError` for a row, counted from 0."""
        (line,) = self.lines_of([row])
        if line is None:
            row = int(self.rows[row])
            raise InputError(f"row {row + 1}: {message}", self.file.place)
        raise InputError(message, self.file.place, line)

    def lines_of(self, rows: Sequence[int]) -> list[int | None]:
        """The lines of the given rows, which ascend; None for each row if the format has no lines."""
        lines: Iterable[int]
        if self.layout is not None:
            lines = (line for line, _ in records(self.file, self.layout))
        elif (typed := format_of(self.file)) is not None and typed.lines is not None:
            lines = typed.lines(self.file.path)
        else:
            return [None for _ in rows]
        walk = enumerate(lines)
        return [next(line for row, line in walk if row == wanted) for wanted in self.rows[rows].tolist()]

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """The row of the file of each row of `frame`, (rows,) int64."""
        rows = np.arange(self.frame.height + self.skipped.height)
        return np.delete(rows, self.skipped["row"].to_numpy())

    def without(self, reasons: pl.Series) -> "RatingTable":
        """The table without the rows that have a reason, (rows,) String; null keeps a row."""
        wrong = reasons.is_not_null()
        if not wrong.any():
            return self
        rows = pl.DataFrame({"row": self.rows[wrong.to_numpy()], "reason": reasons.filter(wrong)})
        return replace(self, frame=self.frame.filter(~wrong), skipped=pl.concat([self.skipped, rows]))

    def report(self) -> pl.DataFrame:
        """The skipped rows in file order: `line` (of a typed format: row, from 1), `reason`, and the `row` as text."""
        skipped = self.skipped.sort("row")
        wanted = dict(skipped.iter_rows())
        if self.layout is None and (typed := format_of(self.file)) is not None:
            texts = [
                json.dumps(row, default=str) for row in typed.columns(self.file)[list(wanted)].iter_rows(named=True)
            ]
            lines = [row + 1 for row in wanted]
        else:
            assert self.layout is not None
            found = [at for row, at in enumerate(records(self.file, self.layout)) if row in wanted]
            lines, texts = [line for line, _ in found], [self.layout.separator.join(fields) for _, fields in found]
        return pl.DataFrame(
            {"line": lines, "reason": skipped["reason"], "row": texts}, schema_overrides={"row": pl.String}
        )


def read_ratings(
    file: SourceFile,
    columns: Mapping[str, str],
    scale: tuple[float, float],
    *,
    skip: bool = False,
    likes: bool = False,
) -> RatingTable:
    """Read and check a table of ratings; raises `InputError` with the first wrong line, or skips wrong rows.

    Ids are Int64 if the file writes all of them as plain integers, else String; ratings are Float64, timestamps Int64
    in the unit of the table's `form`. A table of `likes` may have a column of ratings, else one of labels; without
    either all its ratings are 1. It may repeat a user, item and time.
    """
    typed = format_of(file)
    read = _read_text if typed is None else partial(_read_typed, typed=typed)
    table = read(file, columns=columns, scale=scale, skip=skip, likes=likes)
    if skip:
        table = table.without(reasons_of(table.frame, scale))
        texts = [name for name in _IDS if typed is None and table.frame[name].dtype == pl.String]
        table = replace(table, frame=table.frame.with_columns(as_ids(table.frame[name]) for name in texts))
    if table.frame.is_empty():
        raise InputError("has no ratings, expected at least one row", file.place)
    for name in _IDS:
        if (pair := spelled_twice(table.frame[name])) is not None:
            row = _first(table.frame[name] == pair[0])
            table.fail(f"{name} {pair[0]} is spelled {pair[1]} in other rows, expected one spelling", row)
    _check_values(table, scale)
    if likes:
        return table
    duplicates = _duplicates(table.frame.select("user_id", "item_id", "timestamp"))
    if skip and not duplicates.is_empty():
        return table.without(
            pl.select(
                pl.when(pl.int_range(table.frame.height).is_in(duplicates["row"].implode())).then(pl.lit("repeated"))
            ).to_series()
        )
    if not duplicates.is_empty():
        _refuse_duplicate(table, *duplicates.row(0))
    return table


def _columns_of(
    file: SourceFile, names: Sequence[str], columns: Mapping[str, str], likes: bool
) -> dict[str, str | None]:
    """The columns of `COLUMNS`; a table of likes may have no ratings."""
    used = {}
    for name, role in zip(COLUMNS, _ROLES, strict=True):
        used[name] = column_of(role, names, columns, file.place, needed=not likes or name != "rating")
    if used["rating"] is None:
        used["rating"] = column_of("label", names, columns, file.place, needed=False)
    return used


def _read_text(
    file: SourceFile, columns: Mapping[str, str], scale: tuple[float, float], skip: bool, likes: bool
) -> RatingTable:
    layout = layout_of(file)
    used = _columns_of(file, layout.names, columns, likes)
    title = column_of("title", layout.names, columns, file.place, needed=False)
    check_roles(used | {"title": title}, file.place)
    places = {n: layout.names.index(c) for n, c in (used | {"title": title}).items() if c is not None}
    places.setdefault("rating", NOWHERE)
    roles = roles_of(layout.names, used | {"title": title})
    try:
        frame = scan(file, layout, places, _TYPES, ids=_IDS)
        if not _has_nulls(frame):
            form = time_form(frame["timestamp"])
            frame = frame.with_columns(form.values(frame["timestamp"]))
            if not _has_nulls(frame):
                return RatingTable(frame, file, layout, form, columns=roles)
    except POLARS_FAULTS:
        pass
    read = _read_leniently(file, layout, places) if skip else _read_carefully(file, layout, places, scale)
    return replace(read, columns=roles)


def _has_nulls(frame: pl.DataFrame) -> bool:
    return any(frame[name].null_count() for name in COLUMNS)


def scan(
    file: SourceFile,
    layout: Layout,
    places: Mapping[str, int],
    types: Mapping[str, pl.DataType],
    *,
    ids: Sequence[str] = (),
) -> pl.DataFrame:
    """Read the columns at `places` with their `types`, else as text; `ids` are read as Int64.

    A column at `NOWHERE` is 1 in each row that is not blank.

    Raises a Polars error if a field is not of its type, or if an id is not a plain integer, such as `+7` or `007`.
    """
    step = len(layout.separator)  # a `::` file is a `:` file with an empty column after each column
    schema: dict[str, pl.DataType] = {f"_{i}": pl.String() for i in range(step * (len(layout.names) - 1) + 1)}
    names = list(schema)
    for name, place in places.items():
        if place != NOWHERE:
            schema[names[step * place]] = types.get(name, pl.String())
    text = rewritten_rows(file, layout) if layout.rewritten else None
    scan = pl.scan_csv(
        file.path if text is None else text,
        has_header=False,
        skip_lines=layout.skip_lines if text is None else 0,
        separator=layout.separator[0],
        quote_char='"' if layout.quoted else None,
        schema=schema,
        raise_if_empty=False,
        glob=False,
    )
    between = [pl.col(n).is_not_null() for i, n in enumerate(names) if i % step]
    read = {name: pl.col(names[step * place]) for name, place in places.items() if place != NOWHERE}
    one = pl.when(pl.any_horizontal(column.is_not_null() for column in read.values())).then(pl.lit("1"))
    read |= {n: one.cast(types.get(n, pl.String())) for n, place in places.items() if place == NOWHERE}
    chosen = [(column.cast(pl.Int64) if name in ids else column).alias(name) for name, column in read.items()]
    if ids:
        chosen.append(pl.any_horizontal(_is_respelled(read[name]) for name in ids).alias("_respelled"))
    frame = scan.select(*chosen, *([pl.any_horizontal(between).alias("_between")] if between else []))
    table = frame.collect(engine="streaming")
    if ids:
        if table["_respelled"].any():
            raise pl.exceptions.ComputeError("a number has a sign or leading zeros")
        table = table.drop("_respelled")
    if between:
        if table["_between"].any():
            raise pl.exceptions.ComputeError(f"a field holds {layout.separator[0]}")
        table = table.drop("_between")
    return table


def _read_carefully(
    file: SourceFile, layout: Layout, places: Mapping[str, int], scale: tuple[float, float]
) -> RatingTable:
    """Read all columns as text first, to allow ids that are words, times that are dates, and blank lines.

    Raises `InputError` with the line of the first wrong value.
    """
    try:
        text = scan(file, layout, places, {})
    except POLARS_FAULTS as error:
        _diagnose(file, layout, places, scale, None)
        check_encoding(file)
        raise InputError(f"cannot be read: {str(error).splitlines()[0]}", file.place) from None
    texts = _stripped(text)
    try:
        form = time_form(texts["timestamp"])
    except TimesError as error:
        blank = texts.head(error.row).select(pl.all_horizontal(pl.col(COLUMNS).is_null())).sum().item()
        table = RatingTable(texts, file, layout)
        table.fail(f"{layout.names[places['timestamp']]} {error}", error.row - blank)
    frame = _typed(texts, form)
    if _has_nulls(frame):
        _diagnose(file, layout, places, scale, form)
        blank = frame.select(pl.all_horizontal(pl.col(COLUMNS).is_null())).to_series()
        frame = frame.filter(~blank)
        if _has_nulls(frame):
            raise InputError("has fields that cannot be read as ratings", file.place)
    return RatingTable(frame, file, layout, form)


def _read_leniently(file: SourceFile, layout: Layout, places: Mapping[str, int]) -> RatingTable:
    """As `_read_carefully`: wrong values become null, and rows with another number of fields are skipped."""
    texts, ragged = whole_rows(file, layout, places)
    skipped = pl.DataFrame({"row": ragged}, {"row": pl.Int64}).with_columns(reason=pl.lit("wrong number of fields"))
    texts = _stripped(texts)
    try:
        form = time_form(texts["timestamp"])
    except TimesError as error:
        table = RatingTable(texts, file, layout, skipped=skipped)
        table.fail(f"{layout.names[places['timestamp']]} {error}", error.row)
    return RatingTable(_typed(texts, form), file, layout, form, skipped)


def whole_rows(file: SourceFile, layout: Layout, places: Mapping[str, int]) -> tuple[pl.DataFrame, list[int]]:
    """The text of the rows that have as many fields as the header, and the other rows, counted from 0."""
    others = {f"_{place}": place for place in range(len(layout.names)) if place not in places.values()}
    last = next(name for name, place in (dict(places) | others).items() if place == len(layout.names) - 1)
    try:
        texts = scan(file, layout, dict(places) | others, {})
        texts = texts.filter(~pl.all_horizontal(pl.all().is_null()))  # blank lines, as in `records`
        if not texts[last].null_count():  # fields that a row lacks are null
            return texts.drop(others), []
    except POLARS_FAULTS:
        pass
    rows, ragged = [], []
    for row, (_, fields) in enumerate(records(file, layout)):
        if len(fields) == len(layout.names):
            rows.append(["1" if place == NOWHERE else fields[place] for place in places.values()])
        else:
            ragged.append(row)
    return pl.DataFrame(rows, dict.fromkeys(places, pl.String()), orient="row"), ragged


def as_ids(texts: pl.Series) -> pl.Series:
    """Ids as Int64 if each is a plain integer; otherwise unchanged.

    So `007` and `7` stay two ids, and the output has an id as the input wrote it.
    """
    numbers = texts.cast(pl.Int64, strict=False)
    same = numbers.null_count() == texts.null_count() and bool((numbers.cast(pl.String) == texts).all())
    return numbers if same else texts


def spelled_twice(ids: pl.Series) -> tuple[str, str] | None:
    """The first integer among ids that is written as both `7.0` and `7`: pandas writes both, with and without gaps."""
    if ids.dtype != pl.String:
        return None
    distinct = ids.unique()
    floats = distinct.filter(distinct.str.contains(r"^[+-]?\d+\.0+$"))
    whole = floats.str.replace(r"\.0+$", "")
    return next(((one, two) for one, two in zip(floats, whole, strict=True) if two in distinct), None)


def _is_respelled(text: pl.Expr) -> pl.Expr:
    """Whether an integer has a sign or zeros that Python would not print: `+7`, `007`, `-0`."""
    zeros = text.str.starts_with("0") & (text.str.len_bytes() > 1)
    return zeros | text.str.starts_with("+") | text.str.starts_with("-0")


def _typed(texts: pl.DataFrame, form: TimeForm) -> pl.DataFrame:
    """Text as typed columns; null for what cannot be read."""
    return texts.with_columns(
        as_ids(texts["user_id"]),
        as_ids(texts["item_id"]),
        pl.col("rating").cast(pl.Float64, strict=False),
        form.values(texts["timestamp"]),
    )


def _stripped(texts: pl.DataFrame) -> pl.DataFrame:
    return texts.with_columns(pl.col(COLUMNS).str.strip_chars(WHITE).replace("", None))


def _diagnose(
    file: SourceFile, layout: Layout, places: Mapping[str, int], scale: tuple[float, float], form: TimeForm | None
) -> None:
    """Raise `InputError` for the first wrong row; return if all are right.

    Without a `form` of the times, that of the first rows counts.
    """
    names, rows = layout.names, records(file, layout)
    while block := list(islice(rows, BLOCK)):
        whole = list(takewhile(lambda row: len(row[1]) == len(names), block))
        texts = {
            name: ["1" if places[name] == NOWHERE else fields[places[name]] for _, fields in whole] for name in COLUMNS
        }
        frame = _stripped(pl.DataFrame(texts, dict.fromkeys(COLUMNS, pl.String())))
        try:
            form = form or time_form(frame["timestamp"])
        except TimesError as error:
            raise InputError(f"{names[places['timestamp']]} {error}", file.place, whole[error.row][0]) from None
        typed = _typed(frame, form)
        wrong = reasons_of(typed, scale).is_not_null()
        if wrong.any():
            row = _first(wrong)
            called = {name: names[places[name]] for name in COLUMNS}
            problem = _problem(frame.row(row, named=True), called, scale, form)
            way_out = _WAY_OUT if None in typed.row(row) else ""  # a number beyond the scale may mean another scale
            raise InputError(f"{problem}{way_out}", file.place, whole[row][0])
        if len(whole) < len(block):
            line, fields = block[len(whole)]
            raise InputError(f"{width_problem(fields, names)}{_WAY_OUT}", file.place, line)


def reasons_of(frame: pl.DataFrame, scale: tuple[float, float]) -> pl.Series:
    """Why a row is wrong, (rows,) String: a value is missing, cannot be read, or is out of its range; else null."""
    rating, time = pl.col("rating"), pl.col("timestamp")
    ids = [(pl.col(name).is_null(), f"no {name}") for name in _IDS]
    codes = [(pl.col(n).cast(pl.String).str.contains("\ufffd", literal=True), f"{n} not in UTF-8") for n in _IDS]
    values = [
        (rating.is_null(), "no rating that is a number"),
        (~rating.is_between(*scale), "rating outside of the scale"),
        (time.is_null(), "no readable timestamp"),
        (time < 0, "timestamp before 1970"),
    ]
    found = [pl.when(wrong).then(pl.lit(reason)) for wrong, reason in (*ids, *codes, *values)]
    return frame.select(pl.coalesce(found)).to_series()


def _problem(
    row: Mapping[str, str | None], names: Mapping[str, str], scale: tuple[float, float], form: TimeForm
) -> str:
    """The message for a wrong row; `names` are the file's own."""
    for name in _IDS:
        value = row[name]
        if value is None:
            return f"{names[name]} is empty, expected an id"
        if "\ufffd" in value:
            return f"{names[name]} {value!r} is not UTF-8 text: {IN_UTF8}"
    problem = rating_problem(names["rating"], row["rating"] or "", scale)
    return problem or form.problem(names["timestamp"], row["timestamp"] or "")


def rating_problem(name: str, value: str, scale: tuple[float, float]) -> str | None:
    """The problem with a rating, and the remedy; None if it is right."""
    number = float(value) if _NUMBER.fullmatch(value) else math.nan
    if not math.isfinite(number):
        remedy = " with a decimal point" if re.fullmatch(r"[+-]?\d+,\d+", value) else ""
        return f"{name} {value!r} is not a number, expected one from {scale[0]:g} to {scale[1]:g}{remedy}"
    if number == -1 < scale[0]:
        return f"{name} -1 is outside of the scale: if it means that the user did not rate, remove such rows"
    if not scale[0] <= number <= scale[1]:
        return (
            f"{name} {number:g} is outside of the scale, expected {scale[0]:g} to {scale[1]:g} "
            f"(another scale is set as ratings.scale, such as --set ratings.scale=[1,10])"
        )
    return None


def _read_typed(
    file: SourceFile,
    columns: Mapping[str, str],
    scale: tuple[float, float],
    skip: bool,
    likes: bool,
    *,
    typed: Format,
) -> RatingTable:
    names = typed.header(file)
    roles = dict(zip((*COLUMNS, "title"), (*_ROLES, "title"), strict=True))
    used = _columns_of(file, names, columns, likes)
    used["title"] = column_of("title", names, columns, file.place, needed=False)
    check_roles(used, file.place)
    present = {name: column for name, column in used.items() if column is not None}
    found = typed.columns(file, list(dict.fromkeys(present.values())))
    casts = [
        pl.col(column).cast(type_of(roles[name], column, found.schema[column], file.place)).alias(name)
        for name, column in present.items()
    ]
    frame = found.select(*casts, *([] if "rating" in present else [pl.lit(1.0).alias("rating")]))
    frame = frame.with_columns(printable(frame[name]) for name in _IDS)
    table = RatingTable(frame, file, None)
    times = frame["timestamp"]
    if times.dtype == pl.String:
        times = times.str.strip_chars(WHITE).replace("", None)
    try:
        form = time_form(times)
    except TimesError as error:
        table.fail(f"{present['timestamp']} {error}", error.row)
    frame = frame.with_columns(form.values(times))
    table = RatingTable(frame, file, None, form, columns=roles_of(names, used))
    if skip:
        return table
    wrong = frame["timestamp"].is_null() & times.is_not_null()
    if wrong.any():
        table.fail(form.problem(present["timestamp"], str(times[_first(wrong)])), _first(wrong))
    for name in COLUMNS:
        if frame[name].null_count():
            table.fail(f"{name} is missing", _first(frame[name].is_null()))
    return table


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
        fits, expected, wanted = is_text, "text", pl.String()
    elif role == "rating":
        fits, expected, wanted = found.is_numeric(), "numbers", pl.Float64()
    else:
        fits = found.is_numeric() or is_text or found in (pl.Date, pl.Datetime)
        expected, wanted = "times: numbers, text, dates or datetimes", pl.String() if is_text else found
    if not fits:
        raise InputError(f"column '{column}' holds {found}, expected {expected}", place)
    return wanted


def printable(ids: pl.Series) -> pl.Series:
    """Integers as Int64, or as text if one is too large for Int64; empty text becomes null."""
    if not ids.dtype.is_integer():
        return ids.replace("", None)
    numbers = ids.cast(pl.Int64, strict=False)
    return numbers if numbers.null_count() == ids.null_count() else ids.cast(pl.String)


def _check_values(table: RatingTable, scale: tuple[float, float]) -> None:
    """Raise `InputError` for the first rating outside of the scale, or time before 1970."""
    rating, timestamp = table.frame["rating"], table.frame["timestamp"]
    wrong = ~(rating.is_between(*scale) & rating.is_finite())
    early = timestamp < 0
    if wrong.any() or early.any():
        row = _first(wrong | early)
        problem = rating_problem("rating", str(rating[row]), scale)
        table.fail(problem or table.form.problem("timestamp", table.form.shown(timestamp[row])), row)


def _duplicates(keys: pl.DataFrame) -> pl.DataFrame:
    """The rows whose user rated the item at that time before: `row`, the columns of `keys`, and the `first` such row.

    Sorted 64-bit hashes find the candidates: 8 bytes for each row, and block by block if users ascend. Only rows with
    equal hashes are compared.
    """
    bounds, users = np.array([0, keys.height]), keys["user_id"]
    if users.is_sorted():
        bounds = bounds_of(users.rle().struct.field("len").to_numpy().astype(np.int64))
    candidates = []
    for begin, end in pairwise(bounds.tolist()):
        hashes = _hashes(keys.slice(begin, end - begin))
        ordered = np.sort(hashes)
        same = ordered[1:][ordered[1:] == ordered[:-1]]
        if same.size:
            candidates.append(begin + np.flatnonzero(np.isin(hashes, same)))
    rows = keys.with_row_index("row")[np.concatenate(candidates) if candidates else []]
    rows = rows.with_columns(pl.col("row").min().over("user_id", "item_id", "timestamp").alias("first"))
    return rows.filter(pl.col("row") > pl.col("first")).sort("row")


def _refuse_duplicate(
    table: RatingTable, row: int, user: str | int, item: str | int, time: int, first: int
) -> NoReturn:
    lines = table.lines_of([first, row])
    before = f"row {first + 1}" if lines[0] is None else f"line {lines[0]}"
    found = f"user {user} rated item {item} at {table.form.shown(time)} already on {before}"
    table.fail(f"{found}, expected one rating at a time", row)


def _hashes(keys: pl.DataFrame) -> NDArray[np.uint64]:
    """A hash of each row: the sum of the columns' values, each times its factor of `_FACTORS`, modulo 2^64."""
    total = np.zeros(keys.height, np.uint64)
    for begin in range(0, keys.height, BLOCK):
        part = total[begin : begin + BLOCK]
        for column, factor in zip(keys.slice(begin, BLOCK), _FACTORS, strict=True):
            values = column if column.dtype == pl.Int64 else column.hash()
            part += values.to_numpy().view(np.uint64) * factor
    return total


def without_title(rated: pl.Series, items: pl.DataFrame) -> pl.Series:
    """The distinct rated items that have no title in `items`."""
    titled, rated = items.filter(is_shown(pl.col("title")))["item_id"], rated.unique()
    return rated.filter(~rated.is_in(titled.implode()))


def check_titles(table: RatingTable, items: pl.DataFrame, where: str) -> None:
    """Raise `InputError` for the first rating whose item has no title in `items`."""
    titled = items.filter(is_shown(pl.col("title")))["item_id"]
    missing = without_title(table.frame["item_id"], items)
    if missing.len():
        row = _first(table.frame["item_id"].is_in(missing.implode()))
        item = table.frame["item_id"][row]
        other = _spelled_otherwise(item, titled)
        expected = (
            "one for every rated item, or --untitled drop or id"
            if other is None
            else f"one spelling in both tables: it has item {other}"
        )
        table.fail(f"item {item} has no title in {where}, expected {expected}", row)


def _spelled_otherwise(item: str | int, ids: pl.Series) -> str | None:
    """An id of `ids` that equals `item` as a number, `7` for `007` or `7.0`, or without white space."""
    number = pl.Series([str(item)]).cast(pl.Float64, strict=False)[0]
    texts = ids.cast(pl.String)
    same = texts.filter(texts.str.strip_chars(WHITE) == str(item).strip(WHITE))
    if same.len():
        return repr(same[0])
    return None if number is None else next(iter(texts.filter(texts.cast(pl.Float64, strict=False) == number)), None)


def _first(wrong: pl.Series) -> int:
    """The index of the first True."""
    return int(wrong.arg_true()[0])
