"""Load and check ratings from a named data set or a path."""

import dataclasses
import math
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import polars as pl

from palate.errors import InputError
from palate.ratings.archives import ARCHIVES, locate
from palate.ratings.database import is_url, name_of, place_of, stored_ratings
from palate.ratings.formats import own_suffixes, table_suffixes
from palate.ratings.item_table import item_table, items_of_titles, read_items
from palate.ratings.likes import COUNTS, SCALE, Likes, first_likes
from palate.ratings.rating_table import COLUMNS, check_titles, read_ratings, without_title
from palate.ratings.source import Source, SourceFile, open_source
from palate.ratings.split_names import split_files
from palate.ratings.text import is_shown
from palate.ratings.times import in_seconds

_RATING_STEMS, _RATING_FILES = ("ratings", "interactions"), ("ratings.dat", "u.data")
_ITEM_STEMS, _ITEM_FILES = ("movies", "items", "books", "products", "titles"), ("movies.dat", "u.item")
_JSON = """: a script converts it, such as `import polars; polars.read_ndjson("a.jsonl").write_parquet("a.parquet")`"""
_REMEDIES = {
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), _JSON),
    **dict.fromkeys((".gz", ".bz2", ".xz", ".zst"), ": it is compressed, unpack it first"),
    **dict.fromkeys((".xlsx", ".xls", ".ods"), ": it is a spreadsheet, save it as CSV in UTF-8"),
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
    options: dict[str, Any] = field(default_factory=dict)
    """How a config says that the tables are read, where it differs from the usual way; the manifest holds it."""
    likes: Likes | None = None
    """How samples get negatives; None if the log has ratings, not likes alone."""

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
    likes: Likes | None = None,
) -> Ratings:
    """Read ratings from a named data set (see `ARCHIVES`), a folder, a zip, a CSV or a Parquet file, or a store's URL.

    `items` is the item table, if it is not beside the ratings under a usual name. `columns` maps `user`, `item`,
    `rating`, `timestamp` to other column names than the usual ones. `bad_rows` and `untitled` are the options of
    `RatingsConfig`. With `likes` the table is a log of likes, see `palate.ratings.likes`. Raises `InputError` with file
    and line for the first mistake, `WorkError` if a download fails.
    """
    check_scale(scale)
    columns = columns or {}
    if is_url(source):
        return _load_store(source, items, columns, scale)
    path = locate(source)
    single = path.is_file() and path.suffix.lower() != ".zip"
    if single:
        _check_suffix(path)
    with open_source(path.parent if single else path) as tables:
        rating_name = path.name if single else _find_ratings(tables)
        name = source if source in ARCHIVES else _name_of(path, rating_name)
        scale = (COUNTS if likes else scale) or usual_scale(name, rating_name)
        table = read_ratings(
            tables.open(rating_name), columns, scale, skip=bad_rows != "refuse", likes=likes is not None
        )
        inputs = {table.file.name: table.file.sha256}
        roles = {table.file.name: table.columns}
        if items is not None:
            item_file: SourceFile | None = item_table(items)
        else:
            item_name = _find_items(tables, rating_name)
            item_file = None if item_name is None else tables.open(item_name)
        if item_file is not None:
            item_frame, roles[item_file.name] = read_items(item_file, columns)
            inputs[item_file.name] = item_file.sha256
        elif "title" in table.frame.columns:
            item_frame = items_of_titles(table)
        else:
            wanted = "expected movies.csv or items.csv beside it, ratings.items, or a title column"
            raise InputError(f"has no titles: {wanted}", table.file.place)
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
        check_titles(table, item_frame, item_file.name if item_file else table.file.name)
        if table.frame.is_empty():
            raise InputError("has no ratings, expected at least one row that is kept", table.file.place)
        skipped = table.report() if bad_rows == "report" else None
    dropped = counted(table.skipped["reason"])
    times = table.form.span(table.frame["timestamp"])
    frame = in_seconds(table.frame, table.form)
    return Ratings(frame, item_frame, name, inputs, scale, times, dropped, skipped, roles, likes=likes)


def _load_store(url: str, items: str | None, columns: Mapping[str, str], scale: tuple[float, float] | None) -> Ratings:
    """The ratings of a store, whose items are in a table of their own."""
    if items is None:
        raise InputError("has no titles, expected the item table as ratings.items", place_of(url))
    file = item_table(items)
    table, roles = read_items(file, columns)
    nothing = pl.DataFrame(schema={"user_id": pl.Int64, "item_id": table.schema["item_id"], "rating": pl.Float64,
                                   "timestamp": pl.Int64})  # fmt: skip
    name, inputs = Path(name_of(url)).stem, {file.name: file.sha256}
    found = with_store(
        Ratings(nothing, table, name, inputs, scale or usual_scale(name, ""), columns={file.name: roles}), url
    )
    if found.frame.is_empty():
        raise InputError("has no ratings, expected at least one of an item of the table", place_of(url))
    return found


