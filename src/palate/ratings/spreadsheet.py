"""Read a sheet of an `.xlsx` or `.ods` file, by way of a Parquet copy that also has the row of the sheet."""

import logging
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from palate.errors import InputError, first_line
from palate.store import parquet
from palate.store.artifacts import writing

if TYPE_CHECKING:
    import polars as pl

SUFFIXES = (".xlsx", ".ods")
SHEET = "?sheet="
"""Between a path and the name of a sheet."""
_ROW = "row of the sheet"
_PLACE = re.compile(rb"""\br=["']([A-Z]{0,3})(\d{1,7})["']""")
"""The place of a row or a cell of `.xlsx`, such as `B7`."""
_REPEATED = re.compile(rb"""<table:table-cell[^>]*number-columns-repeated=["']\d{4,}["'][^>]*value""")
"""A value in a thousand cells or more of `.ods`."""
_CELLS = 10_000_000
"""Cells that a sheet may have without a value in each hundredth."""


def convert(
    path: Path, place: str, sheet: str | None, copy: Path, check: Callable[[zipfile.ZipInfo, str], None]
) -> str:
    """Write a sheet, by default the first, as Parquet; the place, with the name of the sheet if there are several.

    `check` refuses members of the file that are bombs. Raises `InputError` for another file, a sheet that is not there
    or has no header in its first row, and a package that is missing.
    """
    import polars as pl

    try:
        import fastexcel
    except ModuleNotFoundError:
        raise InputError("needs fastexcel: pip install 'palate[excel]'", place) from None
    try:
        with zipfile.ZipFile(path) as members:
            for member in members.infolist():
                check(member, place)
            _check_gaps(members, place)
        logging.getLogger("fastexcel").setLevel(logging.ERROR)  # it warns of each empty column
        book = fastexcel.read_excel(path)
        names = book.sheet_names
        if sheet is not None and sheet not in names:
            raise InputError(f"has no sheet {sheet!r}, expected one of {', '.join(names)}", place)
        others = f"; its sheets are {', '.join(names)}" if len(names) > 1 else ""
        sheet = names[0] if sheet is None else sheet
        place = f"{place}{SHEET}{sheet}" if others else place
        table = pl.read_excel(
            path,
            sheet_name=sheet,
            engine="calamine",
            infer_schema_length=None,
            drop_empty_rows=False,
            raise_if_empty=False,
        )
        last = book.load_sheet(sheet, header_row=None, skip_rows=0, n_rows=0).total_height
    except InputError:
        raise
    except Exception as error:  # of the zip, of fastexcel, and of Polars
        raise InputError(f"is not a whole spreadsheet, save it again: {first_line(error)}", place) from None
    nameless = [column for column in table if column.name.startswith("__UNNAMED__") and column.count()]
    if table.is_empty() or 2 * len(nameless) >= table.width:
        found = f"names {table.width - len(nameless)} of {table.width} columns" if table.width else "is empty"
        raise InputError(f"the first row {found}, expected a header there and rows below it{others}", place)
    filled = pl.any_horizontal(pl.all().exclude(_ROW).is_not_null())
    with writing(copy):
        table.with_row_index(_ROW, last - table.height + 1).filter(filled).write_parquet(copy)
    return place


def _check_gaps(book: zipfile.ZipFile, place: str) -> None:
    """Raise `InputError` for a value far from all others: the whole rectangle of cells would be in memory."""
    for name in book.namelist():
        if name.startswith("xl/worksheets/"):
            cells, width, height = 0, b"", 0
            with book.open(name) as sheet:
                end = b""
                while block := sheet.read(1 << 24):
                    for column, row in _PLACE.findall(end + block):
                        cells, height = cells + 1, max(height, int(row))
                        width = max(width, column.rjust(3))
                    end = block[-32:]
            columns = sum((letter - 64) * 26**n for n, letter in enumerate(reversed(width.strip())))
            if columns * height > max(_CELLS, 100 * cells):
                raise InputError(f"has values as far as {width.decode().strip()}{height}, expected a table", place)
        elif name == "content.xml" and _REPEATED.search(book.read(name)):
            raise InputError("has a value in a thousand columns, expected a table", place)


def column_names(path: Path) -> list[str]:
    """The names of the columns."""
    return [name for name in parquet.column_names(path) if name != _ROW]


def read_sheet(path: Path, columns: Sequence[str] | None = None) -> "pl.DataFrame":
    """The table, or some of its columns."""
    return parquet.read_parquet(path, column_names(path) if columns is None else columns)


def row_lines(path: Path) -> Iterator[int]:
    """The row of the sheet of each row of the table, from 1."""
    return iter(parquet.read_parquet(path, [_ROW])[_ROW])
