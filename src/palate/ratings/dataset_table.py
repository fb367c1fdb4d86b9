"""Read Arrow files, and the folder of a dataset that `datasets` saved."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl


def column_names(path: Path) -> list[str]:
    """The names of the columns in file order."""
    return [str(name) for name in _table(path).schema.names]


def read_arrow(path: Path, columns: Sequence[str] | None = None) -> "pl.DataFrame":
    """The table of a file of Arrow's IPC format or stream, or of a saved dataset; or some of its columns."""
    table = _table(path)
    table = table if columns is None else table.select(list(columns))
    table.validate(full=True)  # offsets of a damaged file would end the process
    return frame_of(table)


def frame_of(table: Any) -> "pl.DataFrame":
    """A pyarrow table as one of Polars; raises an error for names that are not UTF-8, and times out of bounds."""
    import polars as pl
    import pyarrow as pa

    for number, field in enumerate(table.schema):
        zone = field.type.tz if pa.types.is_timestamp(field.type) else None  # Polars panics at one that is not UTF-8
        if pa.types.is_timestamp(field.type) and field.type.unit == "s":
            # Polars has no seconds, and its milliseconds of the year 292278994 and later wrap around.
            table = table.set_column(number, field.name, table.column(number).cast(pa.timestamp("ms", zone)))
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def _table(path: Path) -> Any:
    """The pyarrow table, mapped into memory."""
    import pyarrow as pa
    import pyarrow.ipc as ipc

    if path.is_dir():
        from datasets import Dataset

        dataset = Dataset.load_from_disk(str(path))
        return (dataset if dataset._indices is None else dataset.flatten_indices()).with_format("arrow")[:]
    source = pa.memory_map(str(path))
    try:
        return ipc.open_file(source).read_all()
    except pa.ArrowInvalid:
        source.seek(0)
        return ipc.open_stream(source).read_all()
