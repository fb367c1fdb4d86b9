"""Read a table of items: one row for each item, with a title and the file's other columns."""

import glob
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import polars as pl
from polars.datatypes import DataTypeClass

from palate.errors import InputError, first_line
from palate.ratings.formats import format_of
from palate.ratings.ids import as_ids, distinct, other_spelling, printable
from palate.ratings.layout import (
    GENRE_FLAGS,
    POLARS_FAULTS,
    Layout,
    check_encoding,
    check_widths,
    check_zeros,
    column_of,
    layout_of,
    rewritten_rows,
    roles_of,
    separator_of,
)
from palate.ratings.places import open_tables
from palate.ratings.rating_table import RatingTable
from palate.ratings.roles import ROLES, named_as, plain_name
from palate.ratings.source import SourceFile, parts_of
from palate.ratings.spreadsheet import SHEET
from palate.ratings.text import WHITE, folded, is_shown, without_entities
from palate.ratings.typed_ratings import type_of
from palate.ratings.wrong_rows import first_row


def read_items(
    files: Sequence[SourceFile], columns: Mapping[str, str], rated: pl.Series | None = None
) -> tuple[pl.DataFrame, dict[str, dict[str, str]]]:
    """Read the item table that some files are, and by file the role of each of its columns.

    The table has `item_id` (Int64 or String, see `as_ids`), `title` (String), then the other columns. Those of text
    files are String without changes, but ML-100K's genre flags become `genres` ("A|B"), and RecBole's separate year is
    appended to the title. Lists become text with commas, nested values JSON, and names such as `Book-Author` fields of
    prompts: `Book_Author`. If several columns can be the items' ids, the one counts that has most of the `rated` ids.
    Raises `InputError` with the line.
    """
    parts, roles = [], {}
    for file in files:
        table, layout, roles[file.name] = _read(file, columns, rated)
        parts.append(RatingTable(table, file, layout))
    return joined(parts, "item"), roles


def joined(parts: Sequence[RatingTable], what: str) -> pl.DataFrame:
    """The rows of several tables with the ids `{what}_id`, texts on one line, and names that a prompt may name.

    Entities of HTML become characters, see `without_entities`. Raises `InputError` with the line of the first row
    without an id, or with the id of an earlier row.
    """
    name = f"{what}_id"
    ids = pl.String() if len({part.frame.schema[name] for part in parts}) > 1 else parts[0].frame.schema[name]
    frames = [part.frame.with_columns(pl.col(name).cast(ids)) for part in parts]
    try:
        table = pl.concat(frames, how="diagonal_relaxed")
    except POLARS_FAULTS as error:
        problem = f"has a column of another type than the other parts, expected the same: {first_line(error)}"
        raise InputError(problem, parts[-1].file.place) from None
    table = table.rename(_as_fields(table.columns))
    texts = [column for column in table.iter_columns() if column.dtype == pl.String and column.name != name]
    table = table.with_columns(map(without_entities, texts))
    table = table.with_columns(folded(pl.col(pl.String).exclude(name).fill_null("")))
    _check_ids(replace(parts[0], frame=table, parts=tuple(parts) if len(parts) > 1 else ()), what)
    return table


def _read(
    file: SourceFile, columns: Mapping[str, str], rated: pl.Series | None
) -> tuple[pl.DataFrame, Layout | None, dict[str, str]]:
    """The items of one file."""
    table, layout = columns_in(file)
    item, title = _columns_of(table.columns, columns, file.place)
    if rated is not None and not ("item" in columns and named_as(columns["item"], table.columns)):
        item = _joining(table, item, rated)
    roles = roles_of(table.columns, {"item_id": item, "title": title})
    others = [c for c in table.columns if c not in (item, title)]
    ids = ids_in(table, layout, "item", item, file.place)
    if layout is None:
        wanted = type_of("title", title, table.schema[title], file.place)
        table = flat(table.with_columns(pl.col(title).cast(wanted)))
    table = table.select(
        ids.alias("item_id"),
        pl.col(title).fill_null("").alias("title"),
        *[pl.col(c) for c in others if c in table.columns and c not in ("item_id", "title")],
    )
    table = _join_genre_flags(table)
    is_atomic = file.name.lower().endswith(".item") and file.name.lower() != "u.item"
    return (_put_year_into_title(table) if is_atomic else table), layout, roles


