"""Files that users write by hand: a history of ratings, and a list of candidates."""

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate.errors import InputError
from palate.ratings.layout import column_of, csv_problem
from palate.ratings.text import fold
from palate.ratings.times import TimesError, time_form
from palate.recommend.lookup import Lookup, shortened
from palate.store.json_text import Decoder

NAMES = "title or item_id, and rating"
OBJECT = '{"title": "Heat (1995)", "rating": 4}'
SEPARATORS = (",", ";", "\t")
_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?", re.ASCII)  # float() alone would accept 0_4


def read_history(
    path: Path, lookup: Lookup, scale: tuple[float, float], columns: Mapping[str, str] | None = None
) -> pl.DataFrame:
    """Read one person's ratings, oldest first: `item` (Int64, rows of the item table) and `rating` (Float64).

    The file is CSV with a header, or JSON lines. Both name an item by id or title, and its rating, under the column
    names that rating tables may use, or those in `columns` (by role). A column `year` completes a title without year.
    If every row has a timestamp, in any form that ratings may have, the reader sorts by it. Raises `InputError` with
    the line for an item that is unknown or repeated, a second user, and a rating outside the `scale`.
    """
    text, columns = _text(path), columns or {}
    start = text.lstrip()[:1]
    if start == "[":
        raise InputError(f"is a JSON array, expected one object per line, such as {OBJECT}: `jq -c '.[]' FILE`", path)
    rows = _json_lines(text, path, columns) if start == "{" else _csv(text, path, columns)
    line_of: dict[int, int] = {}
    ratings: list[float] = []
    times: list[str] = []
    person: str | None = None
    for line, row in rows:
        user = str(row.get("user"))
        if user != (person := person or user):
            raise InputError(f"has user {user!r} after user {person!r}, expected ratings of one user", path, line)
        item = _item(row, lookup, path, line)
        if item in line_of:
            title = lookup.items["title"][item]
            raise InputError(f"repeats {title!r} of line {line_of[item]}, expected each item once", path, line)
        line_of[item] = line
        ratings.append(_rating(row["rating"], scale, path, line))
        if "timestamp" in row:
            times.append(str(row["timestamp"]).strip())
    if not line_of:
        raise InputError("has no ratings, expected at least one", path)
    history = pl.DataFrame({"item": list(line_of), "rating": ratings}, schema={"item": pl.Int64, "rating": pl.Float64})
    if len(times) != history.height:
        return history
    return history[_order(times, list(line_of.values()), path)]


def read_candidates(path: Path, lookup: Lookup) -> NDArray[np.int64]:
    """Read items, one id or title per line, as rows of the item table, (n,) int64; repeated items count once.

    Raises `InputError` with the line for an unknown item.
    """
    lines = [(n, line) for n, line in enumerate(_text(path).split("\n"), start=1) if line.strip()]
    if not lines:
        raise InputError("has no items, expected one item_id or title per line", path)
    return np.array(list(dict.fromkeys(lookup.by_either(fold(line), path, n) for n, line in lines)), np.int64)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", path) from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InputError(
            f"byte {error.object[error.start]:#04x} is not UTF-8 text, save the file as UTF-8", path, line
        ) from None


def _csv(text: str, path: Path, columns: Mapping[str, str]) -> Iterator[tuple[int, dict[str, Any]]]:
    separator = _separator(text, path, columns)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    names: list[str] | None = None
    roles: dict[str, str] = {}
    try:
        for fields in reader:
            if not any(field.strip() for field in fields):
                continue
            line = reader.line_num
            if names is None:
                names = [field.strip() for field in fields]
                roles = _roles(names, columns, path, line)
                if not _is_enough(roles):
                    found = shortened(", ".join(names))
                    option = "or their names as ratings.columns.title, .item and .rating"
                    raise InputError(f"has the columns {found}, expected {NAMES}, {option}", path, line)
                continue
            if len(fields) != len(names):
                found = f"{len(fields)} field" + ("s" if len(fields) != 1 else "")
                hint = "; a title with a comma needs quotes" if len(fields) > len(names) and separator == "," else ""
                header = shortened(", ".join(names))
                raise InputError(f"row has {found}, expected {len(names)} ({header}){hint}", path, line)
            row = dict(zip(names, fields, strict=True))
            yield line, {role: row[name] for role, name in roles.items()}
    except csv.Error as error:
        raise InputError(f"is not CSV: {csv_problem(error)}", path, reader.line_num) from None


