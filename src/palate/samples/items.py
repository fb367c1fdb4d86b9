"""The item table for prompts: its columns, with readable genres and the year."""

import numpy as np
import polars as pl

from palate.errors import InputError
from palate.store.scratch import Scratch, filled

NO_GENRES = "no genres listed"
NO_YEAR = "unknown"
SOURCES = ("title", "genres", "release_date", "year")
"""The columns of an item table that `shown_items` reads."""
DERIVED: dict[str, str | None] = {"genres": None, "year": NO_YEAR}
"""The fields of a prompt that `shown_items` computes, and the text of an item without one; None: an error."""


def shown_items(items: pl.DataFrame) -> pl.DataFrame:
    """The item table with the columns that prompts may name: `genres` as readable text, and `year`.

    `genres` (String) gets commas, "Adventure, Children" for "Adventure|Children", and "no genres listed" if it is
    empty. `year` (String) is the year in parentheses at the end of the title, else the one at the end of
    `release_date`, else "unknown". A table's own column `year` stays, and no column is added if no item has a year. The
    function is idempotent.
    """
    shown = items
    if items.schema.get("genres") == pl.String:
        listed = pl.col("genres").replace({"(no genres listed)": NO_GENRES, "": NO_GENRES})
        shown = shown.with_columns(listed.str.replace_all("|", ", ", literal=True))
    if "year" in items.columns:
        return shown
    # Series run over several years: "(2006-2007)", "(2019- )".
    year = pl.col("title").str.extract(r"\((\d{4})(?:\s*[-–]\s*(?:\d{4})?\s*)?\)\s*$")
    if items.schema.get("release_date") == pl.String:
        year = year.fill_null(pl.col("release_date").str.extract(r"(\d{4})\s*$"))
    found = shown.select(year=year)["year"]
    return shown if found.null_count() == len(found) else shown.with_columns(year=found.fill_null(NO_YEAR))


def item_rows(rated: pl.Series, items: pl.Series, scratch: Scratch | None = None) -> pl.Series:
    """The item table's row of each rated item, UInt32; raises `InputError` for an item that the table lacks."""
    if rated.dtype.is_integer() and items.dtype.is_integer() and len(rated):
        ids, listed = rated.to_numpy(), items.to_numpy()
        low, high = min(ids.min(), listed.min(initial=0)), max(ids.max(), listed.max(initial=0))
        if low >= 0 and high < 1 << 26:  # an array indexed by id takes a tenth of a join's time
            row = np.full(high + 1, len(listed), np.uint32)
            row[listed] = np.arange(len(listed), dtype=np.uint32)
            found = filled(scratch, len(rated), np.uint32, lambda some: row[ids[some]])
            if found.max() < len(listed):
                return pl.Series(found)
    numbered = items.to_frame().with_row_index("row")

    def joined(rated: pl.Series) -> pl.Series:
        rows = rated.to_frame().join(numbered, on="item_id", how="left", maintain_order="left")["row"].cast(pl.UInt32)
        if rows.null_count():
            missing = rated.gather(rows.is_null().arg_true().head(1)).item()
            raise InputError(f"item {missing} has ratings but no row in the item table, expected one for each", "items")
        return rows

    if scratch is None:
        return joined(rated)
    return pl.Series(filled(scratch, len(rated), np.uint32, lambda some: joined(rated[some]).to_numpy()))
