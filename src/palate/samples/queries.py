"""Queries: pairs of a history and an item, as two columns of row numbers.

A sample is the query of its own position and its own item. A ranking has queries of one anchor with many items. Every
predictor scores queries.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from palate.samples import Samples, lines

RowNumbers = NDArray[np.int64]
Labels = NDArray[np.bool_]
"""Whether the user liked the query's item, (n,)."""
Scores = NDArray[np.float64]
"""P(like) of each query, (n,)."""


@dataclass(frozen=True)
class Queries:
    """n queries: would the user with this history like this item?

    `anchor` (n,) int64 is a row of `samples.timeline`. The history is that user's rows before the anchor, of which a
    prompt shows the last `history_len`. Predictors read only the user and the time of the anchor row itself. `item`
    (n,) int64 is a row of `samples.items`.
    """

    anchor: RowNumbers
    item: RowNumbers

    def __post_init__(self) -> None:
        if self.anchor.shape != self.item.shape or self.anchor.ndim != 1:
            raise ValueError(f"anchors {self.anchor.shape} and items {self.item.shape}, expected (n,) of each")

    def __len__(self) -> int:
        return len(self.anchor)

    @classmethod
    def of_samples(cls, samples: Samples, split: str) -> Self:
        """The queries of a split's samples, in the order of `samples.of(split)`."""
        anchor = samples.position[samples.of(split)]
        return cls(anchor, item_rows(samples, anchor))

    def take(self, rows: RowNumbers | slice) -> Self:
        """Some of the queries."""
        return type(self)(self.anchor[rows], self.item[rows])


def item_rows(samples: Samples, rows: RowNumbers | None = None) -> RowNumbers:
    """The rows in `samples.items` of the items of some timeline rows (None: all), int64 of their shape.

    Raises `InputError` for an item that the item table lacks.
    """
    rated = samples.timeline["item_id"]
    found = lines.item_rows(rated if rows is None else rated.gather(rows), samples.items["item_id"])
    return found.to_numpy().astype(np.int64)