def _separator(text: str, path: Path, columns: Mapping[str, str]) -> str:
    """The first separator that splits the header into the required columns; a comma if none does."""
    number, header = next(((n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip()), (1, ""))
    for separator in SEPARATORS:
        names = [name.strip().strip('"') for name in header.split(separator)]
        if _is_enough(_roles(names, columns, path, number)):
            return separator
    return ","


def _json_lines(text: str, path: Path, columns: Mapping[str, str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, part in enumerate(text.split("\n"), start=1):
        if not part.strip():
            continue
        try:
            row = Decoder().decode(part)
        except json.JSONDecodeError as error:
            raise InputError(
                f"is not JSON: {error.msg}; expected one object per line, such as {OBJECT}", path, line
            ) from None
        roles = _roles(list(row), columns, path, line) if isinstance(row, dict) else {}
        if not _is_enough(roles):
            raise InputError(f"is not a rating, expected an object with {NAMES}, such as {OBJECT}", path, line)
        yield line, {role: row[name] for role, name in roles.items()}


def _roles(names: Sequence[str], columns: Mapping[str, str], path: Path, line: int) -> dict[str, str]:
    """The columns by role: the roles of a rating table, and `year`."""
    wanted = ("item", "title", "rating", "user", "timestamp")
    try:
        found = {role: column_of(role, names, columns, "", needed=False) for role in wanted}
    except InputError as error:
        raise InputError(error.message, path, line) from None
    found["year"] = next((name for name in names if name.lower() == "year"), None)
    return {role: name for role, name in found.items() if name is not None}


def _is_enough(roles: Mapping[str, str]) -> bool:
    """Whether the columns name an item and a rating."""
    return "rating" in roles and ("item" in roles or "title" in roles)


def _item(row: Mapping[str, Any], lookup: Lookup, path: Path, line: int) -> int:
    """The item table's row for the item of a file row: by id if the row has one, else by title."""
    named = row.get("item")
    title = fold(str(row.get("title") or "")).strip()
    if named is not None and str(named).strip():
        item = lookup.by_id(str(named), path, line)
        if title in lookup.titles and item not in lookup.titles[title]:
            actual = lookup.items["title"][item]
            raise InputError(f"item {str(named).strip()} is {actual!r}, not {title!r}: expected either", path, line)
        return item
    if not title:
        raise InputError("names no item, expected a title or an item_id", path, line)
    dated = f"{title} ({str(row.get('year') or '').strip()})"
    return lookup.by_title(dated if lookup.has_title(dated) else title, path, line)


def _order(times: Sequence[str], lines: Sequence[int], path: Path) -> pl.Series:
    """The rows by time, read as those of ratings; rows of one time keep their order."""
    texts = pl.Series(times, dtype=pl.String)
    try:
        form = time_form(texts)
    except TimesError as error:
        raise InputError(f"timestamp {error}", path, lines[error.row]) from None
    values = form.values(texts)
    wrong = values.is_null() | (values < 0).fill_null(True)
    if wrong.any():
        row = int(wrong.arg_true()[0])
        raise InputError(form.problem("timestamp", times[row]), path, lines[row])
    return values.to_frame("time").with_row_index().sort("time", maintain_order=True)["index"]


def _rating(value: Any, scale: tuple[float, float], path: Path, line: int) -> float:
    low, high = scale
    try:
        is_number = _NUMBER.fullmatch(value.strip()) if isinstance(value, str) else not isinstance(value, bool)
        rating = float(value) if is_number else math.nan
    except (TypeError, ValueError, OverflowError):
        rating = math.nan
    if not low <= rating <= high:
        shown = shortened(repr(value))
        raise InputError(f"rating {shown}, expected a number from {low:g} to {high:g} (ratings.scale)", path, line)
    return rating
