"""Read a table of users: one row for each user, whose other columns are fields of the prompt, as text."""

from collections.abc import Mapping, Sequence

import polars as pl

from palate.errors import InputError
from palate.ratings.item_table import columns_in, flat, ids_in, joined
from palate.ratings.layout import column_of
from palate.ratings.rating_table import RatingTable
from palate.ratings.source import SourceFile
from palate.ratings.text import is_shown

UNKNOWN = "unknown"
"""The text of an empty value, and of a user whom the table lacks."""


def read_users(files: Sequence[SourceFile], columns: Mapping[str, str]) -> pl.DataFrame:
    """Read the table of users that some files are.

    The table has `user_id` (Int64 or String, see `as_ids`), then the other columns as String, with `UNKNOWN` for empty
    values; names and nested values are as `read_items` has them. `columns` may name the column of ids as `user`. Raises
    `InputError` with the line, also for the second row of a user.
    """
    parts = []
    for file in files:
        table, layout = columns_in(file)
        mapped = {role: name for role, name in columns.items() if name in table.columns}
        user = column_of("user", table.columns, mapped, file.place, needed=False)
        user = user or next((name for name in table.columns if name.lower() == "id"), None)
        if user is None:
            found = ", ".join(table.columns)
            raise InputError(f"has no user column, expected one such as userId; found {found}", file.place, 1)
        ids = ids_in(table, layout, "user", user, file.place)
        fields = table.drop(user, *({"user_id"} & {*table.columns} - {user}))
        fields = flat(fields) if layout is None else fields
        parts.append(RatingTable(fields.select(ids.alias("user_id"), pl.all().cast(pl.String)), file, layout))
    table = joined(parts, "user")
    shown = pl.exclude("user_id")
    return table.with_columns(pl.when(is_shown(shown)).then(shown).otherwise(pl.lit(UNKNOWN)).name.keep())
