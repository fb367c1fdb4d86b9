"""Questions: items to predict, as extra timeline rows that no model learns from.

A prompt shows the rows before one timeline row and asks about the item of another. A question about any item at any
time becomes such a row. So the code that renders and tokenizes samples serves recommendations too, and gives the same
prompt as for a sample with the same history and item.
"""

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate.samples.build import ROLES, Samples

Longs = NDArray[np.int64]


@dataclass(frozen=True)
class Questions:
    """Samples whose timeline has extra rows, and the timeline row of each question.

    `target` (n,) int64. The extra rows have the role `unused`, no user, and an arbitrary rating.
    """

    samples: Samples
    target: Longs


def asked_then(samples: Samples, anchor: Longs, item: Longs) -> Questions:
    """Ask about items (n,), rows of the item table, at the times of the timeline rows `anchor` (n,).

    The prompt's statistics of earlier ratings are those of that time.
    """
    time = samples.timeline["timestamp"].to_numpy()[anchor]
    distinct, target = np.unique(np.column_stack([time, item]), axis=0, return_inverse=True)
    extended = _extended(_unlabelled(samples), distinct[:, 1], distinct[:, 0])
    return Questions(extended, samples.timeline.height + target.reshape(-1))


def asked_now(samples: Samples, guest: pl.DataFrame | None = None) -> Questions:
    """Ask about every item, in the order of the item table, after all ratings.

    `guest` is the history of a user who is not in the timeline, oldest first: `item` (Int64, rows of the item table)
    and `rating` (Float64). The guest's rows follow the last row of `samples`, then come the questions.
    """
    now = int(samples.timeline["timestamp"].to_numpy().max(initial=0)) + 1
    every = np.arange(samples.items.height)
    item, rating = every, None
    if guest is not None:
        item = np.concatenate([guest["item"].to_numpy(), every])
        rating = guest["rating"].to_numpy()
    extended = _extended(_unlabelled(samples), item, np.full(item.size, now), rating)
    return Questions(extended, samples.timeline.height + item.size - every.size + every)


def with_targets(samples: Samples) -> tuple[Samples, Longs]:
    """The samples with a timeline row for each sampled negative, and the row of each sample's candidate, (n,) int64.

    Samples without negatives stay as they are. The rows have the time of the sample and a rating of 0.
    """
    if samples.negative is None:
        return samples, samples.position
    sampled = np.flatnonzero(samples.negative >= 0)
    target = samples.position.copy()
    target[sampled] = samples.timeline.height + np.arange(sampled.size)
    time = samples.timeline["timestamp"].to_numpy()[samples.position[sampled]]
    return _extended(samples, samples.negative[sampled], time, np.zeros(sampled.size)), target


def _unlabelled(samples: Samples) -> Samples:
    """The samples of a log, without what only their own prompts need."""
    return replace(samples, negative=None, signals=None)


def _extended(samples: Samples, item: Longs, time: Longs, rating: NDArray[np.float64] | None = None) -> Samples:
    """Append rows; `rating` is for the first of them, the others get a rating that the timeline already has."""
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
