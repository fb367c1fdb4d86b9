"""The file formats of tables by suffix; to add one with typed columns, add an entry to `FORMATS`.

Without Polars at import, because training can run without it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from palate.errors import InputError, first_line
from palate.ratings import dataset_table, json_table, mind, spreadsheet
from palate.ratings.json_table import WrongLineError
from palate.ratings.source import LARGE, MOST_TIMES, PACKED, SourceFile
from palate.store import parquet
from palate.store.artifacts import writing

if TYPE_CHECKING:
    import polars as pl

Found = TypeVar("Found")


class TornError(InputError):
    """A line of a file is no row of its format; `Format.without_wrong_lines` reads the others."""


@dataclass(frozen=True)
class Format:
    """A format with typed columns. Its functions may raise any `Exception` for a file that they cannot read."""

    name: str
    names: Callable[[Path], Sequence[str]]
    """The columns of a file, in file order."""
    read: Callable[[Path, Sequence[str] | None], "pl.DataFrame"]
    """These columns of a file in this order; None: all."""
    lines: Callable[[Path], Iterable[int] | None] = lambda path: None
    """The line of each row of a file, from 1; None: it has no lines."""
    wrong_lines: Callable[[Path], Iterator[WrongLineError]] = lambda path: iter(())
    """The lines of a file that are no rows."""
    blank: bytes = b"\n"
    """A line that is read as none."""
    read_blocks: Callable[[Path, Sequence[str]], Iterator["pl.DataFrame"]] | None = None
    """These columns of a file, block by block; None: the format is read as a whole."""

    def header(self, file: SourceFile) -> list[str]:
        """The columns of a file; raises `InputError` for a file of another format."""
        return list(self._try(file, "is not a {} file", lambda: self.names(file.path)))

    def columns(self, file: SourceFile, columns: Sequence[str] | None = None) -> "pl.DataFrame":
        """The table, or some of its columns; raises `InputError` for a damaged file, or one of another format."""
        return self._try(file, "cannot be read, expected a whole {} file", lambda: self.read(file.path, columns))

    def blocks(self, file: SourceFile, columns: Sequence[str]) -> Iterator["pl.DataFrame"]:
        """As `columns`, block by block, in a format with `read_blocks`."""
        assert self.read_blocks is not None
        found = self.read_blocks(file.path, columns)
        problem = "cannot be read, expected a whole {} file"
        while (block := self._try(file, problem, lambda: next(found, None))) is not None:
            yield block

    def without_wrong_lines(self, file: SourceFile, copy: Path) -> tuple[SourceFile, list[tuple[int, str, str]]]:
        """The file with a `copy` in which the wrong lines are blank; of these the number, the reason, and the text."""
        wrong = {error.line: error.reason for error in self.wrong_lines(file.path)}
        wrong_lines = []
        with file.path.open("rb") as lines, writing(copy), copy.open("wb") as out:
            for number, line in enumerate(lines, 1):
                if number in wrong:
                    wrong_lines.append((number, wrong[number], line.decode(errors="replace").rstrip("\r\n")))
                out.write(self.blank if number in wrong else line)
        return replace(file, path=copy), wrong_lines

    def _try(self, file: SourceFile, problem: str, read: Callable[[], Found]) -> Found:
        import polars as pl

        try:
            return read()
        except WrongLineError as error:
            raise (TornError if error.reason else InputError)(str(error), file.place, error.line) from None
        except InputError as error:
            raise InputError(error.message, file.place) from None
        except (Exception, pl.exceptions.PanicException) as error:  # each library has errors of its own
            if problem.startswith("is not") and self is _PARQUET and _begins_as_parquet(file.path):
                problem = "is only a part of a {} file, fetch or write it again"
            raise InputError(f"{problem.format(self.name)}: {first_line(error)}", file.place) from None


def _begins_as_parquet(path: Path) -> bool:
    with path.open("rb") as content:
        return content.read(4) == b"PAR1"


def _read_parquet(path: Path, columns: Sequence[str] | None = None) -> "pl.DataFrame":
    """As `parquet.read_parquet`; raises `ValueError` for a bomb: repeated rows take next to no bytes."""
    rows, size = parquet.row_count(path), path.stat().st_size
    if 32 * rows > max(LARGE, MOST_TIMES * size):
        raise ValueError(f"{rows:,} rows in {size:,} bytes are no log")
    return parquet.read_parquet(path, columns)


_PARQUET = Format("Parquet", parquet.column_names, _read_parquet, read_blocks=parquet.read_blocks)
_JSON = Format("JSON", json_table.column_names, json_table.read_json, json_table.row_lines, json_table.wrong_lines)
_ARROW = Format("Arrow IPC", dataset_table.column_names, dataset_table.read_arrow)
_MIND = Format("MIND", mind.column_names, mind.read_behaviors, mind.row_lines, mind.wrong_lines, blank=mind.BLANK)
_SHEET = Format("a spreadsheet", spreadsheet.column_names, spreadsheet.read_sheet, spreadsheet.row_lines)
_DATASET = Format("datasets", dataset_table.column_names, dataset_table.read_arrow)
FORMATS = {
    **dict.fromkeys((".parquet", ".pq"), _PARQUET),
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), _JSON),
    **dict.fromkeys((".arrow", ".feather"), _ARROW),
    **dict.fromkeys(spreadsheet.SUFFIXES, _SHEET),
}
"""The formats with typed columns. All other tables are text, see `palate.ratings.layout`."""


def format_of(file: SourceFile) -> Format | None:
    """The format of a file with typed columns; None for text."""
    if file.path.is_dir():
        return _DATASET
    if file.name.lower() == mind.FILE:
        return _MIND
    suffix = Path(file.name).suffix.lower()
    return FORMATS.get(file.path.suffix if file.path.suffix == ".parquet" else suffix)  # that of a database's table


def own_suffixes() -> tuple[str, ...]:
    """How the names of your own tables end."""
    return (".csv", ".tsv", *FORMATS)


def split_suffixes() -> tuple[str, ...]:
    """How the names of tables with splits end; JSON with splits are Alpaca files."""
    return (".csv", ".tsv", ".inter", *(suffix for suffix, kind in FORMATS.items() if kind is not _JSON))


def table_suffixes() -> tuple[str, ...]:
    """How the names of all tables end."""
    return (*own_suffixes(), ".inter", ".txt", ".psv", ".dat", ".data")


def is_table(name: str) -> bool:
    """Whether a file's name is that of a table, compressed or not."""
    path = Path(name.lower())
    suffix = path.with_suffix("").suffix if path.suffix in PACKED else path.suffix
    return suffix in table_suffixes()
