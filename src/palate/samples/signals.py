"""Signals: what the ratings say of a user and a candidate, as fields of the candidate's line.

    estimate        P(like) by a baseline, in hundredths
    neighbour       the title of the item most similar to the candidate among those that the user liked before
    neighbour_mean  the mean rating of the candidate by users who liked that item, in tenths
    user_deviation  the mean residual of the user's earlier ratings: rating less the item's mean, in tenths
    item_deviation  the item's mean rating less the mean of all, in tenths
    user            the user's row in the table of users, whose columns are the fields `{user.age}` and the like

`palate.baselines.signals` computes them and says which ratings each may use. Prepared data have those of every sample
in `FILE`, so that every later command reads the same values. Those of a question about another candidate are computed
when it is asked (`Asked`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate.prompt.spec import USER
from palate.ratings.user_table import UNKNOWN
from palate.samples.build import Samples

FILE = "signals.parquet"
"""A column for each signal that the prompt names, a row for each sample in the order of the timeline: `neighbour` and
`user` Int64, a row of the item table and of `USERS`, or `NONE`; the others Float64."""
USERS = "users.parquet"
"""The table of users, if the prompt names a field of it."""
NONE = -1
NO_NEIGHBOUR = "other items"
"""The text of `neighbour` if the user liked no similar item: "people who liked other items gave it 3.4"."""

Longs = NDArray[np.int64]


@dataclass(frozen=True)
class Signals:
    """How `palate prepare` gets the signals: `of` computes those of samples, in the format of `FILE`."""

    of: Callable[[Samples], pl.DataFrame]
    made_from: Mapping[str, Any]
    """What they depend on beside the options of prepared data; the manifest has it."""


Asked = Callable[[Longs, Longs], pl.DataFrame]
"""The signals of questions, by the row before which the history ends and the candidate's row of the item table, (n,)
each; in the format of `FILE`."""


def coded(values: pl.Series) -> tuple[NDArray[Any], Longs]:
    """The distinct values of a signal, ascending, and the index of each value in them, (n,) int64."""
    distinct, code = np.unique(values.to_numpy(), return_inverse=True)
    return distinct, code.astype(np.int64)


def shown(signal: str, distinct: NDArray[Any], samples: Samples) -> Sequence[Any]:
    """What the prompt formats for the distinct values of a signal; for `user` a mapping of the fields, (n,) each."""
    if signal not in ("neighbour", "user"):
        return list(distinct.tolist())
    rows = pl.Series(distinct, dtype=pl.Int64).replace(NONE, None)
    if signal == "neighbour":
        return samples.items["title"].gather(rows).fill_null(NO_NEIGHBOUR).to_list()
    assert samples.users is not None
    columns = [column.gather(rows).fill_null(UNKNOWN).alias(f"{USER}{column.name}") for column in samples.users[:, 1:]]
    return pl.DataFrame(columns).to_dicts()


def user_fields(samples: Samples) -> list[str]:
    """The fields of the table of users; none without a table."""
    return [] if samples.users is None else [f"{USER}{name}" for name in samples.users.columns[1:]]


def rows_of_users(samples: Samples) -> Longs:
    """The row of each user in the table of users, in timeline order, then `NONE` for anybody else; (users + 1,) int64.

    A user whom the table lacks has `NONE`.
    """
    ids = samples.timeline["user_id"].rle().struct.field("value").alias("user_id").to_frame()
    if samples.users is None:
        return np.full(ids.height + 1, NONE)
    known = samples.users.select("user_id").with_row_index("row")
    if known.schema["user_id"] != ids.schema["user_id"]:
        ids, known = (frame.with_columns(pl.col("user_id").cast(pl.String)) for frame in (ids, known))
    rows = ids.join(known, on="user_id", how="left", maintain_order="left")["row"].cast(pl.Int64).fill_null(NONE)
    return np.append(rows.to_numpy(), NONE)
