"""Signals: what the ratings say of a user and a candidate, as fields of the candidate's line.

    estimate        P(like) by a baseline, in hundredths
    neighbour       the title of the item most similar to the candidate among those that the user liked before
    neighbour_mean  the mean rating of the candidate by users who liked that item, in tenths
    user_deviation  the mean residual of the user's earlier ratings: rating less the item's mean, in tenths
    item_deviation  the item's mean rating less the mean of all, in tenths

`palate.baselines.signals` computes them and says which ratings each may use. Prepared data have those of every sample
in `FILE`, so that every later command reads the same values. Those of a question about another candidate are computed
when it is asked (`Asked`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

if TYPE_CHECKING:
    from palate.samples.build import Samples

FILE = "signals.parquet"
"""A column for each field that the prompt names, a row for each sample in the order of the timeline: `neighbour` Int64,
a row of the item table or `NONE`; the others Float64."""
NONE = -1
NO_NEIGHBOUR = "other items"
"""The text of `neighbour` if the user liked no similar item: "people who liked other items gave it 3.4"."""

Longs = NDArray[np.int64]


@dataclass(frozen=True)
class Signals:
    """How `palate prepare` gets the signals: `of` computes those of samples, in the format of `FILE`."""

    of: Callable[["Samples"], pl.DataFrame]
    made_from: Mapping[str, Any]
    """What they depend on beside the options of prepared data; the manifest has it."""


Asked = Callable[[Longs, Longs], pl.DataFrame]
"""The signals of questions, by the row before which the history ends and the candidate's row of the item table, (n,)
each; in the format of `FILE`."""


def coded(values: pl.Series) -> tuple[NDArray[Any], Longs]:
    """The distinct values of a signal, ascending, and the index of each value in them, (n,) int64."""
    distinct, code = np.unique(values.to_numpy(), return_inverse=True)
    return distinct, code.astype(np.int64)


def shown(field: str, distinct: NDArray[Any], titles: pl.Series) -> Sequence[Any]:
    """What the prompt formats for the distinct values of a signal; `titles` are those of the item table."""
    if field != "neighbour":
        return list(distinct.tolist())
    rows = pl.Series(distinct).replace(NONE, None)
    return titles.gather(rows).fill_null(NO_NEIGHBOUR).to_list()
