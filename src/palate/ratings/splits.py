"""Read tables with given splits: a file for each of train, valid and test, or one file with a split column.

A row has a user, an item, and a label of 0 or 1 or a rating; optionally a title and a time. A table of items may be
beside the files.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import polars as pl

from palate.errors import InputError
from palate.ratings.formats import format_of
from palate.ratings.item_table import item_table, read_items
from palate.ratings.layout import (
    POLARS_FAULTS,
    Layout,
    check_encoding,
    check_roles,
    check_widths,
    column_of,
    layout_of,
)
from palate.ratings.load import Ratings, check_scale, find_items
from palate.ratings.rating_table import (
    RatingTable,
    as_ids,
    rating_problem,
    scan,
    spelled_twice,
    type_of,
)
from palate.ratings.source import Source, SourceFile, open_source
from palate.ratings.split_names import SPLIT_NAMES, split_files
from palate.ratings.text import WHITE, folded, is_shown
from palate.ratings.times import SECONDS, TimeForm, TimesError, in_seconds, time_form

LABELS = {"1": 1.0, "1.0": 1.0, "true": 1.0, "0": 0.0, "0.0": 0.0, "false": 0.0}
SCALE_OF_LABELS = (0.0, 1.0)
_ROLES = {"user_id": "user", "item_id": "item", "label": "label", "rating": "rating", "timestamp": "timestamp",
          "title": "title", "split": "split"}  # fmt: skip


def load_given(
    source: str,
    *,
    items: str | None = None,
    columns: Mapping[str, str] | None = None,
    scale: tuple[float, float] | None = None,
) -> Ratings:
    """Read a folder with a table for each split, or one table with a split column; `columns` maps roles to columns.

    The frame has the additional column `split` (String: train, val, test), and train comes first. Labels become ratings
    on the scale 0 to 1; ratings that are all 0 or 1 get this scale too. Without times, `timestamp` is the number of the
    row, train before val before test. Raises `InputError` with file and line for the first mistake.
    """
    check_scale(scale)
    path = Path(source)
    if not path.exists():
        raise InputError("no such file or folder, expected tables with splits", path)
    columns = columns or {}
    with open_source(path if path.is_dir() else path.parent) as tables:
        names = split_files(tables.names) if path.is_dir() else {}
        missing = [split for split in ("train", "test") if split not in names]
        if path.is_dir() and missing:
            there = f"; found {', '.join(tables.names[:8])}" if tables.names else "; it is empty"
            raise InputError(f"has no table of {missing[0]}, expected files such as {missing[0]}.csv{there}", path)
        read = [_read(tables.open(names[split]), columns, split) for split in SPLIT_NAMES if split in names]
        read = read or [_read(tables.open(path.name), columns, None)]
        frame, scale, times = _joined(read, scale)
        item_frame, inputs = _items(read, frame, tables, items, columns)
        inputs = {part.file.name: part.file.sha256 for part in read} | inputs
    for split in ("train", "test"):
        if not (frame["split"] == split).any():
            raise InputError(f"has no rows of the split {split}, expected some", path)
    if item_frame["item_id"].dtype != frame["item_id"].dtype:
        item_frame = item_frame.with_columns(pl.col("item_id").cast(pl.String))
        frame = frame.with_columns(pl.col("item_id").cast(pl.String))
    order = ["user_id", "item_id", "rating", "timestamp", "split"]
    return Ratings(frame.select(order), item_frame, path.resolve().stem, inputs, scale, times)


@dataclass(frozen=True)
class _Part:
    """The table of one file: its rows as text, with those columns of `_ROLES` that it has."""

    frame: pl.DataFrame
    file: SourceFile
    layout: Layout | None
    names: Mapping[str, str]
    """The file's column name for each column of `frame`."""

    def fail(self, message: str, row: int) -> NoReturn:
        """Raise `InputError` for a row, or for an earlier row with another number of fields than the header."""
        table = RatingTable(self.frame, self.file, self.layout)
        if self.layout is not None:
            check_widths(self.file, self.layout, row + 1)
        table.fail(message, row)

    def refuse(
        self,
        wrong: pl.Series,
        expected: str,
        name: str,
        problem: Callable[[str, str], str | None] = lambda name, value: None,
    ) -> None:
        """Raise `InputError` for the first wrong row, if any; `problem` gives the message for values that it knows."""
        if wrong.any():
            row = int(wrong.arg_true()[0])
            value = self.frame[name][row]
            state = "is missing" if value is None or value == "" else f"{value!r} is wrong"
            column = self.names.get(name, name)
            found = problem(column, value) if value else None
            self.fail(found or f"{column} {state}, expected {expected}", row)


