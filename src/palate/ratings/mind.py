"""Read the logs of the MIND data set, `behaviors.tsv`: what was shown to a user, and which of it was clicked.

A line has, with tabs between them: the impression's number, the user, the time, the news clicked before, and what was
shown, such as `N1-1 N2-0`. Every news that was shown becomes a row, true if it was clicked. The clicks before the log
have no times: those of a user's first line precede that line, a second apart.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from palate.ratings.json_table import WrongLineError

if TYPE_CHECKING:
    import polars as pl

FILE = "behaviors.tsv"
COLUMNS = ["user_id", "item_id", "rating", "timestamp"]
NEWS = ("item_id", "category", "subcategory", "title", "abstract", "url", "title_entities", "abstract_entities")
"""The columns of `news.tsv`, which has no header."""
_FIELDS = ["impression", "user_id", "timestamp", "history", "shown"]
BLANK = b"\t" * (len(_FIELDS) - 1) + b"\n"
"""A line without values; Polars takes the number of columns from the first line, which may be this one."""
_TIME = "%m/%d/%Y %I:%M:%S %p"
_FORM = r"^\d{1,2}/\d{1,2}/\d{4} \d{1,2}:\d{1,2}:\d{1,2} [AP]M$"
"""Polars takes any white space, or none, between the parts of a time."""


def column_names(path: Path) -> list[str]:
    """The names of the columns that a log becomes."""
    return COLUMNS


def read_behaviors(path: Path, columns: Sequence[str] | None = None) -> "pl.DataFrame":
    """The log: `user_id`, `item_id` (String), `rating` (Boolean), `timestamp` (Datetime).

    Raises `WrongLineError` for the first line that is none of a log.
    """
    return _rows(path).select(COLUMNS if columns is None else columns)


def row_lines(path: Path) -> Iterator[int]:
    """The line of each row, from 1."""
    return iter(_rows(path)["line"])


def wrong_lines(path: Path) -> Iterator[WrongLineError]:
    """The lines that are none of a log."""
    with path.open(encoding="utf-8", errors="replace", newline="\n") as lines:
        for number, line in enumerate(lines, 1):
            fields = line.rstrip("\r\n").split("\t")
            if not any(fields):
                continue
            if len(fields) != len(_FIELDS):
                problem = f"row has {len(fields)} fields, expected {len(_FIELDS)} ({', '.join(_FIELDS)})"
                yield WrongLineError(problem, number, "wrong number of fields")
            elif "\ufffd" in line:
                yield WrongLineError("is not UTF-8 text, expected it", number, "not UTF-8")
            elif not fields[1]:
                yield WrongLineError("user_id is empty, expected an id", number, "no user_id")
            elif not _is_time(fields[2]):
                problem = f"timestamp {fields[2]!r} is not a time, expected one such as 11/15/2019 9:55:12 AM"
                yield WrongLineError(problem, number, "no readable timestamp")
            elif fields[4] and not re.search(r"-[01]( |$)", fields[4]):
                reason = "no labels -0 and -1, which the train and dev parts of MIND have"
                yield WrongLineError(f"shown {fields[4][:60]!r} has {reason}", number, reason)
            elif not re.fullmatch(r"\S+-[01]( \S+-[01])*", fields[4]):
                problem = f"shown {fields[4]!r} is no list of news, expected one such as 'N1-1 N2-0'"
                yield WrongLineError(problem, number, "no list of news")


def _is_time(text: str) -> bool:
    try:
        datetime.strptime(text, _TIME)
    except ValueError:
        return False
    return re.match(_FORM, text, re.ASCII) is not None


def _rows(path: Path) -> "pl.DataFrame":
    """The rows with the `line` of each."""
    import polars as pl

    try:
        lines = (
            pl.read_csv(
                path, separator="\t", has_header=False, quote_char=None, schema=dict.fromkeys(_FIELDS, pl.String())
            )
            .with_row_index("line", 1)
            .filter(pl.any_horizontal(pl.col(_FIELDS).is_not_null()))  # blank lines
            .with_columns(
                pl.when(pl.col("timestamp").str.contains(_FORM)).then("timestamp").otherwise(pl.lit("")),
                pl.col("shown").str.split(" "),
            )
            .with_columns(pl.col("timestamp").str.to_datetime(_TIME))
        )
    except pl.exceptions.PolarsError as error:
        raise next(wrong_lines(path), error) from None
    shown = lines.select("line", "user_id", "timestamp", pl.col("shown").alias("item_id")).explode("item_id")
    found = pl.col("item_id").str.extract_groups(r"^(?<item>.+)-(?<clicked>[01])$").struct
    shown = shown.with_columns(found["item"].alias("item_id"), (found["clicked"] == "1").alias("rating"))
    if any(shown[name].null_count() for name in COLUMNS):
        raise next(wrong_lines(path), ValueError("a value is missing"))
    first = lines.sort("timestamp", maintain_order=True).unique("user_id", keep="first", maintain_order=True)
    listed = first.filter(pl.col("history") != "").with_columns(pl.col("history").str.split(" "))
    before = listed.explode("history").unique(["user_id", "history"], keep="last", maintain_order=True)
    place = pl.int_range(pl.len(), 0, -1, dtype=pl.Int64).over("user_id")
    before = before.select(
        "line",
        "user_id",
        pl.col("history").alias("item_id"),
        pl.lit(True).alias("rating"),
        pl.col("timestamp") - pl.duration(seconds=place),
    )
    return pl.concat([before, shown.select(before.columns)])
