"""Read a sheet of an `.xlsx` or `.ods` file, by way of a Parquet copy that also has the row of the sheet."""

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


def convert(
    path: Path, place: str, sheet: str | None, copy: Path, check: Callable[[zipfile.ZipInfo, str], None]
) -> None:
    """Write a sheet, by default the first, as Parquet; `check` refuses members of the file that are bombs.

    Raises `InputError` for another file, a sheet that is not there, and a package that is missing.
    """
    import polars as pl

    try:
        import fastexcel
    except ModuleNotFoundError:
        raise InputError("needs fastexcel: pip install 'palate[excel]'", place) from None
    try:
        with zipfile.ZipFile(path) as book:
            for member in book.infolist():
                check(member, place)
        names = fastexcel.read_excel(path).sheet_names
        if sheet is not None and sheet not in names:
            raise InputError(f"has no sheet {sheet!r}, expected one of {', '.join(names)}", place)
        table = pl.read_excel(
            path,
            sheet_name=names[0] if sheet is None else sheet,
            engine="calamine",
            infer_schema_length=None,
            drop_empty_rows=False,
            raise_if_empty=False,
        )
    except InputError:
        raise
    except Exception as error:  # of the zip, of fastexcel, and of Polars
        raise InputError(f"is not a whole spreadsheet: {first_line(error)}", place) from None
    filled = pl.any_horizontal(pl.all().exclude(_ROW).is_not_null())
    with writing(copy):
        table.with_row_index(_ROW, 2).filter(filled).write_parquet(copy)


def column_names(path: Path) -> list[str]:
    """The names of the columns."""
    return [name for name in parquet.column_names(path) if name != _ROW]


def read_sheet(path: Path, columns: Sequence[str] | None = None) -> "pl.DataFrame":
    """The table, or some of its columns."""
    return parquet.read_parquet(path, column_names(path) if columns is None else columns)


def row_lines(path: Path) -> Iterator[int]:
    """The row of the sheet of each row of the table, from 1."""
    return iter(parquet.read_parquet(path, [_ROW])[_ROW])