def _read(file: SourceFile, columns: Mapping[str, str], split: str | None) -> _Part:
    """Read a file's columns with a role; all rows are of `split` (None: the file has a split column).

    Fields lose the white space around them, and titles become one line. Raises `InputError` for a file that is not a
    table or lacks a column.
    """
    if (typed := format_of(file)) is not None:
        header, layout = typed.header(file), None
    else:
        layout = layout_of(file)
        header = list(layout.names)
    needed = {"user_id", "item_id"} | ({"split"} if split is None else set())
    names: dict[str, str] = {}
    for name, role in _ROLES.items():
        found = column_of(role, header, columns, file.place, needed=name in needed)
        if found is not None:
            names[name] = found
    if "label" not in names and "rating" not in names:
        expected = "expected one such as label or rating, or its name as ratings.columns.label"
        raise InputError(f"has no label and no rating column, {expected}; found {', '.join(header)}", file.place, 1)
    if "label" in names:
        names.pop("rating", None)
    check_roles(names, file.place)
    if typed is not None:
        table = typed.columns(file, list(dict.fromkeys(names.values())))
        for name in ("user_id", "item_id"):
            type_of(_ROLES[name], names[name], table.schema[names[name]], file.place)
        frame = table.select(pl.col(column).alias(name) for name, column in names.items())
        nested = [n for n, found in frame.schema.items() if found.is_nested() or found == pl.Binary]
        if nested:
            raise InputError(f"column '{names[nested[0]]}' has {frame.schema[nested[0]]}, expected one value a row",
                             file.place)  # fmt: skip
        zoned = [n for n, found in frame.schema.items() if isinstance(found, pl.Datetime) and found.time_zone]
        frame = frame.with_columns(pl.col(zoned).dt.convert_time_zone("UTC").dt.replace_time_zone(None))
        frame = frame.with_columns(pl.all().cast(pl.String))
    else:
        assert layout is not None
        try:
            places = {name: layout.names.index(column) for name, column in names.items()}
            others = {f"_{place}": place for place in range(len(layout.names)) if place not in places.values()}
            frame = scan(file, layout, places | others, {})
        except POLARS_FAULTS as error:
            check_widths(file, layout)
            check_encoding(file)
            raise InputError(f"cannot be read: {str(error).splitlines()[0]}", file.place) from None
        frame = frame.filter(~pl.all_horizontal(pl.all().is_null()))  # blank lines, as in `records`
        frame = frame.drop(others).with_columns(pl.all().str.strip_chars(WHITE))
    if "title" in names:
        frame = frame.with_columns(folded(pl.col("title")))
    if split is not None:
        frame = frame.with_columns(split=pl.lit(split))
    return _Part(frame, file, layout, names)


def _joined(parts: Sequence[_Part], scale: tuple[float, float] | None) -> tuple[pl.DataFrame, tuple[float, float], str]:
    """All rows with checked values, sorted by split with train first, the scale of their ratings, and their times."""
    kinds = {"label" in part.names for part in parts}
    if len(kinds) > 1:
        odd = next(part for part in parts if ("label" in part.names) != ("label" in parts[0].names))
        raise InputError(
            f"has other columns than {parts[0].file.name}, expected labels or ratings in all", odd.file.place
        )
    timed = [("timestamp" in part.names) for part in parts]
    if any(timed) and not all(timed):
        raise InputError(
            "has no timestamps, expected them in all tables or in none", parts[timed.index(False)].file.place
        )
    form = _time_form(parts) if all(timed) else SECONDS
    values, scale = _values(parts, scale)
    frames = []
    for part, rating in zip(parts, values, strict=True):
        frame = part.frame
        if frame.is_empty():
            raise InputError("has no rows, expected at least one", part.file.place)
        for name in ("user_id", "item_id"):
            part.refuse(frame[name].fill_null("") == "", "an id", name)
        split = (
            frame["split"]
            .str.to_lowercase()
            .replace_strict(
                {called: split for split, names in SPLIT_NAMES.items() for called in names},
                default=None,
                return_dtype=pl.String,
            )
        )
        part.refuse(split.is_null(), "train, valid or test", "split")
        columns = [frame["user_id"], frame["item_id"], rating.alias("rating"), split]
        if all(timed):
            time = form.values(frame["timestamp"])
            wrong = time.is_null() | (time < 0).fill_null(True)
            part.refuse(wrong, "seconds since 1970, or a date", "timestamp", form.problem)
            columns.append(time)
        frames.append(pl.DataFrame(columns))
    for name in ("user_id", "item_id"):
        if (pair := spelled_twice(pl.concat(frames)[name])) is not None:
            for part in parts:
                part.refuse(part.frame[name] == pair[0], f"{pair[1]} as in other rows", name)
    frame = pl.concat(frames).with_columns(as_ids(pl.concat(frames)[name]) for name in ("user_id", "item_id"))
    times = form.span(frame["timestamp"]) if all(timed) else ""
    frame = in_seconds(frame, form) if all(timed) else frame
    rank = pl.col("split").replace_strict(list(SPLIT_NAMES), range(len(SPLIT_NAMES)), return_dtype=pl.UInt8)
    frame = frame.sort(rank, maintain_order=True)
    if not all(timed):
        frame = frame.with_columns(timestamp=pl.int_range(pl.len(), dtype=pl.Int64))
    return frame, scale, times


