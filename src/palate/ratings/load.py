"""Load and check ratings from a named data set or a path."""

import dataclasses
import logging
import math
import posixpath
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from palate.errors import InputError
from palate.ratings.archives import ARCHIVES
from palate.ratings.database import is_url, name_of, place_of, stored_ratings
from palate.ratings.formats import is_table, own_suffixes
from palate.ratings.ids import distinct, other_spelling
from palate.ratings.item_table import (
    check_titles,
    has_title,
    item_files,
    items_of_titles,
    read_items,
    varying_title,
    without_title,
)
from palate.ratings.likes import COUNTS, SCALE, Likes, first_likes
from palate.ratings.places import open_tables
from palate.ratings.rating_files import read_ratings, rows_of
from palate.ratings.rating_table import COLUMNS
from palate.ratings.reading import Reading, numbered
from palate.ratings.roles import named_as
from palate.ratings.source import PACKED, Source, archive_stem, digests, is_saved, parts_of
from palate.ratings.split_names import split_files
from palate.ratings.spreadsheet import SHEET
from palate.ratings.sql import is_store
from palate.ratings.text import is_shown
from palate.ratings.times import in_seconds
from palate.ratings.user_table import read_users
from palate.store.scratch import BLOCK, Scratch

logger = logging.getLogger(__name__)

_RATING_STEMS = ("ratings", "interactions")
_ITEM_STEMS = ("movies", "items", "books", "products", "titles")
_RATING_WORDS = {*_RATING_STEMS, "rating", "interaction", "reviews", "review", "events", "orders", "purchases",
                 "clicks", "plays", "behaviors", "userratings", "recommendations"}  # fmt: skip
_ITEM_WORDS = {*_ITEM_STEMS, "movie", "item", "book", "product", "title", "films", "film", "games", "songs", "tracks",
               "artists", "recipes", "articles", "news", "anime", "catalog", "catalogue", "metadata", "meta",
               "business", "businesses", "courses"}  # fmt: skip
_FIXED = {"ratings.dat": _RATING_STEMS, "u.data": _RATING_STEMS, "movies.dat": _ITEM_STEMS, "u.item": _ITEM_STEMS}
_OF_NETFLIX = re.compile(r"combined_data_\d\.txt|mv_\d{7}\.txt")
_REMEDIES = {
    **dict.fromkeys((".xls", ".xlsb", ".numbers"), ": it is a spreadsheet, save it as .xlsx"),
    **dict.fromkeys(
        (".pkl", ".pickle"), ": it is a pickle, which can run any code; `to_parquet` of pandas converts it"
    ),
    ".rds": ": it is of R, write.csv() converts it",
    **dict.fromkeys((".db", ".sqlite", ".sqlite3"), ": a database is named as sqlite:///PATH?table=NAME"),
    ".duckdb": ": a database is named as duckdb:///PATH?table=NAME",
    **dict.fromkeys((".7z", ".rar"), ": it is an archive, unpack it first"),
    **dict.fromkeys((".npy", ".npz", ".pt", ".h5", ".mat"), ": it holds arrays, save it as Parquet"),
}
"""How to convert a file of another kind into a readable table, by suffix."""


