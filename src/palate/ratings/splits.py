"""Read tables with given splits: a file for each of train, valid and test, or one file with a split column.

A row has a user, an item, and a label of 0 or 1 or a rating; optionally a title and a time. A table of items may be
beside the files.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import polars as pl

from palate.errors import InputError
from palate.ratings.formats import format_of
from palate.ratings.ids import NULLS, as_ids, id_problem, is_no_id, spelled_twice
from palate.ratings.item_table import item_files, read_items
from palate.ratings.layout import (
    POLARS_FAULTS,
    Layout,
    check_encoding,
    check_roles,
    check_widths,
    check_zeros,
    column_of,
    layout_of,
)
from palate.ratings.load import Ratings, check_scale, counted, find_items, titled_by_id
from palate.ratings.rating_table import RatingTable
from palate.ratings.scan import scan_texts, whole_rows
from palate.ratings.source import Source, SourceFile, digests, open_source
from palate.ratings.split_names import SPLIT_NAMES, split_files
from palate.ratings.text import WHITE, folded, is_shown
from palate.ratings.times import TimeForm, TimesError, in_seconds, time_form
from palate.ratings.typed_ratings import type_of
from palate.ratings.wrong_rows import first_row, rating_problem, reasons_of

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
    bad_rows: Literal["refuse", "skip", "report"] = "refuse",
    untitled: Literal["refuse", "drop", "id"] = "refuse",
    encoding: str | None = None,
    not_rated: float | None = None,
) -> Ratings:
    """Read a folder with a table for each split, or one table with a split column; `columns` maps roles to columns.

    The frame has the additional column `split` (String: train, val, test), and train comes first. Labels become ratings
    on the scale 0 to 1; ratings that are all 0 or 1 get this scale too. Without times, `timestamp` is the number of the
    row, train before val before test. The other arguments are options of `RatingsConfig`; repeated rows stay.
    Raises `InputError` with file and line for the first mistake.
    """
    check_scale(scale)
    path, columns, skip = Path(source), columns or {}, bad_rows != "refuse"
    with _tables(path, encoding) as (tables, names):
        parts = [_read(tables.open(name), columns, split, skip) for name, split in names.items()]
        if not_rated is not None:
            parts = [part.without_rating(not_rated) for part in parts]
        scale = _check_together(parts, scale)
        form = _time_form(parts) if "timestamp" in parts[0].names else None
        parts = [_checked(part, form, scale, skip) for part in parts]
        item_frame, inputs = _items(parts, tables, items, columns, untitled)
        if untitled == "drop":
            parts = [part.titled(item_frame) for part in parts]
        skipped = [part.report() for part in parts] if bad_rows == "report" else None
    frame = _joined(parts)
    for split in ("train", "test"):
        if not (frame["split"] == split).any():
            raise InputError(f"has no rows of the split {split}, expected some", path)
    if item_frame["item_id"].dtype != frame["item_id"].dtype:
        item_frame = item_frame.with_columns(pl.col("item_id").cast(pl.String))
        frame = frame.with_columns(pl.col("item_id").cast(pl.String))
    if untitled == "id":
        item_frame = titled_by_id(item_frame, frame["item_id"])
    return Ratings(
        frame if form is None else in_seconds(frame, form),
        item_frame,
        path.resolve().stem,
        inputs,
        scale,
        "" if form is None else form.span(frame["timestamp"]),
        counted(pl.concat(part.table.skipped["reason"] for part in parts)),
        None if skipped is None else pl.concat(skipped),
    )


@contextmanager
def _tables(path: Path, encoding: str | None) -> Iterator[tuple[Source, dict[str, str | None]]]:
    """The folder of the tables, and their names with the split of each; None for a file with a split column."""
    if not path.exists():
        raise InputError("no such file or folder, expected tables with splits", path)
    with open_source(path if path.is_dir() else path.parent, encoding) as tables:
        found = split_files(tables.names) if path.is_dir() else {}
        missing = [split for split in ("train", "test") if split not in found]
        if path.is_dir() and missing:
            there = f"; found {', '.join(tables.names[:8])}" if tables.names else "; it is empty"
            raise InputError(f"has no table of {missing[0]}, expected files such as {missing[0]}.csv{there}", path)
        yield tables, {found[split]: split for split in SPLIT_NAMES if split in found} or {path.name: None}


@dataclass(frozen=True)
class _Part:
    """The table of one file: its rows as text, with those columns of `_ROLES` that it has."""

    table: RatingTable
    names: Mapping[str, str]
    """The file's column name for each column of `frame`."""

    @property
    def frame(self) -> pl.DataFrame:
        return self.table.frame

    def without(self, reasons: pl.Series) -> "_Part":
        """The table without the rows that have a reason, (rows,) String."""
        return replace(self, table=self.table.without(reasons))

    def without_rating(self, value: float) -> "_Part":
        """The table without the rows that have this rating."""
        if "rating" not in self.names:
            return self
        rated = pl.col("rating").cast(pl.Float64, strict=False)
        return self.without(self.frame.select(pl.when(rated == value).then(pl.lit("not rated"))).to_series())

    def titled(self, items: pl.DataFrame) -> "_Part":
        """The table without ratings of items that have no title in `items`."""
        known = items.filter(is_shown(pl.col("title")))["item_id"].cast(pl.String)
        lacks = ~pl.col("item_id").is_in(known.implode())
        return self.without(self.frame.select(pl.when(lacks).then(pl.lit("item without a title"))).to_series())

    def report(self) -> pl.DataFrame:
        """The skipped rows, see `RatingTable.report`, and their `file`."""
        return self.table.report().select(pl.lit(self.table.file.name).alias("file"), pl.all())

    def refuse(
        self,
        wrong: pl.Series,
        expected: str,
        name: str,
        problem: Callable[[str, str], str | None] = lambda name, value: None,
    ) -> None:
        """Raise `InputError` for the first wrong row, if any; `problem` gives the message for values that it knows."""
        if wrong.any():
            row = first_row(wrong)
            value = self.frame[name][row]
            state = "is missing" if value is None or value == "" else f"{value!r} is wrong"
            column = self.names.get(name, name)
            found = problem(column, value) if value else None
            self.table.fail(found or f"{column} {state}, expected {expected}", row)


