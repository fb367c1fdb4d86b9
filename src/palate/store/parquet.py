"""Parquet tables that others wrote, read so that a damaged one is an error and no more.

pyarrow reads them, since Polars's own reader may end the whole process at a damaged page, or print a panic first.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl


class DamagedError(ValueError):
    """A file that is no Parquet table, or is damaged; says why in a line."""


def column_names(path: Path) -> list[str]:
    """The names of the columns, in their order. Raises `DamagedError`, and `FileNotFoundError`."""
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            return [str(name) for name in file.schema_arrow.names]
    except FileNotFoundError:
        raise
    except Exception as error:  # pyarrow's own errors have several bases
        raise DamagedError(_reason(error)) from None


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> "pl.DataFrame":
    """The table, or some of its columns. Raises `DamagedError`, and `FileNotFoundError`."""
    import polars as pl
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            table = file.read(columns=None if columns is None else list(columns))
            table.validate(full=True)
            plain = pa.schema([column.remove_metadata() for column in table.schema])  # may be damaged, and not checked
            frame = pl.from_arrow(pa.Table.from_arrays(table.columns, schema=plain))
    except FileNotFoundError:
        raise
    except Exception as error:
        raise DamagedError(_reason(error)) from None
    assert isinstance(frame, pl.DataFrame)
    return frame if columns is None else frame.select(columns)


def metadata_of(path: Path) -> dict[str, str]:
    """The file's own key-value metadata. Raises `DamagedError`, and `FileNotFoundError`."""
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            found = file.metadata.metadata or {}
        return {key.decode(): value.decode() for key, value in found.items() if key != b"ARROW:schema"}
    except FileNotFoundError:
        raise
    except Exception as error:
        raise DamagedError(_reason(error)) from None


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
