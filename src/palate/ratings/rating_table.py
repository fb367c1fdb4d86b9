"""Read a table of ratings: typed columns in one pass, and the first wrong line if a value is wrong."""

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, islice, pairwise, takewhile
from pathlib import Path
from typing import NoReturn

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate.errors import InputError
from palate.ratings.blocks import BLOCK, bounds_of
from palate.ratings.formats import FORMATS, Format, TornError, format_of
from palate.ratings.layout import (
    IN_UTF8,
    POLARS_FAULTS,
    SEPARATORS,
    Layout,
    check_encoding,
    check_roles,
    check_zeros,
    column_of,
    lacks_fields,
    layout_of,
    records,
    rewritten_rows,
    roles_of,
    width_problem,
)
from palate.ratings.rating_forms import IN_WORDS, NUMBERS, RatingForm, rating_form
from palate.ratings.roles import WITHIN
from palate.ratings.source import SourceFile
from palate.ratings.spreadsheet import SUFFIXES
from palate.ratings.survey import DIGIT_LIKE
from palate.ratings.text import WHITE, is_shown
from palate.ratings.times import SECONDS, TimeForm, TimesError, of_serials, time_form
from palate.store.parquet import DamagedError, row_count
from palate.store.scratch import MissingError, Scratch, blocks_of, empty, filled

COLUMNS = ("user_id", "item_id", "rating", "timestamp")
_ROLES = ("user", "item", "rating", "timestamp")
_TYPES = {"rating": pl.Float64(), "timestamp": pl.Int64()}
_IDS = ("user_id", "item_id")
_WAY_OUT = "; `--bad-rows skip` leaves such rows out"
NULLS = ("null", "NULL", "Null", "none", "None", "NONE", "nan", "NaN", "NAN", "n/a", "N/A", "<NA>", r"\N")
"""Words that programs write where there is no value."""
_AS_INTEGERS = "; pandas writes 12 as 12.0 in a column with gaps: `.astype('Int64')` before it is written keeps 12"
_WIDE = (pl.UInt64, pl.Int128)
NOWHERE = -1
"""The place of the ratings of a table that has likes alone."""
_ON_DISK = (
    "CSV or Parquet with ids that are integers or text, ratings that are numbers, and times that are numbers or, in "
    "Parquet, datetimes"
)
_BYTES = 8
"""Bytes of a row in a file that does not show how many it has, at least."""
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_FACTORS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0xD6E8FEB86659FD93)
"""Factors of `_hashes`: odd random numbers of 64 bits."""