def _time_form(parts: Sequence[_Part]) -> TimeForm:
    """The form of the times in all files."""
    try:
        return time_form(pl.concat([part.frame["timestamp"] for part in parts]))
    except TimesError as error:
        row = error.row
        for part in parts:
            if row < part.frame.height:
                part.fail(f"{part.names['timestamp']} {error}", row)
            row -= part.frame.height
        raise


def _values(parts: Sequence[_Part], scale: tuple[float, float] | None) -> tuple[list[pl.Series], tuple[float, float]]:
    """The ratings of each file and their scale; labels become ratings of 0 and 1."""
    if "label" in parts[0].names:
        labels = [part.frame["label"].str.to_lowercase().replace_strict(LABELS, default=None, return_dtype=pl.Float64)
                  for part in parts]  # fmt: skip
        for part, label in zip(parts, labels, strict=True):
            part.refuse(label.is_null(), "0 or 1, or true or false", "label")
        return labels, SCALE_OF_LABELS
    ratings = [part.frame["rating"].cast(pl.Float64, strict=False) for part in parts]
    if scale is None and all(rating.is_in([0.0, 1.0]).all() for rating in ratings):
        return ratings, SCALE_OF_LABELS
    low, high = scale or (0.5, 5.0)
    expected = f"a number from {low:g} to {high:g} (another scale is set as ratings.scale, such as [1, 10])"
    for part, rating in zip(parts, ratings, strict=True):
        wrong = ~rating.is_between(low, high).fill_null(False)
        part.refuse(wrong, expected, "rating", lambda name, value: rating_problem(name, value, (low, high)))
    return ratings, (low, high)


def _items(
    parts: Sequence[_Part], frame: pl.DataFrame, tables: Source, items: str | None, columns: Mapping[str, str]
) -> tuple[pl.DataFrame, dict[str, str]]:
    """The item table, and the name and SHA-256 of its file; no file if the titles are in the tables."""
    atomic = [name for name in tables.names if name.lower().endswith(".item")]
    if items is not None or not all("title" in part.names for part in parts):
        if items is not None:
            file = item_table(items)
        elif (beside := find_items(tables, tables.names) or (atomic[0] if len(atomic) == 1 else None)) is not None:
            file = tables.open(beside)
        else:
            wanted = "expected a title column, movies.csv or items.csv beside it, or ratings.items"
            raise InputError(f"has no titles: {wanted}", parts[0].file.place)
        listed, _ = read_items(file, columns)
        titled = listed.filter(is_shown(pl.col("title")))["item_id"].cast(pl.String)
        for part in parts:
            where = f"an item that has a title in {file.name}"
            part.refuse(~part.frame["item_id"].is_in(titled.implode()), where, "item_id")
        return listed, {file.name: file.sha256}
    pairs = pl.concat(
        part.frame.select("item_id", "title").with_row_index("row").with_columns(part=pl.lit(number))
        for number, part in enumerate(parts)
    )
    for number, part in enumerate(parts):
        shown = pairs.filter(pl.col("part") == number).select(is_shown(pl.col("title")))["title"]
        part.refuse(~shown, "a title", "title")
    pairs = pairs.unique(["item_id", "title"], keep="first", maintain_order=True)
    duplicates = pairs.filter(~pl.col("item_id").is_first_distinct())
    if duplicates.height:
        row, item, title, number = duplicates.row(0)
        first = pairs.filter(pl.col("item_id") == item)["title"][0]
        parts[number].fail(f"item {item} is titled {title!r} here and {first!r} before, expected one title", row)
    titles = pairs.select("item_id", "title")
    return titles.with_columns(pl.col("item_id").cast(frame["item_id"].dtype)), {}