@dataclass(frozen=True)
class Ratings:
    """Ratings in file order, and their items.

    `frame` has `user_id` and `item_id` (Int64 if all tables write all ids as plain integers, else String), `rating`
    (Float64) and `timestamp` (Int64, whole seconds), and with given splits also `split` (String), see
    `palate.ratings.splits`. `items` has one row for each item: `item_id`, `title` (String) and the item table's other
    columns. `inputs` maps the names of the files that were read to their SHA-256.
    """

    frame: pl.DataFrame
    items: pl.DataFrame
    name: str
    inputs: dict[str, str]
    scale: tuple[float, float]
    times: str = ""
    """How the file writes its times, and the first and last day."""
    dropped: dict[str, int] = field(default_factory=dict)
    """The number of rows that were left out, by reason."""
    skipped: pl.DataFrame | None = None
    """These rows with `line`, `reason` and `row` (their text), and with given splits `file`, if a report is wanted."""
    columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By file, the role of each column: a column of `frame`, `title`, or empty. Not recorded with given splits."""
    shape: str = ""
    """What the file of the ratings is, such as `text with semicolons, gzip, cp1252; items in cp1252`."""
    options: dict[str, Any] = field(default_factory=dict)
    """How a config says that the tables are read, where it differs from the usual way; the manifest holds it."""
    likes: Likes | None = None
    """How samples get negatives; None if the log has ratings, not likes alone."""
    users: pl.DataFrame | None = None
    """The table of users, see `palate.ratings.user_table`; None if there is none."""
    scratch: Scratch | None = None
    """Where `frame` is on the disk, because it exceeds the memory; None: it is in memory."""
    rated: str = ""
    """How the file writes its ratings, such as `numbers out of 5`; empty for plain numbers."""

    @property
    def dated(self) -> bool:
        """Whether times are neither seconds nor numbers that only give an order."""
        return bool(self.times) and not self.times.startswith(("seconds", "numbers"))


def load_ratings(
    source: str,
    *,
    items: str | None = None,
    columns: Mapping[str, str] | None = None,
    scale: tuple[float, float] | None = None,
    bad_rows: Literal["refuse", "skip", "report"] = "refuse",
    untitled: Literal["refuse", "drop", "id"] = "refuse",
    header: Sequence[str] = (),
    encoding: str | None = None,
    order: Literal["time", "file"] = "time",
    not_rated: float | None = None,
    likes: Likes | None = None,
    memory: int | None = None,
) -> Ratings:
    """Read ratings from a named data set (see `ARCHIVES`), a path or a URL, see `palate.ratings.places`.

    `items` is the item table, if it is not beside the ratings under a usual name. `columns` maps `user`, `item`,
    `rating`, `timestamp` to other column names than the usual ones. With `likes` the table is a log of likes, see
    `palate.ratings.likes`. A log that may need more than `memory` bytes (None: half of the machine's) is read block by
    block, and `frame` is mapped from the disk. The other arguments are options of `RatingsConfig`. Raises `InputError`
    with file and line for the first mistake, `WorkError` if a download fails.
    """
    check_scale(scale)
    columns = columns or {}
    if is_url(source) and is_store(source):
        if likes is not None:
            raise InputError("holds ratings of a service, expected ratings.likes to be null", place_of(source))
        return _load_store(source, items, columns, scale)
    with ExitStack() as stack:
        tables = stack.enter_context(open_tables(source, encoding))
        source = source.partition(SHEET)[0]
        names = tables.chosen or _find_ratings(tables)
        if "://" not in source and tables.chosen and not is_saved(Path(source)):
            _check_suffix(names[0], source)
        files = tables.open_all(names)
        name = source if source in ARCHIVES else _name_of(source, names)
        scratch = Scratch.of(sum(map(rows_of, files)), memory)
        leaves_out = bad_rows != "refuse" or untitled == "drop" or not_rated is not None
        if scratch is not None and (leaves_out or likes is not None):
            what = "leaves out rows" if leaves_out else "samples negatives of likes"
            scratch.refuse(what, name, "ratings without bad_rows, untitled=drop, not_rated and likes")
        usual = usual_scale(name, files[0].name)
        numbers = COUNTS if likes is not None else scale or usual
        rules = (bad_rows != "refuse", tuple(header), order == "file", not_rated, likes is not None)
        how = Reading(columns, numbers, *rules, scratch=scratch, copy_path=tables.copy_path)
        table = read_ratings(files, how)
        scale = table.rated.scale(scale or usual)
        roles: dict[str, Mapping[str, str]]
        roles = {part.file.name: part.columns for part in table.parts[:1] or (table,)}  # of parts the first is like all
        titled = "title" in table.frame.columns
        exactly = titled and bool(tables.chosen)
        item_names = () if items is not None else _find_items(tables, names, columns, exactly=exactly)
        if items is not None:
            item_tables = stack.enter_context(item_files(items, encoding))
        else:
            item_tables = tables.open_all(item_names)
            if untitled == "id":
                for file in (untitled_tables := [file for file in item_tables if not has_title(file, columns)]):
                    logger.info("%s is not used, as it has no column of titles: --title names one", file.place)
                item_tables = [file for file in item_tables if file not in untitled_tables]
        if scratch is not None and not item_tables and untitled != "id":
            scratch.refuse("has no table of items", table.file.place, "movies.csv or items.csv beside it, or --items")
        if item_tables:
            item_frame, item_roles = read_items(item_tables, columns, table.frame["item_id"])
            roles = {file: _without_title(named) for file, named in roles.items()}
            roles |= {f"items in {file}" if file in roles else file: named for file, named in item_roles.items()}
        elif titled and not (untitled == "id" and varying_title(table) is not None):
            item_frame = items_of_titles(table)
        elif untitled == "id":
            item_frame = pl.DataFrame(schema={"item_id": table.frame.schema["item_id"], "title": pl.String})
        else:
            wanted = "expected movies.csv or items.csv beside it, --items, --untitled id, or a title column "
            wanted += "(--title NAME)"
            raise InputError(f"has no titles: {wanted}", table.file.place)
        known = [name for named in (*roles.values(), *(part.columns for part in table.parts)) for name in named]
        for role in ("item", "title"):
            if role in columns and not named_as(columns[role], [*known, *files[0].folders]):
                raise InputError(f"names no column {columns[role]!r} of {', '.join(roles)}", f"ratings.columns.{role}")
        table = dataclasses.replace(table, frame=table.frame.select(COLUMNS))
        if likes is not None:
            table, scale = first_likes(table), SCALE
        if item_frame["item_id"].dtype != table.frame["item_id"].dtype:
            item_frame = item_frame.with_columns(pl.col("item_id").cast(pl.String))
            table = dataclasses.replace(table, frame=table.frame.with_columns(pl.col("item_id").cast(pl.String)))
        if untitled == "id":
            item_frame = titled_by_id(item_frame, table.frame["item_id"])
        elif untitled == "drop":
            lacking = without_title(table.frame["item_id"], item_frame)
            reason = pl.when(pl.col("item_id").is_in(lacking.implode())).then(pl.lit("item without a title"))
            table = table.without(table.frame.select(reason).to_series())
        check_titles(table, item_frame, item_tables[0].name if item_tables else table.file.name)
        if table.frame.is_empty():
            spelling = other_spelling(lacking[0], item_frame) if untitled == "drop" and lacking.len() else ""
            hint = f"; of item {lacking[0]} expected {spelling}" if spelling else ""
            raise InputError(f"has no ratings that can be kept: {table.left_out()}{hint}", table.file.place)
        skipped = table.report() if bad_rows == "report" else None
        inputs = digests([*files, *item_tables])
        other = {file.encoding for file in item_tables} - {file.encoding for file in files} - {""}
    frame = in_seconds(table.frame, table.form, scratch)
    return Ratings(
        numbered(frame, scratch) if how.numbered else frame,
        item_frame,
        name,
        inputs,
        scale,
        "" if how.numbered else table.form.span(table.frame["timestamp"]),
        counted(table.reasons),
        skipped,
        roles,
        "; ".join([table.shape, *(f"items in {name}" for name in sorted(other))]),
        likes=likes,
        scratch=scratch,
        rated=table.rated.name,
    )


def _without_title(roles: Mapping[str, str]) -> dict[str, str]:
    """The roles of columns where the titles are those of another table."""
    return {column: "" if role == "title" else role for column, role in roles.items()}


def _load_store(url: str, items: str | None, columns: Mapping[str, str], scale: tuple[float, float] | None) -> Ratings:
    """The ratings of a store, whose items are in a table of their own."""
    if items is None:
        raise InputError("has no titles, expected the item table as ratings.items", place_of(url))
    with item_files(items) as files:
        table, roles = read_items(files, columns)
        inputs = digests(files)
    nothing = pl.DataFrame(schema={"user_id": pl.Int64, "item_id": table.schema["item_id"], "rating": pl.Float64,
                                   "timestamp": pl.Int64})  # fmt: skip
    name = Path(name_of(url)).stem
    found = with_store(Ratings(nothing, table, name, inputs, scale or usual_scale(name, ""), columns=roles), url)
    if found.frame.is_empty():
        raise InputError("has no ratings, expected at least one of an item of the table", place_of(url))
    return found


def with_users(ratings: Ratings, source: str, columns: Mapping[str, str], encoding: str | None = None) -> Ratings:
    """The ratings with the table of users at a place, see `palate.ratings.user_table`; its file is one more input."""
    with item_files(source, encoding, "user") as files:
        users = read_users(files, columns)
        inputs = digests(files, ratings.inputs)
    return dataclasses.replace(ratings, users=users, inputs=inputs)


def with_sample(ratings: Ratings, users: int, seed: int) -> Ratings:
    """The ratings of some users, drawn with a seed; their name says of how many."""
    every = distinct(ratings.frame["user_id"]).sort()
    if every.len() <= users:
        return ratings
    drawn = np.sort(np.random.default_rng(seed).choice(every.len(), users, replace=False))
    of_drawn = pl.col("user_id").is_in(every.gather(drawn).implode())
    rows = sum(block.select(of_drawn.sum()).item() for block in ratings.frame.iter_slices(BLOCK))
    scratch = None if ratings.scratch is None else Scratch.of(rows, ratings.scratch.memory)
    blocks = (block.filter(of_drawn) for block in ratings.frame.iter_slices(BLOCK))
    frame = pl.concat(blocks, rechunk=True) if scratch is None else scratch.table(blocks)
    name = f"{ratings.name}, {users:,} of {every.len():,} users"
    return dataclasses.replace(ratings, frame=frame, name=name, scratch=scratch)


def with_store(ratings: Ratings, url: str) -> Ratings:
    """The ratings, and behind them those of a store (see `palate.ratings.database`).

    A user's last rating of an item in the store replaces all earlier ones, also those of `ratings`. Ratings of items
    without a title, and outside of the scale, are left out: a store is only appended to, so nobody could mend them.
    `dropped` counts both, and the replaced ones.
    """
    stored, sha256 = stored_ratings(url)
    log, (low, high) = ratings.frame, ratings.scale
    if ratings.scratch is not None:
        ratings.scratch.refuse("appends a store to the log", "ratings.also")
    if "split" in log.columns:
        raise InputError("is appended to a log, expected none beside tables with splits", "ratings.also")
    user = log.schema["user_id"] if stored.schema["user_id"] == log.schema["user_id"] else pl.String()
    user = stored.schema["user_id"] if log.is_empty() else user
    item, as_written = pl.col("item_id").cast(log.schema["item_id"], strict=False), pl.col("item_id").cast(pl.String)
    # An id that the items' type cannot hold as it is written is that of no item: 007 is not 7.
    stored = stored.select(log.columns).with_columns(pl.when(item.cast(pl.String) == as_written).then(item))
    lacking = without_title(stored["item_id"], ratings.items).implode()
    reasons = stored.select(
        pl.when(pl.col("item_id").is_null() | pl.col("item_id").is_in(lacking)).then(pl.lit("item without a title"))
        .when(~pl.col("rating").is_between(low, high)).then(pl.lit("rating outside of the scale"))
    ).to_series()  # fmt: skip
    stored = stored.filter(reasons.is_null()).cast({"user_id": user})
    pair, rows = ["user_id", "item_id"], pl.concat([log.cast({"user_id": user}), stored]).with_row_index("row")
    rated = rows.join(stored.select(pair).unique(), on=pair, how="semi").sort("timestamp", "row")
    older = rated.join(rated.unique(pair, keep="last", maintain_order=True), on="row", how="anti")
    frame = rows.join(older, on="row", how="anti", maintain_order="left").drop("row")
    dropped = ratings.dropped | counted(reasons.drop_nulls().alias("reason"))
    if older.height:
        dropped["replaced by a later rating"] = older.height
    return dataclasses.replace(ratings, frame=frame, inputs={**ratings.inputs, name_of(url): sha256}, dropped=dropped)


def counted(reasons: pl.Series) -> dict[str, int]:
    """The number of rows for each reason, the most frequent first."""
    return dict(reasons.value_counts(sort=True).sort("count", "reason", descending=[True, False]).rows())


def _check_suffix(name: str, source: str) -> None:
    """Raise `InputError` for a file of a kind that holds no ratings, with the way to convert it.

    A file of an unknown kind is read as text.
    """
    remedy = _REMEDIES.get(Path(name).suffix.lower())
    if remedy is not None:
        expected = f"expected {', '.join(own_suffixes())} or .zip{remedy}"
        raise InputError(f"is not a kind of file that holds ratings, {expected}", source)


def titled_by_id(items: pl.DataFrame, rated: pl.Series) -> pl.DataFrame:
    """The items, and the rated items that they lack; one without a title has its id as title."""
    ids = pl.col("item_id").cast(pl.String)
    missing = rated.unique(maintain_order=True).to_frame().join(items, on="item_id", how="anti", maintain_order="left")
    items = pl.concat([items, missing], how="diagonal").with_columns(pl.col(pl.String).exclude("item_id").fill_null(""))
    return items.with_columns(title=pl.when(is_shown(pl.col("title"))).then("title").otherwise(ids))


def check_scale(scale: tuple[float, float] | None) -> None:
    """Raise `InputError` for a scale that is not two ascending finite numbers."""
    if scale is not None and not -math.inf < scale[0] < scale[1] < math.inf:
        raise InputError(f"is {list(scale)}, expected a lowest and a highest rating", "ratings.scale")


def _find_ratings(tables: Source) -> tuple[str, ...]:
    """The rating file of a folder or a zip, or its parts; raises `InputError` for none, or several."""
    atomic = [name for name in tables.names if name.lower().endswith(".inter")]
    saved = [name for name in tables.names if "dataset_dict.json" in tables.names and "." not in name]
    if len(saved) == 1:
        return tuple(saved)
    splits = split_files(tables.names)
    if {"train", "test"} <= splits.keys() and not any(_is_usual(name, _RATING_STEMS) for name in tables.names):
        ways = f"`--data {tables.root}` reads the splits, `--ratings {tables.root}/{splits['train']}` one of them"
        raise InputError(f"holds a table for each split, expected one of all ratings: {ways}", tables.root)
    found = [name for name in tables.names if _is_usual(name, _RATING_STEMS)] + atomic
    if saved and not found:
        ways = ", ".join(f"{tables.root}/{name}" for name in saved)
        raise InputError(f"holds a dataset in several splits, expected the folder of one: {ways}", tables.root)
    if not found:
        found = [name for name in tables.names if is_named(name) and _words(name)[-1] in _RATING_WORDS]
    if not found:
        found = [name for name in tables.names if is_named(name) and _words(name)[0] in _RATING_WORDS]
    if not found and (parts := parts_of([name for name in tables.names if is_table(name) or is_mark(name)])):
        return parts
    alone = [name for name in tables.names if is_table(name) and not is_mark(name)]
    if not found and len(alone) == 1 and not _ITEM_WORDS & {*_words(alone[0])}:
        return tuple(alone)
    if not found:
        found = [name for name in tables.names if _OF_NETFLIX.fullmatch(name.rpartition("/")[2])][:1]  # its error helps
    if len(found) == 1:
        return tuple(found)
    if found:
        found.sort()
        unpack = "" if tables.archive is None else "unpack it and "
        remedy = f"expected one: {unpack}name the file itself as --ratings"
        if tables.archive is None and len(found) > 2:
            remedy += ", or a pattern such as 'FOLDER/*.csv' of files that are one table"
        remedy = "expected one, as ?table=NAME" if tables.is_database else remedy
        raise InputError(f"holds {len(found)} tables of ratings, {', '.join(found[:4])}; {remedy}", tables.root)
    if tables.is_database:
        found_there = ", ".join(name.replace("/", ".") for name in tables.names)
        raise InputError(f"names no table of ratings, expected ?table=NAME; found {found_there}", tables.root)
    expected = "expected ratings.csv, ratings.jsonl, ratings.parquet, ratings.dat, u.data or a .inter file"
    there = f"; found {', '.join(tables.names[:8])}" if tables.names else "; it is empty"
    named = next((name for name in tables.names if is_table(name)), None)
    if named is not None and tables.archive is None:
        there += "; or name the file or its folder as --ratings, and that of the items as --items"
    raise InputError(f"holds no ratings, {expected}{there}", tables.root)


def _find_items(
    tables: Source, ratings: Sequence[str], columns: Mapping[str, str], *, exactly: bool
) -> tuple[str, ...]:
    """The item file beside the ratings, if there is one; `exactly`: only one that is called as usual."""
    if ratings[0].lower().endswith(".inter"):
        beside = ratings[0][: -len("inter")] + "item"
        if beside in tables.names:
            return (beside,)
    folder = ratings[0].rpartition("/")[0]
    others = [n for n in tables.names if n.rpartition("/")[0] == folder and n not in ratings]
    found = find_items(tables, others, columns, exactly=exactly)
    return () if found is None else (found,)


def find_items(
    tables: Source, names: Sequence[str], columns: Mapping[str, str], *, exactly: bool = False
) -> str | None:
    """The item table among some names of a folder or a zip, if there is one; raises `InputError` for several.

    Of several tables with such a name the one counts that has titles.
    """
    found = [name for name in names if _is_usual(name, _ITEM_STEMS)]
    if not found and not exactly:
        found = [n for n in names if is_named(n) and _words(n)[-1] in _ITEM_WORDS and not _RATING_WORDS & {*_words(n)}]
    if not found and not exactly:
        found = [n for n in names if is_named(n) and _words(n)[0] in _ITEM_WORDS and not _RATING_WORDS & {*_words(n)}]
    if len(found) > 1:
        found = [name for name in found if has_title(tables.open(name), columns)] or found
    if len(found) > 1:
        remedy = "expected one, or its path as --items"
        raise InputError(f"holds {len(found)} tables of items, {', '.join(found[:4])}; {remedy}", tables.root)
    return found[0] if found else None


def _is_usual(name: str, stems: Sequence[str]) -> bool:
    """Whether a file has one of these stems and the suffix of your own tables, or is MovieLens's such file."""
    return _FIXED.get(posixpath.basename(name).lower()) == stems or (is_named(name) and _stem(name).lower() in stems)


def is_named(name: str) -> bool:
    """Whether a name may be that of your own table: a file with its suffix, or a table of a database."""
    return (is_table(name) and not name.lower().endswith((".dat", ".data", ".inter", ".txt"))) or "." not in name


def is_mark(name: str) -> bool:
    """Whether a file only describes other files, such as `_SUCCESS`."""
    return posixpath.basename(name).startswith(("_", "."))


def _stem(name: str) -> str:
    """A file's name without its suffixes: `ratings` of `ratings.csv.gz`."""
    stem, suffix = posixpath.splitext(posixpath.basename(name))
    return posixpath.splitext(stem)[0] if suffix.lower() in PACKED else stem


def _words(name: str) -> list[str]:
    """The words of a file's name: `book`, `ratings` of `Book-Ratings.csv`."""
    return re.findall(r"[a-z]+", _stem(name).lower()) or [""]


def _name_of(source: str, names: Sequence[str]) -> str:
    """The name of a data set at a place: that of its folder, zip or database, or of the file itself."""
    if "://" in source:
        place = name_of(source) or source
        return _stem(names[0]) if place in names and not _is_usual(names[0], _RATING_STEMS) else _stem(place)
    path = Path(source)
    if path.is_dir():
        return path.resolve().name
    wild = next((n for n, part in enumerate(path.parts) if any(c in part for c in "*?[")), None)
    if wild is not None and not path.exists():
        return Path(*path.parts[:wild]).resolve().name or "ratings"
    if (stem := archive_stem(path.name)) is not None:
        return stem
    if not (_is_usual(names[0], _RATING_STEMS) and path.exists()):
        return path.stem if not path.exists() else _stem(path.name)
    return path.resolve().parent.name or _stem(names[0])


def usual_scale(name: str, rating_name: str) -> tuple[float, float]:
    """The scale of a named data set; else that of MovieLens's half stars."""
    archive = ARCHIVES.get(name.lower()) or ARCHIVES.get(Path(rating_name).stem.lower())
    if rating_name.lower().endswith("u.data"):
        archive = ARCHIVES["ml-100k"]
    return archive.scale if archive else (0.5, 5.0)
