"""The file formats of tables by suffix; to add one with typed columns, add an entry to `FORMATS`.

Without Polars at import, because training can run without it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from palate.errors import InputError, first_line
from palate.ratings.source import SourceFile
from palate.store import parquet

if TYPE_CHECKING:
    import polars as pl

Found = TypeVar("Found")


@dataclass(frozen=True)
class Format:
    """A format with typed columns. Its functions may raise any `Exception` for a file that they cannot read."""

    name: str
    names: Callable[[Path], Sequence[str]]
    """The columns of a file, in file order."""
    read: Callable[[Path, Sequence[str] | None], "pl.DataFrame"]
    """These columns of a file in this order; None: all."""
    lines: Callable[[Path], Iterable[int]] | None = None
    """The line of each row, from 1; None: the format has no lines."""

    def header(self, file: SourceFile) -> list[str]:
        """The columns of a file; raises `InputError` for a file of another format."""
        return list(self._try(file, "is not a {} file", lambda: self.names(file.path)))

    def columns(self, file: SourceFile, columns: Sequence[str] | None = None) -> "pl.DataFrame":
        """The table, or some of its columns; raises `InputError` for a damaged file, or one of another format."""
        return self._try(file, "cannot be read, expected a whole {} file", lambda: self.read(file.path, columns))

    def _try(self, file: SourceFile, problem: str, read: Callable[[], Found]) -> Found:
        try:
            return read()
        except Exception as error:  # each library has errors of its own
            raise InputError(f"{problem.format(self.name)}: {first_line(error)}", file.place) from None


_PARQUET = Format("Parquet", parquet.column_names, parquet.read_parquet)
FORMATS = {".parquet": _PARQUET, ".pq": _PARQUET}
"""The formats with typed columns. All other tables are text, see `palate.ratings.layout`."""


def format_of(file: SourceFile) -> Format | None:
    """The format of a file with typed columns; None for text."""
    return FORMATS.get(Path(file.name).suffix.lower())


def own_suffixes() -> tuple[str, ...]:
    """How the names of your own tables end."""
    return (".csv", ".tsv", *FORMATS)


def split_suffixes() -> tuple[str, ...]:
    """How the names of tables with splits end."""
    return (*own_suffixes(), ".inter")


def table_suffixes() -> tuple[str, ...]:
    """How the names of all tables end."""
    return (*split_suffixes(), ".txt", ".dat", ".data")
