"""Questions: items that are asked about, as rows of a timeline that nothing is learned from.

A prompt shows the rows before one row of the timeline and asks of the item of another. Whatever is asked, of whomever
and at whatever time, becomes such a row; what renders and tokenizes samples then serves recommendations too, and says
what it says of a sample with the same history and the same item.
"""

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate.samples.build import ROLES, Samples

Longs = NDArray[np.int64]


@dataclass(frozen=True)
class Questions:
    """Samples whose timeline has further rows, and which of its rows asks each question.

    `target` (n,) int64. The further rows have the role `unused`, no user, and a rating that means nothing.
    """

    samples: Samples
    target: Longs


def asked_then(samples: Samples, anchor: Longs, item: Longs) -> Questions:
    """Ask about items (n,), rows of the item table, at the times of the timeline rows `anchor` (n,).

    A prompt that says how an item was rated before says what was known at that time.
    """
    time = samples.timeline["timestamp"].to_numpy()[anchor]
    asked, target = np.unique(np.column_stack([time, item]), axis=0, return_inverse=True)
    extended = _extended(samples, asked[:, 1], asked[:, 0])
    return Questions(extended, samples.timeline.height + target.reshape(-1))


def asked_now(samples: Samples, guest: pl.DataFrame | None = None) -> Questions:
    """Ask about every item, in the order of the item table, after all ratings.

    `guest` is the history of someone who is not in the timeline, oldest first: `item` (Int64, rows of the item table)
    and `rating` (Float64). Its rows are those after the last of `samples`, and the questions follow.
    """
    now = int(samples.timeline["timestamp"].to_numpy().max(initial=0)) + 1
    every = np.arange(samples.items.height)
    item, rating = every, None
    if guest is not None:
        item = np.concatenate([guest["item"].to_numpy(), every])
        rating = guest["rating"].to_numpy()
    extended = _extended(samples, item, np.full(item.size, now), rating)
    return Questions(extended, samples.timeline.height + item.size - every.size + every)


def _extended(samples: Samples, item: Longs, time: Longs, rating: NDArray[np.float64] | None = None) -> Samples:
    """Append rows; `rating` is that of the first of them, the others have one that occurs already."""
    timeline = samples.timeline
    ratings = np.full(item.size, timeline["rating"][0] if timeline.height else 0.0, np.float64)
    if rating is not None:
        ratings[: rating.size] = rating
    rows = pl.DataFrame(
        {
            "item_id": samples.items["item_id"].gather(item),
            "rating": ratings,
            "timestamp": time,
            "split": pl.Series(["unused"], dtype=ROLES).new_from_index(0, item.size),
        }
    ).cast({name: timeline.schema[name] for name in ("item_id", "rating", "timestamp")})
    return replace(samples, timeline=pl.concat([timeline, rows], how="diagonal"), context=None)
