"""The item table for prompts: its columns, with readable genres and the year."""

import polars as pl

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
