"""Queries: pairs of a history and an item, as two columns of row numbers.

A sample is the query of its position and its candidate. A ranking has queries of one anchor with many items. Every
predictor scores queries.
"""

import hashlib
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from palate.samples import Samples, items

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
        index = samples.of(split)
        return cls(samples.position[index], candidate_rows(samples, index))

    @property
    def identity(self) -> str:
        """A hash of the queries' rows."""
        return hashlib.sha256(np.column_stack([self.anchor, self.item]).astype("<i8").tobytes()).hexdigest()

    def take(self, rows: RowNumbers | slice) -> Self:
        """Some of the queries."""
        return type(self)(self.anchor[rows], self.item[rows])


def item_rows(samples: Samples, rows: RowNumbers | None = None) -> RowNumbers:
    """The rows in `samples.items` of the items of some timeline rows (None: all), int64 of their shape.

    Raises `InputError` for an item that the item table lacks.
    """
    rated = samples.timeline["item_id"]
    found = items.item_rows(rated if rows is None else rated.gather(rows), samples.items["item_id"])
    return found.to_numpy().astype(np.int64)


def candidate_rows(samples: Samples, index: RowNumbers | slice = slice(None)) -> RowNumbers:
    """The rows in `samples.items` of the candidates of samples `index`, int64 of its shape."""
    found = item_rows(samples, samples.position[index])
    if samples.negative is None:
        return found
    negative = samples.negative[index]
    return np.where(negative < 0, found, negative)