@dataclass(frozen=True)
class Reading:
    """How tables of ratings are read."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """Names of columns by role, see `column_of`."""
    scale: tuple[float, float] = (0.5, 5.0)
    skip: bool = False
    """Whether wrong rows are left out; otherwise the first raises `InputError`."""
    header: tuple[str, ...] = ()
    """Names of the columns of text files without a header."""
    numbered: bool = False
    """Whether the order of the rows stands for their times."""
    not_rated: float | None = None
    """A rating that means there is none."""
    likes: bool = False
    """Whether the rows are likes, with or without a column of ratings."""
    scratch: Scratch | None = None
    """Where the table goes that exceeds the memory."""
    spare: Callable[[str], Path] | None = None
    """Gives a path for a copy of a file without its wrong lines, see `Source.spare`; needed with `skip`."""

    @property
    def roles(self) -> dict[str, str]:
        """The role of each column that is read."""
        roles = dict(zip(COLUMNS, _ROLES, strict=True))
        return {name: role for name, role in roles.items() if not (self.numbered and name == "timestamp")}

    @property
    def accepted(self) -> tuple[float, float]:
        """The scale, and what means that there is no rating."""
        low, high = self.scale
        return (low, high) if self.not_rated is None else (min(low, self.not_rated), max(high, self.not_rated))


@dataclass(frozen=True)
class RatingTable:
    """The ratings of one file in file order, with the file and its layout to find a rating's line; or those of `parts`.

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
    parts: "tuple[RatingTable, ...]" = ()
    """The tables of several files that are one."""
    rated: RatingForm = NUMBERS
    """The form of the ratings."""
    torn: Sequence[tuple[int, str, str]] = ()
    """The lines of the file that are no rows: number, reason, text."""

    @classmethod
    def of(cls, parts: "Sequence[RatingTable]") -> "RatingTable":
        """One table of several files, in their order; raises `InputError` if their times or ratings differ in form.

        A part without rows has no form. Parts that differ in the unit of typed times, or of which only some have
        fractions of seconds, get the finer unit, at most microseconds.
        """
        full = [part for part in parts if part.frame.height] or parts
        first = full[0]
        for part in full[1:]:
            if not part.form.agrees(first.form):
                found = f"its times are {part.form.name}, expected {first.form.name} as in {first.file.label}"
                raise InputError(found, part.file.place)
            if part.rated != first.rated:
                raise InputError(
                    f"has ratings of another kind than {first.file.label}, expected numbers or words in all",
                    part.file.place,
                )
        if len({part.form.per_second for part in full}) > 1:
            unit = min(max(part.form.per_second for part in full), 10**6)
            parts = [part._in_unit(unit) for part in parts]
            first = replace(first, form=replace(first.form, per_second=unit))
        frames = [part.frame for part in parts]
        for name in _IDS:
            if len({frame.schema[name] for frame in frames}) > 1:
                frames = [frame.with_columns(pl.col(name).cast(pl.String)) for frame in frames]
        skipped = pl.concat(part.skipped for part in parts)
        return replace(first, frame=pl.concat(frames, how="diagonal"), skipped=skipped, parts=tuple(parts))

    def _in_unit(self, per_second: int) -> "RatingTable":
        """The table with `per_second` units of time in a second."""
        own, time = self.form.per_second, pl.col("timestamp")
        time = time * (per_second // own) if per_second > own else time // (own // per_second)
        return replace(self, frame=self.frame.with_columns(time), form=replace(self.form, per_second=per_second))

    @property
    def shape(self) -> str:
        """What the files are, such as `2 files of text with semicolons, gzip, cp1252`."""
        first = self.parts[0] if self.parts else self
        within = next(
            (name.partition(WITHIN)[0] for name, role in first.columns.items() if role and WITHIN in name), None
        )
        found = shape_of(first.file, first.layout) + (f", a row for each of {within!r}" if within else "")
        return (f"{len(self.parts)} files of " if self.parts else "") + found

    @property
    def reasons(self) -> pl.Series:
        """Why each row of the file that `frame` lacks is left out, (rows,) String."""
        torn = [reason for part in self.parts or (self,) for _, reason, _ in part.torn]
        return pl.concat([self.skipped["reason"], pl.Series("reason", torn, pl.String)])

    def left_out(self) -> str:
        """How many rows were left out, by reason, and the way to the first of them."""
        counts = self.reasons.value_counts(sort=True).rows()
        told = ", ".join(f"{count:,} {reason}" for reason, count in counts)
        return f"{told}; `--bad-rows refuse --untitled refuse` names the first"

    def place_of(self, row: int, beside: str = "") -> str:
        """Where a row of `frame` is, such as `line 5`; with the file's name, if that is not `beside`."""
        part, row = self.part_of(row)
        (line,) = part.lines_of([row])
        place = f"row {int(part.rows[row]) + 1}" if line is None else f"line {line}"
        return place if part.file.place == (beside or part.file.place) else f"{place} of {part.file.label}"

    def part_of(self, row: int) -> "tuple[RatingTable, int]":
        """The table of a row, and the row in it."""
        for part in self.parts:
            if row < part.frame.height:
                return part, row
            row -= part.frame.height
        return self, row

    def fail(self, message: str, row: int) -> NoReturn:
        """Raise `InputError` for a row, counted from 0."""
        if self.parts:
            part, row = self.part_of(row)
            part.fail(message, row)
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
        else:
            typed = format_of(self.file)
            found = None if typed is None else typed.lines(self.file.path)
            if found is None:
                return [None for _ in rows]
            lines = found
        walk = enumerate(lines)
        return [next(line for row, line in walk if row == wanted) for wanted in self.rows[rows].tolist()]

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """The row of the file of each row of `frame`, (rows,) int64."""
        rows = np.arange(self.frame.height + self.skipped.height)
        return np.delete(rows, self.skipped["row"].to_numpy()) if self.skipped.height else rows

    def without(self, reasons: pl.Series) -> "RatingTable":
        """The table without the rows that have a reason, (rows,) String; null keeps a row."""
        wrong = reasons.is_not_null()
        if not wrong.any():
            return self
        if self.parts:
            ends = np.cumsum([part.frame.height for part in self.parts])
            return self.of(
                [
                    part.without(reasons[end - part.frame.height : end])
                    for part, end in zip(self.parts, ends.tolist(), strict=True)
                ]
            )
        rows = pl.DataFrame({"row": self.rows[wrong.to_numpy()], "reason": reasons.filter(wrong)})
        return replace(self, frame=self.frame.filter(~wrong), skipped=pl.concat([self.skipped, rows]))

    def report(self) -> pl.DataFrame:
        """The skipped rows in file order: `line` (of a typed format: row, from 1), `reason`, and the `row` as text."""
        if self.parts:
            return pl.concat(
                part.report().insert_column(0, pl.lit(part.file.label).alias("file")) for part in self.parts
            )
        skipped = self.skipped.sort("row")
        wanted = dict(skipped.iter_rows())
        if self.layout is None and (typed := format_of(self.file)) is not None:
            whole = typed.columns(self.file, typed.header(self.file))
            texts = [json.dumps(row, default=str) for row in _shown(whole[list(wanted)]).iter_rows(named=True)]
            numbers = typed.lines(self.file.path)
            lines = (
                [row + 1 for row in wanted]
                if numbers is None
                else [n for row, n in enumerate(numbers) if row in wanted]
            )
        else:
            assert self.layout is not None
            found = [at for row, at in enumerate(records(self.file, self.layout)) if row in wanted]
            lines, texts = [line for line, _ in found], [self.layout.separator.join(fields) for _, fields in found]
        types = {"line": pl.Int64(), "reason": pl.String(), "row": pl.String()}
        rows = pl.DataFrame({"line": lines, "reason": skipped["reason"], "row": texts}, types)
        torn = pl.DataFrame(self.torn, types, orient="row")
        return pl.concat([rows, torn]).sort("line", maintain_order=True)


def _shown(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows with dates and times as numbers in columns with years that Python's dates lack."""
    dates = [column for column in rows if isinstance(column.dtype, pl.Date | pl.Datetime)]
    odd = [c.name for c in dates if time_form(c).values(c).null_count() > c.null_count()]
    return rows.with_columns(pl.col(odd).to_physical())


def shape_of(file: SourceFile, layout: Layout | None) -> str:
    """What a file is: its format, its compression, its encoding if that is not UTF-8."""
    typed = format_of(file)
    if typed is not None:
        kind = typed.name if "?table=" not in file.place else f"a table of {file.place.partition(':')[0]}"
    else:
        assert layout is not None
        named = {",": "CSV", "\t": "TSV"}
        kind = named.get(layout.separator) or f"text with {SEPARATORS.get(layout.separator, repr(layout.separator))}"
    return ", ".join(part for part in (kind, file.packed, file.encoding) if part)


def read_ratings(files: Sequence[SourceFile], how: Reading) -> RatingTable:
    """Read and check the ratings of files that are one table; raises `InputError` with the first wrong line.

    With `how.skip` wrong rows are left out. Ids are Int64 if the files write all of them as plain integers, else
    String; ratings are Float64, timestamps Int64 in the unit of the table's `form`. A table of likes may have a column
    of ratings, else one of labels; without either all its ratings are 1. It may repeat a user, item and time.
    """
    tables = [_read(file, how) for file in files]
    table = tables[0] if len(tables) == 1 else RatingTable.of(tables)
    if len(tables) > 1 and how.scratch is not None:
        table = replace(table, frame=how.scratch.table(table.frame.iter_slices(BLOCK)))
    if len(tables) > 1 and how.numbered:
        table = replace(table, frame=numbered(table.frame.drop("timestamp"), how.scratch))
    scale = table.rated.scale(how.scale)
    if how.not_rated is not None:
        table = table.without(
            table.frame.select(pl.when(pl.col("rating") == how.not_rated).then(pl.lit("not rated"))).to_series()
        )
    if table.frame.is_empty():
        lost = not table.reasons.is_empty()
        why = f"expected a row that is right: {table.left_out()}" if lost else "expected at least one row"
        raise InputError(f"has no ratings, {why}", table.file.place)
    for name in _IDS:
        if (ids := table.frame[name]).dtype != pl.String:
            continue
        different = ids.unique()
        wrong = different.filter(is_no_id(different))
        if wrong.len():
            row = _first(ids.is_in(wrong.implode()))
            table.fail(f"{name} {id_problem(ids[row])}{_WAY_OUT}", row)
        if (pair := spelled_twice(different)) is not None:
            problem = f"{name} {pair[0]} is spelled {pair[1]} in other rows, expected one spelling"
            table.fail(f"{problem}{_AS_INTEGERS}", _first(ids == pair[0]))
    _check_values(table, scale)
    if how.scratch is not None:
        how.scratch.release()
    if how.likes:
        return table
    duplicates = _duplicates(table.frame.select("user_id", "item_id", "timestamp"), how.scratch)
    if how.skip and not duplicates.is_empty():
        return table.without(
            pl.select(
                pl.when(pl.int_range(table.frame.height).is_in(duplicates["row"].implode())).then(pl.lit("repeated"))
            ).to_series()
        )
    if not duplicates.is_empty():
        _refuse_duplicate(table, *duplicates.row(0))
    return table


def _read(file: SourceFile, how: Reading) -> RatingTable:
    """The ratings of one file; with `how.skip` those that are right by themselves."""
    typed = format_of(file)
    try:
        table = _read_text(file, how) if typed is None else _read_typed(file, typed, how)
        if typed is None:
            check_zeros(file)
    except TornError as error:
        if typed is None or how.spare is None or not how.skip:
            raise InputError(f"{error.message}{_WAY_OUT}", error.place, error.line) from None
        whole, torn = typed.without_wrong_lines(file, how.spare(f"{file.place} without wrong lines"))
        table = replace(_read_typed(whole, typed, how), torn=torn)
    if not how.skip:
        return table
    table = table.without(reasons_of(table.frame, table.rated.scale(how.accepted)))
    texts = [name for name in _IDS if typed is None and table.frame[name].dtype == pl.String]
    return replace(table, frame=table.frame.with_columns(as_ids(table.frame[name]) for name in texts))


def _columns_of(file: SourceFile, names: Sequence[str], how: Reading) -> tuple[dict[str, str | None], dict[str, str]]:
    """The column of each of `how.roles` in the file, and those in the names of its folders for roles that it lacks.

    A table of likes may have no ratings.
    """
    used: dict[str, str | None] = {}
    above: dict[str, str] = {}
    for name, role in how.roles.items():
        folder = column_of(role, list(file.folders), how.columns, file.place, needed=False) if file.folders else None
        if name == "timestamp" and folder is not None and re.fullmatch(r"\d{1,7}", file.folders[folder]):
            folder = None  # a day of a month, or a year
        needed = folder is None and not (how.likes and name == "rating")
        named = folder is not None and folder == how.columns.get(role)
        used[name] = None if named else column_of(role, names, how.columns, file.place, needed=needed)
        if used[name] is None and folder is not None:
            above[name] = folder
    if used["rating"] is None and "rating" not in above:
        used["rating"] = column_of("label", names, how.columns, file.place, needed=False)
    return used, above


def _with_folders(table: RatingTable, above: Mapping[str, str], how: Reading) -> RatingTable:
    """The table with the values of the columns `above` that the names of its folders have."""
    problem: str | None
    for name, column in above.items():
        text = pl.Series(name, [table.file.folders[column]])
        found = text.replace(["", "__HIVE_DEFAULT_PARTITION__", *NULLS], None)
        if name == "timestamp":
            try:
                form = time_form(found)
            except TimesError as error:
                raise InputError(f"{column} {error}", table.file.place) from None
            value, problem = form.values(found), form.problem(column, text[0])
            table = replace(table, form=form)
        elif name == "rating":
            value, problem = found.cast(pl.Float64, strict=False), rating_problem(column, text[0], how.accepted)
        else:
            value, problem = as_ids(found), f"{column} {text[0]!r} is no id"
        if not how.skip and problem and (value[0] is None or name == "rating"):
            raise InputError(problem, table.file.place)
        frame = table.frame.with_columns(pl.lit(value[0], value.dtype).alias(name))
        table = replace(table, frame=frame, columns={**table.columns, column: name})
    return table


def _read_text(file: SourceFile, how: Reading) -> RatingTable:
    layout = layout_of(file, how.header)
    used, above = _columns_of(file, layout.names, how)
    title = column_of("title", layout.names, how.columns, file.place, needed=False)
    check_roles(used | {"title": title}, file.place)
    titles = {} if how.scratch is not None else {"title": title}
    places = {n: layout.names.index(c) for n, c in (used | titles).items() if c is not None}
    places |= dict.fromkeys(above, NOWHERE)
    places.setdefault("rating", NOWHERE)
    roles = roles_of(layout.names, used | {"title": title})
    if how.scratch is not None:
        if above or layout.rewritten:
            how.scratch.refuse("has quotes within its fields, or values in names of folders", file.place, _ON_DISK)
        return replace(_read_on_disk(file, layout, places, how, how.scratch), columns=roles)
    try:
        frame = scan(file, layout, places, _TYPES, ids=_IDS)
        frame = numbered(frame) if how.numbered else frame
        if not _has_nulls(frame):
            form = time_form(frame["timestamp"])
            frame = frame.with_columns(form.values(frame["timestamp"]))
            if not _has_nulls(frame):
                return _with_folders(RatingTable(frame, file, layout, form, columns=roles), above, how)
    except POLARS_FAULTS:
        pass
    read = _read_leniently(file, layout, places, how) if how.skip else _read_carefully(file, layout, places, how)
    return _with_folders(replace(read, columns=roles), above, how)


def _read_on_disk(
    file: SourceFile, layout: Layout, places: Mapping[str, int], how: Reading, scratch: Scratch
) -> RatingTable:
    """Read ids that are integers or text, ratings and times that are numbers, block by block.

    Raises `InputError` with the line of the first wrong value, or for a table in another form.
    """
    named = [name for name in COLUMNS if name in how.roles]
    try:
        frame = scan(file, layout, places, _TYPES, ids=_IDS, into=scratch.table)
        return _timed(RatingTable(frame.select(named), file, layout), how, scratch)
    except POLARS_FAULTS:
        pass
    fields = [row for _, row in islice(records(file, layout), BLOCK) if len(row) == len(layout.names)]
    texts = {name: [row[places[name]] for row in fields] for name in named}
    head = _stripped(pl.DataFrame(texts, dict.fromkeys(named, pl.String())), decimal_comma=False)
    form, rated = SECONDS if how.numbered else _form_of(head["timestamp"], file), rating_form(head["rating"])
    if form.kind != "number" or form.fractions or rated != NUMBERS:
        found = f"has {form.name} as times and {rated.name or 'numbers'} as ratings"
        scratch.refuse(found, file.place, _ON_DISK)

    def whole(blocks: Iterable[pl.DataFrame]) -> pl.DataFrame:
        texts = pl.col(_IDS).str.strip_chars(WHITE).replace("", None)
        blank = pl.all_horizontal(pl.col(named).is_null())
        return scratch.table(block.select(named).with_columns(texts).filter(~blank) for block in blocks)

    try:
        frame = scan(file, layout, places, _TYPES, into=whole)
        for name in _IDS:
            if all(as_ids(block).dtype == pl.Int64 for block in _slices(frame[name])):
                frame = frame.with_columns(scratch.table(as_ids(block).to_frame() for block in _slices(frame[name])))
        return _timed(RatingTable(frame, file, layout), how, scratch)
    except POLARS_FAULTS:
        _diagnose(file, layout, places, how, (form, rated))
        check_encoding(file)
        scratch.refuse("has ratings or times that are written in several ways", file.place, _ON_DISK)


def _timed(table: RatingTable, how: Reading, scratch: Scratch) -> RatingTable:
    """The table on the disk with times in the unit of its form; raises `MissingError` for a time of another form."""
    frame = numbered(table.frame, scratch) if how.numbered else table.frame
    form = time_form(frame["timestamp"])
    if form != SECONDS or any(form.values(each).null_count() for each in _slices(frame["timestamp"])):
        frame = frame.with_columns(scratch.table(form.values(each).to_frame() for each in _slices(frame["timestamp"])))
    return replace(table, frame=frame, form=form)


def _form_of(times: pl.Series, file: SourceFile) -> TimeForm:
    try:
        return time_form(times)
    except TimesError as error:
        raise InputError(str(error), file.place) from None


def rows_of(file: SourceFile) -> int:
    """The number of rows of a file; of text an estimate from its first rows, of other formats one from its size."""
    if file.path.is_dir():
        return sum(part.stat().st_size for part in file.path.rglob("*")) // _BYTES
    if format_of(file) is FORMATS[".parquet"]:
        with suppress(DamagedError):  # whose reader says what is wrong
            return row_count(file.path)
    with file.path.open("rb") as content:
        begin = content.read(BLOCK)
    lines = begin.count(b"\n") - 1  # one is a header
    if len(begin) < BLOCK:
        return max(0, lines)
    return file.path.stat().st_size * lines // BLOCK if lines > 0 else file.path.stat().st_size // _BYTES


def _slices(column: pl.Series) -> Iterator[pl.Series]:
    return (column[block] for block in blocks_of(column.len()))


def numbered(frame: pl.DataFrame, scratch: Scratch | None = None) -> pl.DataFrame:
    """The frame with the number of each row as its time."""
    rows = filled(scratch, frame.height, np.int64, lambda block: np.arange(block.start, block.stop))
    return frame.with_columns(timestamp=pl.Series(rows))


def _has_nulls(frame: pl.DataFrame) -> bool:
    return any(frame[name].null_count() for name in COLUMNS)


def scan(
    file: SourceFile,
    layout: Layout,
    places: Mapping[str, int],
    types: Mapping[str, pl.DataType],
    *,
    ids: Sequence[str] = (),
    as_text: bool | None = None,
    into: Callable[[Iterable[pl.DataFrame]], pl.DataFrame] | None = None,
) -> pl.DataFrame:
    """Read the columns at `places` with their `types`, else as text; `ids` are read as Int64.

    A column at `NOWHERE` is 1 in each row that is not blank. Polars reads `007` as 7, so where the file may have such
    integers, ids are read `as_text` first, at twice the cost (None: as the begin of the file shows). `into` makes the
    table from blocks of it; None: it is read as a whole.

    Raises a Polars error if a field is not of its type, if an id is not a plain integer, such as `+7` or `007`, or if a
    row has another number of fields than the header.
    """
    if as_text is None:
        as_text = bool(ids) and (layout.separator[0] in DIGIT_LIKE or file.seems_respelled)
    step = len(layout.separator)  # a `::` file is a `:` file with an empty column after each column
    schema: dict[str, pl.DataType] = {f"_{i}": pl.String() for i in range(step * (len(layout.names) - 1) + 1)}
    names = list(schema)
    for name, place in places.items():
        if place != NOWHERE:
            wanted = pl.Int64() if name in ids and not as_text else pl.String()
            schema[names[step * place]] = types.get(name, wanted)
    text = rewritten_rows(file, layout) if layout.rewritten else None
    lazy = pl.scan_csv(
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
    # Polars notices a field too many only where all columns are read, and reads null where a row has too few fields.
    chosen.append(pl.col(names[-1]).is_null().alias("_short"))
    chosen.append(pl.any_horizontal(pl.col(n).is_null() for n in names[:-1]).alias("_others"))
    if as_text:
        chosen.append(pl.any_horizontal(_is_respelled(read[name]) for name in ids).alias("_respelled"))
    frame = lazy.select(*chosen, *([pl.any_horizontal(between).alias("_between")] if between else []))

    def checked(block: pl.DataFrame) -> pl.DataFrame:
        if as_text and block["_respelled"].any():
            raise pl.exceptions.ComputeError("a number has a sign or leading zeros")
        if between and block["_between"].any():
            raise pl.exceptions.ComputeError(f"a field holds {layout.separator[0]}")
        if block["_short"].any() and lacks_fields(file, layout):
            raise pl.exceptions.ComputeError("a row has too few fields")
        return block.drop("_respelled", "_between", "_short", "_others", strict=False)

    if into is None:
        table = frame.collect(engine="streaming")
    else:
        table = into(checked(block) for block in frame.collect_batches(maintain_order=True))
    if ids and not as_text and file.has_respelled:
        return scan(file, layout, places, types, ids=ids, as_text=True, into=into)
    return checked(table) if into is None else table


def _read_carefully(file: SourceFile, layout: Layout, places: Mapping[str, int], how: Reading) -> RatingTable:
    """Read all columns as text first, to allow ids and ratings that are words, times that are dates, and blank lines.

    Raises `InputError` with the line of the first wrong value.
    """
    try:
        text = scan(file, layout, places, {})
    except POLARS_FAULTS:
        _diagnose(file, layout, places, how, (None, None))
        check_encoding(file)
        text, _ = whole_rows(file, layout, places)
    texts = _stripped(text, decimal_comma=layout.separator != ",")
    blank = texts.select(pl.all_horizontal(pl.col(name).is_null() for name in how.roles)).to_series()
    texts, rated = _in_numbers(texts)
    texts = _text_numbered(texts, ~blank) if how.numbered else texts
    try:
        form = time_form(texts["timestamp"])
    except TimesError as error:
        table = RatingTable(texts, file, layout)
        table.fail(f"{layout.names[places['timestamp']]} {error}", error.row - int(blank.head(error.row).sum()))
    frame = _typed(texts, form)
    if _has_nulls(frame):
        _diagnose(file, layout, places, how, (form, rated))
        frame = frame.filter(~blank)
        if _has_nulls(frame):
            raise InputError("has fields that cannot be read as ratings, expected ids, numbers and times", file.place)
    return RatingTable(frame, file, layout, form, rated=rated)


def _in_numbers(texts: pl.DataFrame) -> tuple[pl.DataFrame, RatingForm]:
    """The table with its ratings as text of numbers, and the form that they have."""
    rated = rating_form(texts["rating"])
    return texts.with_columns(rated.numbers(texts["rating"])), rated


def _text_numbered(texts: pl.DataFrame, rows: pl.Series) -> pl.DataFrame:
    """The table with the number of each row of `rows` as its time; null for the others, which are blank."""
    number = pl.when(rows).then(rows.cum_sum().cast(pl.Int64) - 1)
    return texts.with_columns(timestamp=number.cast(pl.String))


def _read_leniently(file: SourceFile, layout: Layout, places: Mapping[str, int], how: Reading) -> RatingTable:
    """As `_read_carefully`: wrong values become null, and rows with another number of fields are skipped."""
    texts, ragged = whole_rows(file, layout, places)
    skipped = pl.DataFrame({"row": ragged}, {"row": pl.Int64}).with_columns(reason=pl.lit("wrong number of fields"))
    texts, rated = _in_numbers(_stripped(texts, decimal_comma=layout.separator != ","))
    texts = _text_numbered(texts, pl.repeat(True, texts.height, eager=True)) if how.numbered else texts
    try:
        form = time_form(texts["timestamp"])
    except TimesError as error:
        table = RatingTable(texts, file, layout, skipped=skipped)
        table.fail(f"{layout.names[places['timestamp']]} {error}", error.row)
    return RatingTable(_typed(texts, form), file, layout, form, skipped, rated=rated)


def whole_rows(file: SourceFile, layout: Layout, places: Mapping[str, int]) -> tuple[pl.DataFrame, list[int]]:
    """The text of the rows that have as many fields as the header, and the other rows, counted from 0."""
    others = {f"_{place}": place for place in range(len(layout.names)) if place not in places.values()}
    try:
        texts = scan(file, layout, dict(places) | others, {})
        return texts.filter(~pl.all_horizontal(pl.all().is_null())).drop(others), []  # blank lines, as in `records`
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


def _stripped(texts: pl.DataFrame, *, decimal_comma: bool) -> pl.DataFrame:
    """The texts without white space around them, empty ones as null; `decimal_comma` also reads ratings such as 3,5."""
    named = [name for name in COLUMNS if name in texts.columns]
    texts = texts.with_columns(pl.col(named).str.strip_chars(WHITE).replace("", None))
    if decimal_comma:
        texts = texts.with_columns(pl.col("rating").str.replace(r"^([+-]?\d+),(\d\d?)$", "$1.$2"))
    return texts


def _diagnose(
    file: SourceFile,
    layout: Layout,
    places: Mapping[str, int],
    how: Reading,
    forms: tuple[TimeForm | None, RatingForm | None],
) -> None:
    """Raise `InputError` for the first wrong row; return if all are right.

    `forms` are those of the times and the ratings. Without one, that of the first rows counts.
    """
    form, rated = forms
    names, rows = layout.names, records(file, layout)
    while block := list(islice(rows, BLOCK)):
        whole = list(takewhile(lambda row: len(row[1]) == len(names), block))
        texts = {
            name: ["1" if places[name] == NOWHERE else fields[places[name]] for _, fields in whole]
            for name in how.roles
        }
        frame = pl.DataFrame(texts, dict.fromkeys(how.roles, pl.String()))
        frame = _stripped(frame, decimal_comma=layout.separator != ",")
        frame = _text_numbered(frame, pl.repeat(True, frame.height, eager=True)) if how.numbered else frame
        try:
            form = form or time_form(frame["timestamp"])
        except TimesError as error:
            raise InputError(f"{names[places['timestamp']]} {error}", file.place, whole[error.row][0]) from None
        rated = rated or rating_form(frame["rating"])
        scale = rated.scale(how.accepted) if places["rating"] != NOWHERE else (1.0, 1.0)
        typed = _typed(frame.with_columns(rated.numbers(frame["rating"])), form)
        wrong = reasons_of(typed, scale).is_not_null()
        if wrong.any():
            row = _first(wrong)
            called = {name: names[places[name]] for name in how.roles}
            problem = _problem(frame.row(row, named=True), called, scale, (form, rated))
            way_out = _WAY_OUT if None in typed.row(row) else ""  # a number beyond the scale may mean another scale
            raise InputError(f"{problem}{way_out}", file.place, whole[row][0])
        if len(whole) < len(block):
            line, fields = block[len(whole)]
            raise InputError(f"{width_problem(fields, names)}{_WAY_OUT}", file.place, line)


def reasons_of(frame: pl.DataFrame, scale: tuple[float, float]) -> pl.Series:
    """Why a row is wrong, (rows,) String: a value is missing, cannot be read, or is out of its range; else null."""
    rating, time = pl.col("rating"), pl.col("timestamp")
    texts = [name for name in _IDS if frame.schema[name] == pl.String]
    ids = [(pl.col(name).is_null(), f"no {name}") for name in _IDS]
    ids += [(pl.col(name).is_in(NULLS), f"no {name}") for name in texts]
    codes = [(pl.col(n).cast(pl.String).str.contains("\ufffd", literal=True), f"{n} not in UTF-8") for n in _IDS]
    values = [
        (rating.is_null(), "no rating that is a number"),
        (~rating.is_between(*scale), "rating outside of the scale"),
        (time.is_null(), "no readable timestamp"),
        (time < 0, "timestamp before 1970"),
    ]
    codes += [(pl.col(n).cast(pl.String).str.contains("[\0\r]"), f"{n} with NUL or a carriage return") for n in _IDS]
    found = [pl.when(wrong).then(pl.lit(reason)) for wrong, reason in (*ids, *codes, *values)]
    return frame.select(pl.coalesce(found)).to_series()


def _problem(
    row: Mapping[str, str | None],
    names: Mapping[str, str],
    scale: tuple[float, float],
    forms: tuple[TimeForm, RatingForm],
) -> str:
    """The message for a wrong row; `names` are the file's own, `forms` those of its times and ratings."""
    form, rated = forms
    for name in _IDS:
        if (problem := id_problem(row[name])) is not None:
            return f"{names[name]} {problem}"
    problem = rating_problem(names["rating"], row["rating"] or "", scale, rated)
    return problem or form.problem(names.get("timestamp", "timestamp"), row["timestamp"] or "")


def is_no_id(texts: pl.Series) -> pl.Series:
    """Whether each text stands for no value, or has a character that no id has, (rows,) Boolean."""
    return texts.is_in(NULLS) | texts.str.contains("[\0\r\ufffd]")


def id_problem(value: str | None) -> str | None:
    """The problem with an id; None if it is right."""
    if value is None:
        return "is empty, expected an id"
    if value in NULLS:
        return f"{value!r} stands for no value, expected an id"
    if "\ufffd" in value:
        return f"{value!r} is not UTF-8 text, or has U+FFFD of an earlier conversion: {IN_UTF8}"
    return f"{value!r} has NUL or a carriage return, expected text on a line" if {"\0", "\r"} & {*value} else None


def rating_problem(name: str, value: str, scale: tuple[float, float], rated: RatingForm = NUMBERS) -> str | None:
    """The problem with a rating in a column of some form, and the remedy; None if it is right."""
    text, value = value, rated.numbers(pl.Series([value]))[0]
    if value is None:
        return f"{name} {text!r} is in another form than most, expected {rated.name}"
    number = float(value) if _NUMBER.fullmatch(value) else math.nan
    if not math.isfinite(number):
        remedy = " with a decimal point" if re.fullmatch(r"[+-]?\d+,\d+", value) else ""
        return f"{name} {value!r} is not a number, expected one from {scale[0]:g} to {scale[1]:g}{remedy}"
    if number in (-1, 0) and number < scale[0]:
        meant = f"if it means that the user did not rate, --set ratings.not_rated={number:g} leaves such rows out"
        return f"{name} {number:g} is outside of the scale {scale[0]:g} to {scale[1]:g}: {meant}"
    if not scale[0] <= number <= scale[1]:
        return (
            f"{name} {number:g} is outside of the scale, expected {scale[0]:g} to {scale[1]:g} "
            f"(another scale is set as ratings.scale, such as --set ratings.scale=[1,10])"
        )
    return None


def _read_typed(file: SourceFile, typed: Format, how: Reading) -> RatingTable:
    names = typed.header(file)
    roles = how.roles | {"title": "title"}
    used, above = _columns_of(file, names, how)
    used["title"] = column_of("title", names, how.columns, file.place, needed=False)
    check_roles(used, file.place)
    if how.scratch is not None:
        del used["title"]
    present = {name: column for name, column in used.items() if column is not None}
    if how.scratch is not None:
        if above or typed.read_blocks is None:
            how.scratch.refuse(f"is {typed.name}, or has values in names of folders", file.place, _ON_DISK)
        return _typed_on_disk(file, typed, present, how, how.scratch)
    found = typed.columns(file, list(dict.fromkeys(present.values())))
    casts = [
        pl.col(column).cast(type_of(roles[name], column, found.schema[column], file.place)).alias(name)
        for name, column in present.items()
    ]
    ones = [name for name in (*above, "rating") if name not in present]
    frame = found.select(*casts, *(pl.lit(1, _TYPES.get(name, pl.Int64())).alias(name) for name in dict.fromkeys(ones)))
    frame = frame.with_columns(printable(frame[name]) for name in _IDS)
    rated = IN_WORDS if "rating" in present and found.schema[present["rating"]] == pl.Boolean else NUMBERS
    table = RatingTable(frame, file, None)
    if frame["rating"].dtype == pl.String:
        texts = frame.with_columns(frame["rating"].str.strip_chars(WHITE).replace("", None))
        numbers, rated = _in_numbers(texts)
        frame = numbers.with_columns(pl.col("rating").cast(pl.Float64, strict=False))
        wrong = frame["rating"].is_null() & texts["rating"].is_not_null()
        if not how.skip and wrong.any():
            problem = rating_problem(present["rating"], texts["rating"][_first(wrong)], how.accepted, rated)
            table.fail(problem or "has a rating that is no number", _first(wrong))
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
    table = _with_folders(table, above, how)
    if how.skip:
        return table
    wrong = frame["timestamp"].is_null() & times.is_not_null()
    if wrong.any():
        # Python has no dates of the years that a typed column may hold.
        value = (times.to_physical() if times.dtype.is_temporal() else times)[_first(wrong)]
        table.fail(form.problem(present["timestamp"], str(value)), _first(wrong))
    for name in COLUMNS:
        if frame[name].null_count():
            column = present.get(name, name)
            table.fail(f"{column} is empty, expected a value{_WAY_OUT}", _first(frame[name].is_null()))
    return table


def _typed_on_disk(
    file: SourceFile, typed: Format, present: Mapping[str, str], how: Reading, scratch: Scratch
) -> RatingTable:
    """Read typed columns block by block: ids that are integers or text, ratings that are numbers, times.

    Raises `InputError` as `_read_typed` does, or for columns of other types.
    """
    blocks = typed.blocks(file, list(dict.fromkeys(present.values())))
    first = next(blocks)
    kinds = {name: type_of(how.roles[name], c, first.schema[c], file.place) for name, c in present.items()}
    times = kinds.get("timestamp", pl.Int64())
    if kinds["rating"] == pl.String or not (times.is_integer() or times.is_temporal()):
        scratch.refuse("has ratings or times as text, or times with fractions", file.place, _ON_DISK)
    form = time_form(first[present["timestamp"]]) if times.is_temporal() else None

    def cast(block: pl.DataFrame) -> pl.DataFrame:
        frame = block.select(pl.col(column).cast(kinds[name]).alias(name) for name, column in present.items())
        if form is not None:
            frame = frame.with_columns(form.values(frame["timestamp"]))
        ids = (printable(frame[name]) for name in _IDS)
        return frame.with_columns(ids).cast({} if how.numbered else {"timestamp": pl.Int64()})

    every = RatingTable(first.head(0), file, None, columns=roles_of(typed.header(file), dict(present)))
    every = replace(every, rated=IN_WORDS if first.schema[present["rating"]] == pl.Boolean else NUMBERS)
    try:
        table = replace(every, frame=scratch.table(cast(block) for block in chain([first], blocks)))
        return _timed(table, how, scratch) if form is None else replace(table, form=form)
    except MissingError as error:
        lines = RatingTable(pl.DataFrame({"row": range(error.row + 1)}), file, None)
        lines.fail(f"{error.column} is missing", error.row)
    except POLARS_FAULTS:
        scratch.refuse("has ids or times of several types", file.place, _ON_DISK)


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


def printable(ids: pl.Series) -> pl.Series:
    """Integers as Int64, or as text if one is too large for Int64; empty text becomes null."""
    if not ids.dtype.is_integer():
        return ids.replace("", None)
    numbers = ids.cast(pl.Int64, strict=False)
    return numbers if numbers.null_count() == ids.null_count() else ids.cast(pl.String)


def _check_values(table: RatingTable, scale: tuple[float, float]) -> None:
    """Raise `InputError` for the first rating outside of the scale, or time before 1970."""
    rating, timestamp = table.frame["rating"], table.frame["timestamp"]
    found = table.frame.select((~pl.col("rating").is_between(*scale)).any(), (pl.col("timestamp") < 0).any())
    if any(found.row(0)):
        row = _first(~rating.is_between(*scale) | (timestamp < 0))
        problem = rating_problem("rating", str(rating[row]), scale)
        table.fail(problem or table.form.problem("timestamp", table.form.shown(timestamp[row])), row)


def _duplicates(keys: pl.DataFrame, scratch: Scratch | None = None) -> pl.DataFrame:
    """The rows whose user rated the item at that time before: `row`, the columns of `keys`, and the `first` such row.

    Sorted 64-bit hashes find the candidates: 8 bytes for each row, and block by block if users ascend. Only rows with
    equal hashes are compared.
    """
    bounds, users = np.array([0, keys.height]), keys["user_id"]
    if _ascends(users, keys["item_id"]) or _ascends(users, keys["timestamp"]):  # as most published logs are sorted
        return keys.head(0).with_columns(pl.lit(0).alias("row"), pl.lit(0).alias("first"))
    if users.is_sorted():
        bounds = bounds_of(users.rle().struct.field("len").to_numpy().astype(np.int64))
    candidates = []
    for begin, end in pairwise(bounds.tolist()):
        hashes = _hashes(keys.slice(begin, end - begin), scratch if users.len() == end - begin else None)
        ordered = empty(scratch if users.len() == end - begin else None, hashes.size, np.uint64)
        ordered[:] = hashes
        ordered.sort()
        same = [ordered[1:][b][ordered[1:][b] == ordered[:-1][b]] for b in blocks_of(hashes.size - 1)]
        if any(part.size for part in same):
            again = np.concatenate(same)
            candidates += [begin + b.start + np.flatnonzero(np.isin(hashes[b], again)) for b in blocks_of(hashes.size)]
    rows = keys.with_row_index("row")[np.concatenate(candidates) if candidates else []]
    rows = rows.with_columns(pl.col("row").min().over("user_id", "item_id", "timestamp").alias("first"))
    return rows.filter(pl.col("row") > pl.col("first")).sort("row")


def _ascends(first: pl.Series, second: pl.Series) -> bool:
    """Whether each row of two Int64 columns is greater than the one before; False for other columns."""
    if {first.dtype, second.dtype} != {pl.Int64}:
        return False
    for begin in range(0, first.len(), BLOCK):  # a block of a column in chunks is read without a copy of the column
        a, b = first.slice(begin, BLOCK + 1).to_numpy(), second.slice(begin, BLOCK + 1).to_numpy()
        if not ((a[1:] > a[:-1]) | ((a[1:] == a[:-1]) & (b[1:] > b[:-1]))).all():
            return False
    return True


def _refuse_duplicate(
    table: RatingTable, row: int, user: str | int, item: str | int, time: int, first: int
) -> NoReturn:
    part, _ = table.part_of(row)
    before = table.place_of(first, part.file.place)
    found = f"user {user} rated item {item} at {table.form.shown(time)} already on {before}"
    table.fail(f"{found}, expected one rating at a time", row)


def _hashes(keys: pl.DataFrame, scratch: Scratch | None = None) -> NDArray[np.uint64]:
    """A hash of each row: the sum of the columns' values, each times its factor of `_FACTORS`, modulo 2^64."""
    total = empty(scratch, keys.height, np.uint64)
    total[:] = 0
    for begin in range(0, keys.height, BLOCK):
        part = total[begin : begin + BLOCK]
        for column, factor in zip(keys.slice(begin, BLOCK), _FACTORS, strict=True):
            values = column if column.dtype == pl.Int64 else column.hash()
            part += values.to_numpy().view(np.uint64) * factor
    return total


def without_title(rated: pl.Series, items: pl.DataFrame) -> pl.Series:
    """The distinct rated items that have no title in `items`."""
    titled, rated = items.filter(is_shown(pl.col("title")))["item_id"], distinct(rated)
    return rated.filter(~rated.is_in(titled.implode()))


def distinct(ids: pl.Series) -> pl.Series:
    """The distinct ids; integers from a narrow range are marked in a table, in a fifth of the time of a hash."""
    if ids.dtype != pl.Int64 or ids.null_count() or ids.is_empty():
        return ids.unique()
    low, high = int(ids.min()), int(ids.max())  # type: ignore[arg-type]
    if high - low > 2 * ids.len() + BLOCK:
        return ids.unique()
    found = np.zeros(high - low + 1, np.bool_)
    for begin in range(0, ids.len(), BLOCK):
        found[ids.slice(begin, BLOCK).to_numpy() - low] = True
    return pl.Series(ids.name, np.flatnonzero(found) + low)


def check_titles(table: RatingTable, items: pl.DataFrame, where: str) -> None:
    """Raise `InputError` for the first rating whose item has no title in `items`."""
    missing = without_title(table.frame["item_id"], items)
    if missing.len():
        row = _first(table.frame["item_id"].is_in(missing.implode()))
        item = table.frame["item_id"][row]
        expected = other_spelling(item, items) or "one for every rated item, or --untitled drop or id"
        table.fail(f"item {item} has no title in {where}, expected {expected}", row)


def other_spelling(item: str | int, items: pl.DataFrame) -> str:
    """What to expect of an item that has a title under another spelling of its id; empty if it has none."""
    other = _spelled_otherwise(item, items.filter(is_shown(pl.col("title")))["item_id"])
    hint = _AS_INTEGERS if f"{item} {other}".count(".0") == 1 else ""
    return "" if other is None else f"one spelling in both tables: it has item {other}{hint}"


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