def _read(file: SourceFile, columns: Mapping[str, str], split: str | None, skip: bool) -> _Part:
    """Read a file's columns with a role; all rows are of `split` (None: the file has a split column).

    Fields lose the white space around them, and titles become one line. Raises `InputError` for a file that is not a
    table or lacks a column, and unless `skip` for a row with too many fields.
    """
    if (typed := format_of(file)) is not None:
        header, layout = typed.header(file), None
    else:
        layout = layout_of(file)
        header = list(layout.names)
    needed = {"user_id", "item_id"} | ({"split"} if split is None else set())
    names: dict[str, str] = {}
    ragged: list[int] = []
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
        frame, ragged = _read_text(file, layout, names, skip)
    if "title" in names:
        frame = frame.with_columns(folded(pl.col("title")))
    if split is not None:
        frame = frame.with_columns(split=pl.lit(split))
    skipped = pl.DataFrame({"row": ragged}, {"row": pl.Int64}).with_columns(reason=pl.lit("wrong number of fields"))
    return _Part(RatingTable(frame, file, layout, skipped=skipped), names)


def _read_text(
    file: SourceFile, layout: Layout, names: Mapping[str, str], skip: bool
) -> tuple[pl.DataFrame, list[int]]:
    """The columns `names` of a text file, and with `skip` the rows with another number of fields than the header."""
    places = {name: layout.names.index(column) for name, column in names.items()}
    check_zeros(file)
    if skip:
        frame, ragged = whole_rows(file, layout, places)
        return frame.with_columns(pl.all().str.strip_chars(WHITE)), ragged
    try:
        frame = scan_texts(file, layout, places)
    except POLARS_FAULTS as error:
        check_widths(file, layout)
        check_encoding(file)
        raise InputError(f"cannot be read: {str(error).splitlines()[0]}", file.place) from None
    return frame.with_columns(pl.all().str.strip_chars(WHITE)), []


def _check_together(parts: Sequence[_Part], scale: tuple[float, float] | None) -> tuple[float, float]:
    """The scale of all ratings; raises `InputError` for tables that have not the same columns."""
    for role, what in (("label", "other columns than {}, expected labels or ratings in all"),
                       ("timestamp", "no timestamps, expected them in all tables or in none")):  # fmt: skip
        has = [role in part.names for part in parts]
        if any(has) and not all(has):
            odd = parts[has.index(not has[0]) if role == "label" else has.index(False)]
            raise InputError(f"has {what.format(parts[0].table.file.name)}", odd.table.file.place)
    if "label" in parts[0].names:
        return SCALE_OF_LABELS
    ratings = pl.concat(part.frame["rating"].cast(pl.Float64, strict=False) for part in parts)
    if scale is None and ratings.is_in([0.0, 1.0]).all():
        return SCALE_OF_LABELS
    return scale or (0.5, 5.0)