def columns_in(file: SourceFile) -> tuple[pl.DataFrame, Layout | None]:
    """The columns of one file, those of text files as String, and the file's layout; None for typed columns."""
    if (typed := format_of(file)) is not None:
        return typed.columns(file), None
    layout = layout_of(file)
    duplicate = next((name for name in layout.names if layout.names.count(name) > 1), None)
    if duplicate is not None:
        raise InputError(f"has two columns {duplicate!r}, expected each name once", file.place, 1)
    return _read_text(file, layout), layout


def ids_in(table: pl.DataFrame, layout: Layout | None, role: str, column: str, place: str) -> pl.Series:
    """The ids in a column, Int64 or String, see `as_ids`."""
    if layout is not None:
        return as_ids(table[column].str.strip_chars(WHITE).replace("", None))
    return printable(table[column].cast(type_of(role, column, table.schema[column], place)))


def _as_fields(names: Sequence[str]) -> dict[str, str]:
    """The names that a prompt may name, for columns whose own it may not: `Book_Author` for `Book-Author`."""
    fields = {name: re.sub(r"\W+", "_", name).strip("_") for name in names if not name.isidentifier()}
    taken = [*names, *fields.values()]
    return {name: field for name, field in fields.items() if field.isidentifier() and taken.count(field) == 1}


def flat(table: pl.DataFrame) -> pl.DataFrame:
    """The table with lists as text with commas, and objects as JSON; other nested columns are left out."""
    changed, lost = [], []
    for name, dtype in table.schema.items():
        inner = dtype.inner if isinstance(dtype, pl.List | pl.Array) else None
        if _holds_bytes(dtype):
            lost.append(name)
        elif isinstance(dtype, pl.Struct):
            changed.append(pl.col(name).struct.json_encode())
        elif inner is not None and inner.is_nested():
            lost.append(name)
        elif inner is not None:
            listed = pl.col(name).cast(pl.List(pl.String), strict=False).list
            changed.append(listed.eval(pl.element().drop_nulls()).list.join(", ").replace("", None))
        elif dtype == pl.Null:
            lost.append(name)
    return table.drop(lost).with_columns(changed)


def _holds_bytes(dtype: "pl.DataType | DataTypeClass") -> bool:
    """Whether a type has no text: bytes, Python's objects and, in a list, durations."""
    if isinstance(dtype, pl.Struct):
        return any(_holds_bytes(field.dtype) for field in dtype.fields)
    if isinstance(dtype, pl.List | pl.Array):
        return dtype.inner == pl.Duration or _holds_bytes(dtype.inner)
    return dtype in (pl.Object, pl.Binary)


@contextmanager
def item_files(source: str, encoding: str | None = None, what: str = "item") -> Iterator[list[SourceFile]]:
    """The files of the item table at a place, or of another table; raises `InputError` if there is none."""
    path = source.partition(SHEET)[0]
    if "://" not in path and not os.path.exists(path) and not glob.glob(path):
        raise InputError(f"no such file, expected the {what} table", source)
    with open_tables(source, encoding) as tables:
        names = tables.chosen or parts_of(tables.names)
        if not names:
            raise InputError(f"holds {len(tables.names)} files, expected the one with the {what}s", source)
        yield tables.open_all(names)


