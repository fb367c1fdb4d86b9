"""What a first stage may know: ratings that are trained on, and of the one who asks their own past."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from palate.samples.build import Samples
from palate.samples.lines import item_rows

Longs = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RetrieverData:
    """The ratings with the role `warmup` or `train`: no validation or test label, and none that is later than a cutoff.

    `user` (n,) int64 counts the users from 0, `item` (n,) int64 are rows of the item table, `rating` (n,) float64.
    `users` and `items` say how many there are; `threshold` is the rating from which on an item is liked.
    """

    user: Longs
    item: Longs
    rating: Floats
    users: int
    items: int
    threshold: float

    @property
    def liked(self) -> NDArray[np.bool_]:
        """Which ratings are a Yes, (n,) bool."""
        return self.rating >= self.threshold

    @classmethod
    def of(cls, samples: Samples, threshold: float) -> "RetrieverData":
        """What may be known of some samples."""
        rows = samples.timeline["split"].is_in(["warmup", "train"]).arg_true().to_numpy()
        known = samples.timeline[rows]
        lengths = known["user_id"].rle().struct.field("len").to_numpy()
        item = item_rows(known["item_id"], samples.items["item_id"]).to_numpy().astype(np.int64)
        rating = known["rating"].to_numpy().astype(np.float64)
        user = np.repeat(np.arange(lengths.size), lengths)
        return cls(user, item, rating, lengths.size, samples.items.height, threshold)


@dataclass(frozen=True)
class Past:
    """What one user rated, oldest first: `item` (r,) int64 rows of the item table, `rating` (r,) float64."""

    item: Longs
    rating: Floats


class Retriever(Protocol):
    """Finds candidates for a user; the same past gives the same candidates in the same order."""

    def top(self, past: Past, n: int, barred: Longs) -> Longs:
        """The `n` best items (rows of the item table) that are not `barred`, best first; fewer if there are no more."""