def _checked(part: _Part, form: TimeForm | None, scale: tuple[float, float], skip: bool) -> _Part:
    """The table with ratings and times as numbers, and splits by their usual names; `form` is that of the times.

    Wrong rows are left out if `skip`, else the first raises `InputError`.
    """
    frame, labelled = part.frame, "label" in part.names
    splits = {called: split for split, names in SPLIT_NAMES.items() for called in names}
    ids = {name: frame[name].replace(["", *NULLS], None) for name in ("user_id", "item_id")}
    split = frame["split"].str.to_lowercase().replace_strict(splits, default=None, return_dtype=pl.String)
    if labelled:
        rating = frame["label"].str.to_lowercase().replace_strict(LABELS, default=None, return_dtype=pl.Float64)
    else:
        rating = frame["rating"].cast(pl.Float64, strict=False)
    time = pl.zeros(frame.height, pl.Int64, eager=True) if form is None else form.values(frame["timestamp"])
    typed = frame.with_columns(**ids, rating=rating, timestamp=time, split=split)
    numbers = replace(part, table=replace(part.table, frame=typed))
    if skip:
        reasons = reasons_of(typed, scale)
        if labelled:
            reasons = reasons.replace("no rating that is a number", "no label of 0 or 1")
        lacks = pl.when(split.is_null()).then(pl.lit("no split"))
        return numbers.without(typed.select(pl.coalesce(reasons, lacks)).to_series())
    if frame.is_empty():
        raise InputError("has no rows, expected at least one", part.table.file.place)
    if labelled:
        part.refuse(rating.is_null(), "0 or 1, or true or false", "label")
    else:
        expected = (
            f"a number from {scale[0]:g} to {scale[1]:g} (another scale is set as ratings.scale, such as [1, 10])"
        )
        wrong = ~rating.is_between(*scale).fill_null(False)
        part.refuse(wrong, expected, "rating", lambda name, value: rating_problem(name, value, scale))
    for name, found in ids.items():
        part.refuse(found.is_null() | is_no_id(found), "an id", name, lambda name, value: f"{name} {id_problem(value)}")
    part.refuse(split.is_null(), "train, valid or test", "split")
    if form is not None:
        wrong = time.is_null() | (time < 0).fill_null(True)
        part.refuse(wrong, "seconds since 1970, or a date", "timestamp", form.problem)
    return numbers


def _joined(parts: Sequence[_Part]) -> pl.DataFrame:
    """All rows, sorted by split with train first; without times, `timestamp` is the number of the row."""
    order = ["user_id", "item_id", "rating", "timestamp", "split"]
    frame = pl.concat(part.frame.select(order) for part in parts)
    for name in ("user_id", "item_id"):
        if (pair := spelled_twice(frame[name])) is not None:
            for part in parts:
                part.refuse(part.frame[name] == pair[0], f"{pair[1]} as in other rows", name)
    frame = frame.with_columns(as_ids(frame[name]) for name in ("user_id", "item_id"))
    rank = pl.col("split").replace_strict(list(SPLIT_NAMES), range(len(SPLIT_NAMES)), return_dtype=pl.UInt8)
    frame = frame.sort(rank, maintain_order=True)
    if "timestamp" not in parts[0].names:
        frame = frame.with_columns(timestamp=pl.int_range(pl.len(), dtype=pl.Int64))
    return frame


def _time_form(parts: Sequence[_Part]) -> TimeForm:
    """The form of the times in all files."""
    try:
        return time_form(pl.concat([part.frame["timestamp"] for part in parts]))
    except TimesError as error:
        row = error.row
        for part in parts:
            if row < part.frame.height:
                part.table.fail(f"{part.names['timestamp']} {error}", row)
            row -= part.frame.height
        raise


def _items(
    parts: Sequence[_Part], tables: Source, items: str | None, columns: Mapping[str, str], untitled: str
) -> tuple[pl.DataFrame, dict[str, str]]:
    """The item table, and the `digests` of the tables and of its file, which is none if the titles are in the tables.

    Raises `InputError` for the first rating of an item without a title if `untitled` is `refuse`.
    """
    atomic = [name for name in tables.names if name.lower().endswith(".item")]
    inputs = digests([part.table.file for part in parts])
    if items is not None or not all("title" in part.names for part in parts):
        beside = find_items(tables, tables.names, columns) or (atomic[0] if len(atomic) == 1 else None)
        if items is None and beside is None:
            wanted = "expected a title column, movies.csv or items.csv beside it, or ratings.items"
            raise InputError(f"has no titles: {wanted}", parts[0].table.file.place)
        with item_files(items) if items is not None else nullcontext(tables.open_all([str(beside)])) as files:
            listed, _ = read_items(files, columns)
            inputs = digests(files, inputs)
        titled = listed.filter(is_shown(pl.col("title")))["item_id"].cast(pl.String)
        for part in parts if untitled == "refuse" else ():
            where = f"an item that has a title in {files[0].name}, or --untitled drop or id"
            part.refuse(~part.frame["item_id"].is_in(titled.implode()), where, "item_id")
        return listed, inputs
    return _items_of_titles(parts, untitled), inputs


def _items_of_titles(parts: Sequence[_Part], untitled: str) -> pl.DataFrame:
    """The items of tables with a title column, in the order of their first row with a title."""
    pairs = pl.concat(
        part.frame.select("item_id", "title").with_row_index("row").with_columns(part=pl.lit(number))
        for number, part in enumerate(parts)
    )
    for part in parts if untitled == "refuse" else ():
        part.refuse(
            ~part.frame.select(is_shown(pl.col("title")))["title"], "a title, or --untitled drop or id", "title"
        )
    pairs = pairs.filter(is_shown(pl.col("title"))).unique(["item_id", "title"], keep="first", maintain_order=True)
    duplicates = pairs.filter(~pl.col("item_id").is_first_distinct())
    if duplicates.height:
        row, item, title, number = duplicates.row(0)
        first = pairs.filter(pl.col("item_id") == item)["title"][0]
        parts[number].table.fail(f"item {item} is titled {title!r} here and {first!r} before, expected one title", row)
    rated = pl.concat(part.frame["item_id"] for part in parts)
    return pairs.select(pl.col("item_id").cast(as_ids(rated.unique()).dtype), "title")