def has_title(file: SourceFile, columns: Mapping[str, str]) -> bool:
    """Whether a file has a column of titles; True for a file that cannot be read, of which its reader says why."""
    typed = format_of(file)
    try:
        names = list(layout_of(file).names) if typed is None else typed.header(file)
        return column_of("title", names, columns, file.place, needed=False) is not None
    except InputError:
        return True


def _joining(table: pl.DataFrame, item: str, rated: pl.Series) -> str:
    """The column of ids, `item` or another with a usual name, that has most of the rated ids."""
    usual = [name for name in table.columns if plain_name(name) in (*ROLES["item"], "id")]
    if len(usual) < 2:
        return item
    ids = distinct(rated).cast(pl.String)
    found = {name: ids.is_in(table[name].cast(pl.String, strict=False).str.strip_chars(WHITE).implode()).sum()
             for name in dict.fromkeys([item, *usual]) if not table.schema[name].is_nested()}  # fmt: skip
    return max(found, key=lambda name: found[name]) if found else item


def varying_title(table: RatingTable) -> tuple[int, str, str] | None:
    """A row whose item has another title than before, its title, and the one before; None if there is none."""
    pairs = table.frame.select("item_id", folded(pl.col("title").fill_null(""))).with_row_index("row")
    pairs = pairs.filter(is_shown(pl.col("title"))).unique(["item_id", "title"], keep="first", maintain_order=True)
    duplicates = pairs.filter(pl.col("item_id").is_duplicated())
    if duplicates.is_empty():
        return None
    one, other = duplicates.filter(pl.col("item_id") == duplicates["item_id"][0]).rows()[:2]
    return other[0], other[2], one[2]


def items_of_titles(table: RatingTable) -> pl.DataFrame:
    """The items of a rating table with a title column, in the order of their first rating with a title."""
    varying = varying_title(table)
    if varying is not None:
        row, here, before = varying
        item, remedy = table.frame["item_id"][row], "--items names the table of items, --untitled id shows ids"
        table.fail(f"item {item} is titled {here!r} here and {before!r} before, expected one title; {remedy}", row)
    pairs = table.frame.select("item_id", folded(pl.col("title").fill_null("")))
    titled = pairs.filter(is_shown(pl.col("title"))).unique("item_id", keep="first", maintain_order=True)
    items = pl.concat([titled, pairs.join(titled, on="item_id", how="anti").unique("item_id", maintain_order=True)])
    return items.with_columns(without_entities(items["title"])).with_columns(folded(pl.col("title")))


def without_title(rated: pl.Series, items: pl.DataFrame) -> pl.Series:
    """The distinct rated items that have no title in `items`."""
    titled, rated = items.filter(is_shown(pl.col("title")))["item_id"], distinct(rated)
    return rated.filter(~rated.is_in(titled.implode()))


def check_titles(table: RatingTable, items: pl.DataFrame, where: str) -> None:
    """Raise `InputError` for the first rating whose item has no title in `items`."""
    missing = without_title(table.frame["item_id"], items)
    if missing.len():
        row = first_row(table.frame["item_id"].is_in(missing.implode()))
        item = table.frame["item_id"][row]
        expected = other_spelling(item, items) or "one for every rated item, or --untitled drop or id"
        table.fail(f"item {item} has no title in {where}, expected {expected}", row)


def _columns_of(names: list[str], columns: Mapping[str, str], place: str) -> tuple[str, str]:
    """The id and the title column."""
    mapped = {role: name for role, name in columns.items() if named_as(name, names)}
    title = column_of("title", names, mapped, place)
    item = column_of("item", names, mapped, place, needed=False) or next((n for n in names if n.lower() == "id"), None)
    if item is None:
        expected = "expected one such as movieId, or its name as --item"
        raise InputError(f"has no item column, {expected}; found {', '.join(names)}", place, 1)
    assert title is not None
    return item, title


