"""How tables of ratings are read: the columns of each role, times, and values in the names of folders."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl

from palate.errors import InputError
from palate.ratings.ids import NULLS, as_ids
from palate.ratings.layout import check_roles, column_of
from palate.ratings.rating_table import COLUMNS, RatingTable
from palate.ratings.roles import named_as
from palate.ratings.source import SourceFile
from palate.ratings.times import SECONDS, TimesError, time_form
from palate.ratings.wrong_rows import rating_problem
from palate.store.scratch import Scratch, blocks_of, filled

_ROLES = ("user", "item", "rating", "timestamp")
TYPES = {"rating": pl.Float64(), "timestamp": pl.Int64()}
ON_DISK = (
    "CSV or Parquet with ids that are integers or text, ratings that are numbers, and times that are numbers or, in "
    "Parquet, datetimes"
)


@dataclass(frozen=True)
class Reading:
    """How tables of ratings are read."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """Names of columns by role, see `column_of`."""
    scale: tuple[float, float] = (0.5, 5.0)
    skip: bool = False
    """Whether wrong rows are left out; otherwise the first raises `InputError`."""
    header: tuple[str, ...] = ()
    """Names of the columns of text files without a header."""
    numbered: bool = False
    """Whether the order of the rows stands for their times."""
    not_rated: float | None = None
    """A rating that means there is none."""
    likes: bool = False
    """Whether the rows are likes, with or without a column of ratings."""
    scratch: Scratch | None = None
    """Where the table goes that exceeds the memory."""
    copy_path: Callable[[str], Path] | None = None
    """Gives a path for a copy of a file without its wrong lines, see `Source.copy_path`; needed with `skip`."""

    @property
    def roles(self) -> dict[str, str]:
        """The role of each column that is read."""
        roles = dict(zip(COLUMNS, _ROLES, strict=True))
        return {name: role for name, role in roles.items() if not (self.numbered and name == "timestamp")}

    @property
    def accepted(self) -> tuple[float, float]:
        """The scale, and what means that there is no rating."""
        low, high = self.scale
        return (low, high) if self.not_rated is None else (min(low, self.not_rated), max(high, self.not_rated))


def columns_of(file: SourceFile, names: Sequence[str], how: Reading) -> tuple[dict[str, str | None], dict[str, str]]:
    """The column of the title and of each of `how.roles`, and those in the names of folders for roles without one.

    A table of likes may have no ratings. A name for the item's column may be that of the item table alone. Raises
    `InputError` for a missing column, and for one with two roles.
    """
    columns = how.columns
    if "item" in columns and not named_as(columns["item"], names):
        usual = column_of("item", names, {}, file.place, needed=False)
        columns = {role: name for role, name in columns.items() if role != "item" or usual is None}
    used: dict[str, str | None] = {}
    above: dict[str, str] = {}
    for name, role in how.roles.items():
        folder = column_of(role, list(file.folders), how.columns, file.place, needed=False) if file.folders else None
        if name == "timestamp" and folder is not None and re.fullmatch(r"\d{1,7}", file.folders[folder]):
            folder = None  # a day of a month, or a year
        needed = folder is None and not (how.likes and name == "rating")
        named = folder is not None and folder == how.columns.get(role)
        used[name] = None if named else column_of(role, names, columns, file.place, needed=needed)
        if used[name] is None and folder is not None:
            above[name] = folder
    if used["rating"] is None and "rating" not in above:
        used["rating"] = column_of("label", names, how.columns, file.place, needed=False)
    used["title"] = column_of("title", names, how.columns, file.place, needed=False)
    check_roles(used, file.place)
    return used, above


def with_folders(table: RatingTable, above: Mapping[str, str], how: Reading) -> RatingTable:
    """The table with the values of the columns `above` that the names of its folders have."""
    problem: str | None
    for name, column in above.items():
        text = pl.Series(name, [table.file.folders[column]])
        found = text.replace(["", "__HIVE_DEFAULT_PARTITION__", *NULLS], None)
        if name == "timestamp":
            try:
                form = time_form(found)
            except TimesError as error:
                raise InputError(f"{column} {error}", table.file.place) from None
            value, problem = form.values(found), form.problem(column, text[0])
            table = replace(table, form=form)
        elif name == "rating":
            value, problem = found.cast(pl.Float64, strict=False), rating_problem(column, text[0], how.accepted)
        else:
            value, problem = as_ids(found), f"{column} {text[0]!r} is no id"
        if not how.skip and problem and (value[0] is None or name == "rating"):
            raise InputError(problem, table.file.place)
        frame = table.frame.with_columns(pl.lit(value[0], value.dtype).alias(name))
        table = replace(table, frame=frame, columns={**table.columns, column: name})
    return table


def numbered(frame: pl.DataFrame, scratch: Scratch | None = None) -> pl.DataFrame:
    """The frame with the number of each row as its time."""
    rows = filled(scratch, frame.height, np.int64, lambda block: np.arange(block.start, block.stop))
    return frame.with_columns(timestamp=pl.Series(rows))


def timed(table: RatingTable, how: Reading, scratch: Scratch) -> RatingTable:
    """The table on the disk with times in the unit of its form; raises `MissingError` for a time of another form."""
    frame = numbered(table.frame, scratch) if how.numbered else table.frame
    form = time_form(frame["timestamp"])
    if form != SECONDS or any(form.values(each).null_count() for each in slices(frame["timestamp"])):
        frame = frame.with_columns(scratch.table(form.values(each).to_frame() for each in slices(frame["timestamp"])))
    return replace(table, frame=frame, form=form)


def slices(column: pl.Series) -> Iterator[pl.Series]:
    """The column block by block."""
    return (column[block] for block in blocks_of(column.len()))
