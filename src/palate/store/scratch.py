"""Scratch: tables and arrays that are too large for the memory, as mapped files without names in the cache's folder.

The system writes their pages to the disk and drops them when memory is short. It removes such a file with the last
array that maps it, also after a crash.
"""

import mmap
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, NoReturn
from weakref import WeakSet

import numpy as np
import polars as pl
from numpy.typing import DTypeLike, NDArray

from palate.errors import InputError, unwritable
from palate.store.hub import cache_dir

ROW, FIXED = 115, 1_000_000_000
"""Bytes of memory for each rating, and of libraries, tokenizer and items, on the way to token tables in memory."""
BLOCK = 1 << 18
"""Rows that are worked on at a time."""
MOST_PARTS = 100
"""Parts of a sort, each with an open file for each column."""
_SHORT = 12
"""Bytes of a text that Arrow stores in its view; a longer text is in a buffer, at a position of 32 bits."""
_BUFFER = 1 << 30
_RELEASED = 1 << 24
"""Rows after which mapped pages are released."""


class MissingError(pl.exceptions.ComputeError):
    """A column that is written has a null, first in row `row`."""

    def __init__(self, column: str, row: int) -> None:
        super().__init__(f"{column} is missing in row {row}")
        self.column, self.row = column, row


@dataclass(frozen=True)
class Scratch:
    """Where the tables of a log of `rows` ratings are, which need more than `memory` bytes."""

    memory: int
    rows: int
    folder: Path
    _maps: "WeakSet[mmap.mmap]" = field(default_factory=WeakSet, compare=False, repr=False)

    @classmethod
    def of(cls, rows: int, memory: int | None) -> "Scratch | None":
        """The scratch for a log; None if it fits `memory` bytes (None: half of the machine's)."""
        memory = memory_limit() // 2 if memory is None else memory
        return cls(memory, rows, cache_dir()) if rows and ROW * rows + FIXED > memory else None

    @property
    def parts(self) -> int:
        """The number of parts of a sort, each of which fits a quarter of the memory."""
        return min(MOST_PARTS, 1 + 4 * ROW * self.rows // self.memory)

    @property
    def fitting(self) -> int:
        """The number of ratings that fit the memory."""
        return max(0, self.memory - FIXED) // ROW

    def refuse(self, what: str, place: str, expected: str = "none") -> NoReturn:
        """Raise `InputError` for an option or a form of the log that needs the whole log in memory."""
        need = (ROW * self.rows + FIXED) / 1e9
        raise InputError(
            f"{what}, which takes {need:,.0f} GB of memory with about {self.rows:,} ratings, and prepare.memory is "
            f"{self.memory / 1e9:.3g} GB; expected {expected}, or more memory",
            place,
        )

    def empty(self, rows: int, dtype: DTypeLike) -> NDArray[Any]:
        """A mapped array of zeros, (rows,); raises `WorkError` if the disk is full."""
        size = rows * np.dtype(dtype).itemsize
        if not size:
            return np.empty(0, dtype)
        self.release()
        with self._file() as file, self.writing():
            file.truncate(size)
            if hasattr(os, "posix_fallocate"):  # a full disk would end the process when a page is first written
                os.posix_fallocate(file.fileno(), 0, size)
            return np.asarray(self._mapped(file, dtype, "r+", rows))

    def table(self, blocks: Iterable[pl.DataFrame]) -> pl.DataFrame:
        """The blocks as one table; their columns are numbers or text without nulls."""
        columns = Columns(self)
        for block in blocks:
            columns.append(block)
        return columns.table()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turn the error of a full disk into one line."""
        try:
            yield
        except OSError as error:
            raise unwritable(self.folder, error) from None

    def release(self) -> None:
        """Let the system count the pages of all mapped files as its own; they are mapped again when they are read."""
        if hasattr(mmap, "MADV_DONTNEED"):
            for each in self._maps:
                each.madvise(mmap.MADV_DONTNEED)

    def _mapped(self, file: IO[bytes], dtype: DTypeLike, mode: Literal["r", "r+"], rows: int | None = None) -> Any:
        found = np.memmap(file, dtype, mode, shape=None if rows is None else (rows,))
        self._maps.add(found._mmap)  # type: ignore[attr-defined]
        return found

    def _file(self) -> IO[bytes]:
        with self.writing():
            self.folder.mkdir(parents=True, exist_ok=True)
            return tempfile.TemporaryFile(dir=self.folder)


class Columns:
    """Appends blocks to a table on the disk."""

    def __init__(self, scratch: Scratch) -> None:
        self.scratch, self.rows = scratch, 0
        self.schema: dict[str, pl.DataType] = {}
        self._files: dict[str, IO[bytes]] = {}
        self._texts: dict[str, list[IO[bytes]]] = {}

    def append(self, block: pl.DataFrame) -> None:
        """Append rows; raises `MissingError` for a null."""
        if not self._files:
            self.schema = dict(block.schema)
            self._files = {name: self.scratch._file() for name in block.columns}
        if self.schema != block.schema:
            raise pl.exceptions.ComputeError("a column has values of several types")
        for column in block:
            if column.null_count():
                raise MissingError(column.name, self.rows + int(column.is_null().arg_true()[0]))
            values = self._views(column) if column.dtype == pl.String else column.to_numpy()
            with self.scratch.writing():
                self._files[column.name].write(np.ascontiguousarray(values).data)
        if self.rows // _RELEASED < (self.rows + block.height) // _RELEASED:
            self.scratch.release()
        self.rows += block.height

    def table(self) -> pl.DataFrame:
        """The rows as a table whose columns are mapped; it may be called once."""
        return pl.DataFrame([self._mapped(name, dtype) for name, dtype in self.schema.items()])

    def _mapped(self, name: str, dtype: pl.DataType) -> pl.Series:
        if not self.rows:
            return pl.Series(name, [], dtype)
        file = self._files.pop(name)
        with self.scratch.writing():
            file.flush()
        if dtype != pl.String:
            kind = pl.Series(dtype=dtype).to_numpy().dtype
            return pl.Series(name, self.scratch._mapped(file, kind, "r", self.rows))
        import pyarrow as pa

        with self.scratch.writing():
            texts = [text for text in self._texts.get(name, []) if text.seek(0, os.SEEK_END)]
            buffers = [pa.py_buffer(self.scratch._mapped(each, np.uint8, "r")) for each in (file, *texts)]
        array = pa.Array.from_buffers(pa.string_view(), self.rows, [None, *buffers])
        column = pl.from_arrow(array)
        assert isinstance(column, pl.Series)
        return column.alias(name)

    def _views(self, column: pl.Series) -> NDArray[np.uint32]:
        """Arrow's views of texts, (rows, 4); long texts are appended to the column's buffers."""
        array: Any = column.rechunk().to_arrow(compat_level=pl.CompatLevel.newest())
        views = np.frombuffer(array.buffers()[1], np.uint32).reshape(-1, 4)
        views = views[array.offset : array.offset + len(array)].copy()
        long = views[:, 0] > _SHORT
        if long.any():
            files = self._texts.setdefault(column.name, [])
            if not files or files[-1].tell() > _BUFFER:
                files.append(self.scratch._file())
            starts = np.cumsum(views[long, 0], dtype=np.int64) - views[long, 0]
            views[long, 2], views[long, 3] = len(files) - 1, files[-1].tell() + starts
            with self.scratch.writing():
                files[-1].write("".join(column.filter(pl.Series(long))).encode())
        return views


def empty(scratch: Scratch | None, rows: int, dtype: DTypeLike) -> NDArray[Any]:
    """An array (rows,) with any content; mapped with a scratch, else in memory."""
    return np.empty(rows, dtype) if scratch is None else scratch.empty(rows, dtype)


def filled(scratch: Scratch | None, rows: int, dtype: DTypeLike, part: Callable[[slice], NDArray[Any]]) -> NDArray[Any]:
    """An array (rows,) whose rows are `part(rows)`, block by block."""
    out = empty(scratch, rows, dtype)
    for block in blocks_of(rows, scratch):
        out[block] = part(block)
    return out


def selected(scratch: Scratch | None, rows: int, chosen: Callable[[slice], NDArray[np.bool_]]) -> NDArray[np.int64]:
    """The numbers of the rows for which `chosen(rows)` is true, ascending, int64."""
    size = sum(int(np.count_nonzero(chosen(block))) for block in blocks_of(rows))
    out, end = empty(scratch, size, np.int64), 0
    for block in blocks_of(rows, scratch):
        found = np.flatnonzero(chosen(block))
        out[end : end + found.size] = found + block.start
        end += found.size
    return out


def blocks_of(rows: int, scratch: Scratch | None = None) -> Iterator[slice]:
    """The rows from 0 to `rows` in blocks of `BLOCK`; a scratch releases its pages from time to time."""
    for begin in range(0, rows, BLOCK):
        if scratch is not None and begin % _RELEASED < BLOCK:
            scratch.release()
        yield slice(begin, min(begin + BLOCK, rows))


def memory_limit() -> int:
    """Bytes of the machine's memory, or of the control group's limit."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")] if hasattr(os, "sysconf") else []
    for place in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # no such group, or one without a limit
            limits.append(int(Path("/sys/fs/cgroup", place).read_text()))
    return min(limits, default=1 << 62)