def _read_text(file: SourceFile, layout: Layout) -> pl.DataFrame:
    """A text table as String columns, without blank lines."""
    check_zeros(file)
    try:
        text = file.path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        check_encoding(file)
        raise
    problem, ragged = None, True
    try:
        table = _split(rewritten_rows(file, layout) if layout.rewritten else text, layout)
        ragged = bool(table[table.columns[-1]].null_count())
    except POLARS_FAULTS as error:
        problem = str(error).splitlines()[0]
    if ragged:
        check_widths(file, layout, shown=6)
    if problem:
        raise InputError(f"cannot be read: {problem}", file.place)
    return table.filter(pl.any_horizontal(pl.all().str.strip_chars("\r").fill_null("") != ""))


def _split(text: str | bytes, layout: Layout) -> pl.DataFrame:
    """The rows as String columns, from a text with its header or from rewritten rows.

    Raises a Polars error if a row has too many fields.
    """
    if isinstance(text, str) and len(layout.separator) > 1:
        if ":::" in text:  # Polars's patterns have no look-ahead
            text = re.sub(separator_of(layout), "\0", text)
            layout = replace(layout, separator="\0")
        lines = pl.Series("line", text.split("\n")).str.strip_chars_end("\r").to_frame()
        if (lines["line"].str.count_matches(layout.separator, literal=True) >= len(layout.names)).any():
            raise pl.exceptions.ComputeError(f"a field holds {layout.separator}")
        split = pl.col("line").str.splitn(layout.separator, len(layout.names)).struct.rename_fields(layout.names)
        return lines.filter(pl.col("line") != "").select(split).unnest("line")
    table = pl.read_csv(
        text.encode() if isinstance(text, str) else text,
        has_header=False,
        skip_lines=layout.skip_lines if isinstance(text, str) else 0,
        separator=layout.separator,
        quote_char='"' if layout.quoted else None,
        schema={f"_{i}": pl.String() for i in range(len(layout.names))},
        raise_if_empty=False,
    )
    table.columns = list(layout.names)
    return table


def _check_ids(table: RatingTable, what: str) -> None:
    """Raise `InputError` for the first row without an id, or with the id of an earlier row."""
    ids = table.frame[f"{what}_id"]
    wrong = ~ids.is_first_distinct() | ids.is_null()
    if not wrong.any():
        return
    row = first_row(wrong)
    value = ids[row]
    first = ids.index_of(value) if value is not None else None
    if value is None or first is None:
        table.fail(f"the {what}'s id is missing, expected one", row)
    before = table.place_of(first, table.part_of(row)[0].file.place)
    table.fail(f"{before} has the same {what} {value}, expected one row for each {what}", row)


def _join_genre_flags(table: pl.DataFrame) -> pl.DataFrame:
    """Replace ML-100K's nineteen 0/1 columns by one column `genres`: "Action|Comedy"."""
    if not set(GENRE_FLAGS) <= set(table.columns):
        return table
    named = [pl.when(pl.col(flag) == "1").then(pl.lit(flag)) for flag in GENRE_FLAGS]
    genres = pl.concat_str(named, separator="|", ignore_nulls=True).alias("genres")
    return table.with_columns(genres).drop(GENRE_FLAGS)


def _put_year_into_title(table: pl.DataFrame) -> pl.DataFrame:
    """RecBole's item columns under MovieLens's names: "Toy Story (1995)", genres "A|B"."""
    names = {"release_year": "year", "class": "genres"}
    table = table.rename({a: b for a, b in names.items() if a in table.columns and b not in table.columns})
    if "year" in table.columns:
        dated = pl.col("year").str.contains(r"^\d{4}$") & ~pl.col("title").str.contains(r"\(\d{4}\)\s*$")
        titled = pl.concat_str("title", pl.lit(" ("), "year", pl.lit(")"))
        table = table.with_columns(pl.when(dated & (pl.col("title") != "")).then(titled).otherwise("title"))
    if "genres" in table.columns:
        table = table.with_columns(pl.col("genres").str.replace_all(" ", "|", literal=True))
    return table
