"""Read the logs of the MIND data set, `behaviors.tsv`: what was shown to a user, and which of it was clicked.

A line has, with tabs between them: the impression's number, the user, the time, the news clicked before, and what was
shown, such as `N1-1 N2-0`. Every news that was shown becomes a row, true if it was clicked. The clicks before the log
have no times: those of a user's first line precede that line, a second apart.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

FILE = "behaviors.tsv"
COLUMNS = ["user_id", "item_id", "rating", "timestamp"]
NEWS = ("item_id", "category", "subcategory", "title", "abstract", "url", "title_entities", "abstract_entities")
"""The columns of `news.tsv`, which has no header."""


def column_names(path: Path) -> list[str]:
    """The names of the columns that a log becomes."""
    return COLUMNS


def read_behaviors(path: Path, columns: Sequence[str] | None = None) -> "pl.DataFrame":
    """The log: `user_id`, `item_id` (String), `rating` (Boolean), `timestamp` (Datetime)."""
    import polars as pl

    names = ["impression", "user_id", "timestamp", "history", "shown"]
    lines = pl.read_csv(
        path, separator="\t", has_header=False, quote_char=None, schema=dict.fromkeys(names, pl.String())
    ).with_columns(pl.col("timestamp").str.to_datetime("%m/%d/%Y %I:%M:%S %p"))
    shown = lines.select("user_id", "timestamp", pl.col("shown").str.split(" ").alias("item_id")).explode("item_id")
    found = pl.col("item_id").str.extract_groups(r"^(?<item>.+)-(?<clicked>[01])$").struct
    shown = shown.select(
        "user_id", found["item"].alias("item_id"), (found["clicked"] == "1").alias("rating"), "timestamp"
    )
    first = lines.sort("timestamp", maintain_order=True).unique("user_id", keep="first", maintain_order=True)
    listed = first.filter(pl.col("history") != "").select("user_id", "timestamp", pl.col("history").str.split(" "))
    before = listed.explode("history").unique(["user_id", "history"], keep="last", maintain_order=True)
    place = pl.int_range(pl.len(), 0, -1, dtype=pl.Int64).over("user_id")
    before = before.select(
        "user_id",
        pl.col("history").alias("item_id"),
        pl.lit(True).alias("rating"),
        pl.col("timestamp") - pl.duration(seconds=place),
    )
    return pl.concat([before, shown]).select(COLUMNS if columns is None else columns)
