"""Ids: integers where the file writes all of them as plain integers, else text."""

import numpy as np
import polars as pl

from palate.ratings.blocks import BLOCK
from palate.ratings.layout import IN_UTF8
from palate.ratings.text import WHITE, is_shown

IDS = ("user_id", "item_id")
NULLS = ("null", "NULL", "Null", "none", "None", "NONE", "nan", "NaN", "NAN", "n/a", "N/A", "<NA>", r"\N")
"""Words that programs write where there is no value."""
AS_INTEGERS = "; pandas writes 12 as 12.0 in a column with gaps: `.astype('Int64')` before it is written keeps 12"


def as_ids(texts: pl.Series) -> pl.Series:
    """Ids as Int64 if each is a plain integer; otherwise unchanged.

    So `007` and `7` stay two ids, and the output has an id as the input wrote it.
    """
    numbers = texts.cast(pl.Int64, strict=False)
    same = numbers.null_count() == texts.null_count() and bool((numbers.cast(pl.String) == texts).all())
    return numbers if same else texts


def printable(ids: pl.Series) -> pl.Series:
    """Integers as Int64, or as text if one is too large for Int64; empty text becomes null."""
    if not ids.dtype.is_integer():
        return ids.replace("", None)
    numbers = ids.cast(pl.Int64, strict=False)
    return numbers if numbers.null_count() == ids.null_count() else ids.cast(pl.String)


def spelled_twice(ids: pl.Series) -> tuple[str, str] | None:
    """The first integer among ids that is written as both `7.0` and `7`: pandas writes both, with and without gaps."""
    if ids.dtype != pl.String:
        return None
    distinct = ids.unique()
    floats = distinct.filter(distinct.str.contains(r"^[+-]?\d+\.0+$"))
    if floats.is_empty():
        return None
    whole = floats.str.replace(r"\.0+$", "")
    return next(((one, two) for one, two in zip(floats, whole, strict=True) if two in distinct), None)


def is_respelled(text: pl.Expr) -> pl.Expr:
    """Whether an integer has a sign or zeros that Python would not print: `+7`, `007`, `-0`."""
    zeros = text.str.starts_with("0") & (text.str.len_bytes() > 1)
    return zeros | text.str.starts_with("+") | text.str.starts_with("-0")


def distinct(ids: pl.Series) -> pl.Series:
    """The distinct ids; integers from a narrow range are marked in a table, in a fifth of the time of a hash."""
    if ids.dtype != pl.Int64 or ids.null_count() or ids.is_empty():
        return ids.unique()
    low, high = int(ids.min()), int(ids.max())  # type: ignore[arg-type]
    if high - low > 2 * ids.len() + BLOCK:
        return ids.unique()
    found = np.zeros(high - low + 1, np.bool_)
    for begin in range(0, ids.len(), BLOCK):
        found[ids.slice(begin, BLOCK).to_numpy() - low] = True
    return pl.Series(ids.name, np.flatnonzero(found) + low)


def is_no_id(texts: pl.Series) -> pl.Series:
    """Whether each text stands for no value, or has a character that no id has, (rows,) Boolean."""
    return texts.is_in(NULLS) | texts.str.contains("[\0\r\ufffd]")


def id_problem(value: str | None) -> str | None:
    """The problem with an id; None if it is right."""
    if value is None:
        return "is empty, expected an id"
    if value in NULLS:
        return f"{value!r} stands for no value, expected an id"
    if "\ufffd" in value:
        return f"{value!r} is not UTF-8 text, or has U+FFFD of an earlier conversion: {IN_UTF8}"
    return f"{value!r} has NUL or a carriage return, expected text on a line" if {"\0", "\r"} & {*value} else None


def other_spelling(item: str | int, items: pl.DataFrame) -> str:
    """What to expect of an item that has a title under another spelling of its id; empty if it has none."""
    other = _spelled_otherwise(item, items.filter(is_shown(pl.col("title")))["item_id"])
    hint = AS_INTEGERS if f"{item} {other}".count(".0") == 1 else ""
    return "" if other is None else f"one spelling in both tables: it has item {other}{hint}"


def _spelled_otherwise(item: str | int, ids: pl.Series) -> str | None:
    """An id of `ids` that equals `item` as a number, `7` for `007` or `7.0`, or without white space."""
    number = pl.Series([str(item)]).cast(pl.Float64, strict=False)[0]
    texts = ids.cast(pl.String)
    same = texts.filter(texts.str.strip_chars(WHITE) == str(item).strip(WHITE))
    if same.len():
        return repr(same[0])
    return None if number is None else next(iter(texts.filter(texts.cast(pl.Float64, strict=False) == number)), None)