def with_store(ratings: Ratings, url: str) -> Ratings:
    """The ratings, and behind them those of a store (see `palate.ratings.database`).

    A user's last rating of an item in the store replaces all earlier ones, also those of `ratings`. Ratings of items
    without a title, and outside of the scale, are left out: a store is only appended to, so nobody could mend them.
    `dropped` counts both, and the replaced ones.
    """
    stored, sha256 = stored_ratings(url)
    log, (low, high) = ratings.frame, ratings.scale
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


def _check_suffix(path: Path) -> None:
    """Raise `InputError` for a file of a kind that holds no ratings, with the way to convert it."""
    suffix = path.suffix.lower()
    if suffix not in table_suffixes():
        expected = f"expected {', '.join(own_suffixes())} or .zip{_REMEDIES.get(suffix, '')}"
        raise InputError(f"is not a kind of file that holds ratings, {expected}", path)


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


def _find_ratings(tables: Source) -> str:
    """The rating file of a folder or a zip; raises `InputError` for none, or for several."""
    found = [name for name in tables.names if _is_ratings(name) or name.lower().endswith(".inter")]
    if len(found) == 1:
        return found[0]
    if {"train", "test"} <= split_files(tables.names).keys():
        raise InputError(
            "holds a table for each split, expected one of all ratings: `--data` reads splits", tables.root
        )
    if found:
        unpack = "" if tables.archive is None else "unpack it and "
        remedy = f"expected one: {unpack}name the file itself as --ratings"
        raise InputError(f"holds {len(found)} tables of ratings, {', '.join(found[:4])}; {remedy}", tables.root)
    expected = "expected ratings.csv, ratings.dat, u.data, a .inter file or ratings.parquet"
    there = f"; found {', '.join(tables.names[:8])}" if tables.names else "; it is empty"
    named = next((name for name in tables.names if name.lower().endswith(table_suffixes())), None)
    if named is not None and tables.archive is None:
        there += "; or name the file itself as --ratings, and that of the items as --items"
    raise InputError(f"holds no ratings, {expected}{there}", tables.root)


def _find_items(tables: Source, rating_name: str) -> str | None:
    """The item file beside the ratings, if there is one."""
    if rating_name.lower().endswith(".inter"):
        beside = rating_name[: -len("inter")] + "item"
        if beside in tables.names:
            return beside
    folder = rating_name.rpartition("/")[0]
    return find_items(tables, [n for n in tables.names if n.rpartition("/")[0] == folder and n != rating_name])


def find_items(tables: Source, names: Sequence[str]) -> str | None:
    """The item table among some names of a folder or a zip, if there is one; raises `InputError` for several."""
    found = [name for name in names if _is_usual(name, _ITEM_STEMS, _ITEM_FILES)]
    if len(found) > 1:
        remedy = "expected one, or its path as --items"
        raise InputError(f"holds {len(found)} tables of items, {', '.join(found[:4])}; {remedy}", tables.root)
    return found[0] if found else None


def _is_ratings(name: str) -> bool:
    return _is_usual(name, _RATING_STEMS, _RATING_FILES)


def _is_usual(name: str, stems: Sequence[str], files: Sequence[str]) -> bool:
    """Whether a file has one of these names, or one of these stems and the suffix of your own tables."""
    base = posixpath.basename(name).lower()
    stem, suffix = posixpath.splitext(base)
    return base in files or (stem in stems and suffix in own_suffixes())


def _name_of(path: Path, rating_name: str) -> str:
    """The name of a data set at a path: that of its folder or zip, or of the file itself."""
    if path.is_dir():
        return path.resolve().name
    stem = Path(rating_name).stem
    if path.suffix.lower() == ".zip" or not _is_ratings(rating_name):
        return path.stem
    return path.resolve().parent.name or stem


def usual_scale(name: str, rating_name: str) -> tuple[float, float]:
    """The scale of a named data set; else that of MovieLens's half stars."""
    archive = ARCHIVES.get(name.lower()) or ARCHIVES.get(Path(rating_name).stem.lower())
    if rating_name.lower().endswith("u.data"):
        archive = ARCHIVES["ml-100k"]
    return archive.scale if archive else (0.5, 5.0)
