"""The items as prompts tell of them: the columns of their table, and what can be read from those."""

import polars as pl

NO_GENRES = "no genres listed"
NO_YEAR = "unknown"
SOURCES = ("title", "genres", "release_date", "year")
"""The columns of an item table that `shown_items` reads."""
DERIVED: dict[str, str | None] = {"genres": None, "year": NO_YEAR}
"""The fields of a prompt that `shown_items` computes, and the text of an item without one; None: an error."""


def shown_items(items: pl.DataFrame) -> pl.DataFrame:
    """The item table as prompts may name it: `genres` as readable text, and `year`.

    `genres` (String) is told with commas, "Adventure|Children" as "Adventure, Children", and none as "no genres
    listed". `year` (String) is the one that the title ends with, as "(1995)", or that the `release_date` ends with,
    and "unknown" without; a table's own column `year` is left as it is, and there is none if no item has one.
    To do it twice is to do it once.
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
