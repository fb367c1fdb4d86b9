"""Read Parquet tables that other programs wrote; a damaged table raises `DamagedError`.

pyarrow reads them, because Polars's reader may end the process at a damaged page, or print a panic first.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from palate.errors import first_line

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa
    import pyarrow.parquet as pq

_ROWS = 1_000_000


class DamagedError(ValueError):
    """A file is damaged or not a Parquet table; the message is one line."""


def column_names(path: Path) -> list[str]:
    """The names of the columns in file order. Raises `DamagedError` and `FileNotFoundError`."""
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            return [str(name) for name in file.schema_arrow.names]
    except FileNotFoundError:
        raise
    except Exception as error:  # pyarrow's own errors have several bases
        raise DamagedError(first_line(error)) from None


def row_count(path: Path) -> int:
    """The number of rows. Raises `DamagedError` and `FileNotFoundError`."""
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            return int(file.metadata.num_rows)
    except FileNotFoundError:
        raise
    except Exception as error:
        raise DamagedError(first_line(error)) from None


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> "pl.DataFrame":
    """The table, or some of its columns. Raises `DamagedError` and `FileNotFoundError`."""
    import polars as pl
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            table = _read(file, None if columns is None else list(columns))
            table.validate()
            for column in table.columns:
                if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
                    column.validate(full=True)  # any bits are a number, so that it has nothing to find in numbers
            # `validate` does not check the schema's metadata, which may be damaged.
            plain = pa.schema([column.remove_metadata() for column in table.schema])
            frame = pl.from_arrow(pa.Table.from_arrays(table.columns, schema=plain))
    except FileNotFoundError:
        raise
    except Exception as error:
        raise DamagedError(first_line(error)) from None
    assert isinstance(frame, pl.DataFrame)
    return frame if columns is None else frame.select(columns)


def read_blocks(path: Path, columns: Sequence[str]) -> Iterator["pl.DataFrame"]:
    """Some columns of the table, block by block. Raises `DamagedError` and `FileNotFoundError`."""
    import polars as pl
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            rows = 0
            for batch in file.iter_batches(_ROWS // 4, columns=list(columns)):
                batch.validate(full=True)
                rows += batch.num_rows
                block = pl.from_arrow(batch)
                assert isinstance(block, pl.DataFrame)
                yield block.select(columns)
            _check_rows(file, rows)
    except FileNotFoundError:
        raise
    except Exception as error:
        raise DamagedError(first_line(error)) from None


def _read(file: "pq.ParquetFile", columns: list[str] | None) -> "pa.Table":
    """The table in pieces of about `_ROWS`: in one piece, memory is moved as it grows, which takes up to half more."""
    import pyarrow as pa

    pieces, group, rows = [], [], 0
    for number in range(file.num_row_groups):
        group.append(number)
        rows += file.metadata.row_group(number).num_rows
        if rows >= _ROWS or number + 1 == file.num_row_groups:
            pieces.append(file.read_row_groups(group, columns=columns))
            group, rows = [], 0
    table = pa.concat_tables(pieces) if pieces else file.read(columns=columns)
    _check_rows(file, table.num_rows)
    return table


def _check_rows(file: "pq.ParquetFile", rows: int) -> None:
    """Raise `ValueError` if the pages have another number of rows than the footer says, which pyarrow lets pass."""
    if rows != file.metadata.num_rows:
        raise ValueError(f"the footer says {file.metadata.num_rows:,} rows, the pages have {rows:,}")


def metadata_of(path: Path) -> dict[str, str]:
    """The file's key-value metadata without pyarrow's schema. Raises `DamagedError` and `FileNotFoundError`."""
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            found = file.metadata.metadata or {}
        return {key.decode(): value.decode() for key, value in found.items() if key != b"ARROW:schema"}
    except FileNotFoundError:
        raise
    except Exception as error:
        raise DamagedError(first_line(error)) from None
