"""Read the ratings of a text file: typed columns in one pass, and the first wrong line if a value is wrong."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import islice, takewhile

import polars as pl

from palate.errors import InputError
from palate.ratings.blocks import BLOCK
from palate.ratings.ids import IDS, as_ids
from palate.ratings.layout import (
    POLARS_FAULTS,
    Layout,
    check_encoding,
    layout_of,
    records,
    roles_of,
    width_problem,
)
from palate.ratings.rating_forms import NUMBERS, RatingForm, in_numbers, rating_form
from palate.ratings.rating_table import COLUMNS, RatingTable
from palate.ratings.reading import ON_DISK, TYPES, Reading, columns_of, numbered, slices, timed, with_folders
from palate.ratings.scan import NOWHERE, scan, whole_rows
from palate.ratings.source import SourceFile
from palate.ratings.text import WHITE
from palate.ratings.times import SECONDS, TimeForm, TimesError, time_form
from palate.ratings.wrong_rows import REMEDY, first_row, reasons_of, row_problem
from palate.store.scratch import Scratch


def read_text(file: SourceFile, how: Reading) -> RatingTable:
    """The ratings of a text file; raises `InputError` with the line of the first value that cannot be read.

    With `how.skip` such values are null.
    """
    layout = layout_of(file, how.header)
    used, above = columns_of(file, layout.names, how)
    roles = roles_of(layout.names, used)
    if how.scratch is not None:
        del used["title"]
    places = {name: layout.names.index(column) for name, column in used.items() if column is not None}
    places |= dict.fromkeys(above, NOWHERE)
    places.setdefault("rating", NOWHERE)
    if how.scratch is not None:
        if above or layout.rewritten:
            how.scratch.refuse("has quotes within its fields, or values in names of folders", file.place, ON_DISK)
        return replace(_read_on_disk(file, layout, places, how, how.scratch), columns=roles)
    try:
        frame = scan(file, layout, places, TYPES, ids=IDS)
        frame = numbered(frame) if how.numbered else frame
        if not _has_nulls(frame):
            form = time_form(frame["timestamp"])
            frame = frame.with_columns(form.values(frame["timestamp"]))
            if not _has_nulls(frame):
                return with_folders(RatingTable(frame, file, layout, form, columns=roles), above, how)
    except POLARS_FAULTS:
        pass
    read = _read_leniently(file, layout, places, how) if how.skip else _read_carefully(file, layout, places, how)
    return with_folders(replace(read, columns=roles), above, how)


def _read_on_disk(
    file: SourceFile, layout: Layout, places: Mapping[str, int], how: Reading, scratch: Scratch
) -> RatingTable:
    """Read ids that are integers or text, ratings and times that are numbers, block by block.

    Raises `InputError` with the line of the first wrong value, or for a table in another form.
    """
    named = [name for name in COLUMNS if name in how.roles]
    try:
        frame = scan(file, layout, places, TYPES, ids=IDS, into=scratch.table)
        return timed(RatingTable(frame.select(named), file, layout), how, scratch)
    except POLARS_FAULTS:
        pass
    fields = [row for _, row in islice(records(file, layout), BLOCK) if len(row) == len(layout.names)]
    texts = {name: [row[places[name]] for row in fields] for name in named}
    head = _stripped(pl.DataFrame(texts, dict.fromkeys(named, pl.String())), decimal_comma=False)
    form, rated = SECONDS if how.numbered else _form_of(head["timestamp"], file), rating_form(head["rating"])
    if form.kind != "number" or form.fractions or rated != NUMBERS:
        found = f"has {form.name} as times and {rated.name or 'numbers'} as ratings"
        scratch.refuse(found, file.place, ON_DISK)

    def whole(blocks: Iterable[pl.DataFrame]) -> pl.DataFrame:
        texts = pl.col(IDS).str.strip_chars(WHITE).replace("", None)
        blank = pl.all_horizontal(pl.col(named).is_null())
        return scratch.table(block.select(named).with_columns(texts).filter(~blank) for block in blocks)

    try:
        frame = scan(file, layout, places, TYPES, into=whole)
        for name in IDS:
            if all(as_ids(block).dtype == pl.Int64 for block in slices(frame[name])):
                frame = frame.with_columns(scratch.table(as_ids(block).to_frame() for block in slices(frame[name])))
        return timed(RatingTable(frame, file, layout), how, scratch)
    except POLARS_FAULTS:
        _diagnose(file, layout, places, how, (form, rated))
        check_encoding(file)
        scratch.refuse("has ratings or times that are written in several ways", file.place, ON_DISK)


def _form_of(times: pl.Series, file: SourceFile) -> TimeForm:
    try:
        return time_form(times)
    except TimesError as error:
        raise InputError(str(error), file.place) from None


def _has_nulls(frame: pl.DataFrame) -> bool:
    return any(frame[name].null_count() for name in COLUMNS)


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
    texts, rated = in_numbers(texts)
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


def _read_leniently(file: SourceFile, layout: Layout, places: Mapping[str, int], how: Reading) -> RatingTable:
    """As `_read_carefully`: wrong values become null, and rows with another number of fields are skipped."""
    texts, ragged = whole_rows(file, layout, places)
    skipped = pl.DataFrame({"row": ragged}, {"row": pl.Int64}).with_columns(reason=pl.lit("wrong number of fields"))
    texts, rated = in_numbers(_stripped(texts, decimal_comma=layout.separator != ","))
    texts = _text_numbered(texts, pl.repeat(True, texts.height, eager=True)) if how.numbered else texts
    try:
        form = time_form(texts["timestamp"])
    except TimesError as error:
        table = RatingTable(texts, file, layout, skipped=skipped)
        table.fail(f"{layout.names[places['timestamp']]} {error}", error.row)
    return RatingTable(_typed(texts, form), file, layout, form, skipped, rated=rated)


def _text_numbered(texts: pl.DataFrame, rows: pl.Series) -> pl.DataFrame:
    """The table with the number of each row of `rows` as its time; null for the others, which are blank."""
    number = pl.when(rows).then(rows.cum_sum().cast(pl.Int64) - 1)
    return texts.with_columns(timestamp=number.cast(pl.String))


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
    columns = {name: pl.col(name).str.strip_chars(WHITE).replace("", None) for name in named}
    if decimal_comma:
        columns["rating"] = columns["rating"].str.replace(r"^([+-]?\d+),(\d\d?)$", "$1.$2")
    return texts.with_columns(**columns)


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
            row = first_row(wrong)
            called = {name: names[places[name]] for name in how.roles}
            problem = row_problem(frame.row(row, named=True), called, scale, (form, rated))
            remedy = REMEDY if None in typed.row(row) else ""  # a number beyond the scale may mean another scale
            raise InputError(f"{problem}{remedy}", file.place, whole[row][0])
        if len(whole) < len(block):
            line, fields = block[len(whole)]
            raise InputError(f"{width_problem(fields, names)}{REMEDY}", file.place, line)
