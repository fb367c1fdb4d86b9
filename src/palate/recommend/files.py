"""Files that a user writes by hand: a history of ratings, and a list of candidates."""

import csv
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate.errors import InputError
from palate.recommend.lookup import Lookup

NAMES = "title or item_id, and rating"


def read_history(path: Path, lookup: Lookup, scale: tuple[float, float]) -> pl.DataFrame:
    """Read ratings, oldest first: `item` (Int64, rows of the item table) and `rating` (Float64).

    The file is CSV with a header, or JSON lines; both name `title` or `item_id`, and `rating`. Raises `InputError`
    with the line for an item that is not there or stands there twice, and a rating outside the `scale`.
    """
    text = _text(path)
    rows = _json_lines(text, path) if text.lstrip().startswith("{") else _csv(text, path)
    line_of: dict[int, int] = {}
    ratings = []
    for line, row in rows:
        item = _item(row, lookup, path, line)
        if item in line_of:
            title = lookup.items["title"][item]
            raise InputError(f"{title!r} stands already on line {line_of[item]}, expected it once", path, line)
        line_of[item] = line
        ratings.append(_rating(row["rating"], scale, path, line))
    if not line_of:
        raise InputError("holds no ratings, expected one at least", path)
    return pl.DataFrame({"item": list(line_of), "rating": ratings}, schema={"item": pl.Int64, "rating": pl.Float64})


def read_candidates(path: Path, lookup: Lookup) -> NDArray[np.int64]:
    """Read items, an id or else a title a line, as rows of the item table, (n,) int64; what stands twice counts once.

    Raises `InputError` with the line for an item that is not there.
    """
    lines = [(n, line) for n, line in enumerate(_text(path).split("\n"), start=1) if line.strip()]
    if not lines:
        raise InputError("holds no items, expected an item_id or a title a line", path)
    return np.array(list(dict.fromkeys(lookup.by_either(line, path, n) for n, line in lines)), np.int64)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", path) from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InputError(f"byte {error.object[error.start]:#04x} is not UTF-8 text", path, line) from None


def _csv(text: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    names: list[str] | None = None
    try:
        for fields in reader:
            if not any(field.strip() for field in fields):
                continue
            line = reader.line_num
            if names is None:
                names = [field.strip() for field in fields]
                if "rating" not in names or not {"title", "item_id"} & set(names):
                    raise InputError(f"has the columns {', '.join(names)}, expected {NAMES}", path, line)
                continue
            if len(fields) != len(names):
                found = f"{len(fields)} field" + ("s" if len(fields) != 1 else "")
                hint = "; a title with a comma needs quotes" if len(fields) > len(names) else ""
                raise InputError(f"row has {found}, expected {len(names)} ({', '.join(names)}){hint}", path, line)
            yield line, dict(zip(names, fields, strict=True))
    except csv.Error as error:
        raise InputError(f"is not CSV: {error}", path, reader.line_num) from None


def _json_lines(text: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, part in enumerate(text.split("\n"), start=1):
        if not part.strip():
            continue
        try:
            row = json.loads(part)
        except json.JSONDecodeError as error:
            raise InputError(f"is not JSON: {error.msg}", path, line) from None
        if not isinstance(row, dict) or "rating" not in row or not {"title", "item_id"} & row.keys():
            raise InputError(f"is no rating, expected an object with {NAMES}", path, line)
        yield line, row


def _item(row: dict[str, Any], lookup: Lookup, path: Path, line: int) -> int:
    """The row of the item that a row names: by its id where there is one."""
    named = row.get("item_id")
    if named is not None and str(named).strip():
        return lookup.by_id(str(named), path, line)
    title = str(row.get("title") or "")
    if not title.strip():
        raise InputError("names no item, expected a title or an item_id", path, line)
    return lookup.by_title(title, path, line)


def _rating(value: Any, scale: tuple[float, float], path: Path, line: int) -> float:
    low, high = scale
    try:
        rating = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        rating = math.nan
    if not low <= rating <= high:
        raise InputError(f"rating {value!r}, expected a number from {low:g} to {high:g}", path, line)
    return rating
