"""Read the files of a table of ratings, and check their values together."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NoReturn

import polars as pl

from palate.errors import InputError
from palate.ratings.blocks import BLOCK
from palate.ratings.duplicates import duplicates_in
from palate.ratings.formats import FORMATS, TornError, format_of
from palate.ratings.ids import AS_INTEGERS, IDS, as_ids, id_problem, is_no_id, spelled_twice
from palate.ratings.layout import check_zeros
from palate.ratings.rating_table import RatingTable
from palate.ratings.reading import Reading, numbered
from palate.ratings.source import SourceFile
from palate.ratings.text_ratings import read_text
from palate.ratings.typed_ratings import read_typed
from palate.ratings.wrong_rows import REMEDY, first_row, rating_problem, reasons_of
from palate.store.parquet import DamagedError, row_count

_BYTES = 8
"""Bytes of a row in a file that does not show how many it has, at least."""


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
    for name in IDS:
        if (ids := table.frame[name]).dtype != pl.String:
            continue
        different = ids.unique()
        wrong = different.filter(is_no_id(different))
        if wrong.len():
            row = first_row(ids.is_in(wrong.implode()))
            table.fail(f"{name} {id_problem(ids[row])}{REMEDY}", row)
        if (pair := spelled_twice(different)) is not None:
            problem = f"{name} {pair[0]} is spelled {pair[1]} in other rows, expected one spelling"
            table.fail(f"{problem}{AS_INTEGERS}", first_row(ids == pair[0]))
    _check_values(table, scale)
    if how.scratch is not None:
        how.scratch.release()
    if how.likes:
        return table
    duplicates = duplicates_in(table.frame.select("user_id", "item_id", "timestamp"), how.scratch)
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
        table = read_text(file, how) if typed is None else read_typed(file, typed, how)
        if typed is None:
            check_zeros(file)
    except TornError as error:
        if typed is None or how.copy_path is None or not how.skip:
            raise InputError(f"{error.message}{REMEDY}", error.place, error.line) from None
        whole, wrong_lines = typed.without_wrong_lines(file, how.copy_path(f"{file.place} without wrong lines"))
        table = replace(read_typed(whole, typed, how), wrong_lines=wrong_lines)
    if not how.skip:
        return table
    table = table.without(reasons_of(table.frame, table.rated.scale(how.accepted)))
    texts = [name for name in IDS if typed is None and table.frame[name].dtype == pl.String]
    return replace(table, frame=table.frame.with_columns(as_ids(table.frame[name]) for name in texts))


def _check_values(table: RatingTable, scale: tuple[float, float]) -> None:
    """Raise `InputError` for the first rating outside of the scale, or time before 1970."""
    rating, timestamp = table.frame["rating"], table.frame["timestamp"]
    found = table.frame.select((~pl.col("rating").is_between(*scale)).any(), (pl.col("timestamp") < 0).any())
    if any(found.row(0)):
        row = first_row(~rating.is_between(*scale) | (timestamp < 0))
        problem = rating_problem("rating", str(rating[row]), scale)
        table.fail(problem or table.form.problem("timestamp", table.form.shown(timestamp[row])), row)


def _refuse_duplicate(
    table: RatingTable, row: int, user: str | int, item: str | int, time: int, first: int
) -> NoReturn:
    part, _ = table.part_of(row)
    before = table.place_of(first, part.file.place)
    found = f"user {user} rated item {item} at {table.form.shown(time)} already on {before}"
    table.fail(f"{found}, expected one rating at a time", row)


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
