"""People who ask: users of the log, with newer ratings if any, and strangers with a history.

A question needs one person's rows of the timeline, not the whole log. What it needs of the log (statistics, texts of
items) is computed once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from palate.samples.context import Context
from palate.samples.lines import Renderer

Longs = NDArray[np.int64]


class NewRating(NamedTuple):
    """A rating that the log lacks."""

    item: int
    """Row of the item table."""
    rating: float
    time: int | None = None
    """Seconds since 1970; None: after all ratings of the log."""


@dataclass(frozen=True)
class Person:
    """The ratings of one person, oldest first: rows of the log's timeline, and those that the log lacks among them."""

    name: str
    rows: Longs = field(default_factory=lambda: np.empty(0, np.int64))
    """(r,), of one user, ascending."""
    newer: tuple[NewRating, ...] = ()
    before: Longs | None = None
    """(newer,), ascending: the number of `rows` before each newer rating; None: all of them are."""

    @property
    def places(self) -> Longs:
        """(len,): the row of each rating, oldest first; of newer rating n it is -1 - n."""
        before = self.rows.size if self.before is None else self.before
        return np.insert(self.rows, before, -1 - np.arange(len(self.newer)))

    def __len__(self) -> int:
        """Number of ratings."""
        return self.rows.size + len(self.newer)

    @property
    def ratings(self) -> int:
        """Number of ratings."""
        return len(self)

    def without(self, at: int) -> "Person":
        """The person without one of the ratings."""
        place, before = int(self.places[at]), self.before
        if place >= 0:
            n = int(np.searchsorted(self.rows, place))
            return replace(self, rows=np.delete(self.rows, n), before=None if before is None else before - (before > n))
        n = -1 - place
        newer = self.newer[:n] + self.newer[n + 1 :]
        return replace(self, newer=newer, before=None if before is None else np.delete(before, n))


def written_for(render: Renderer, target: Longs, person: Person, item: Longs) -> tuple[Renderer, Longs, Longs, int]:
    """The renderer of one person's prompts, and the arguments of `Renderer.questions`: position, target and items.

    `render` is that of the questions about every item (`asked_now` without a guest), whose rows are `target` (items,).
    Raises `KeyError` with a rating that the scale of `render` lacks.
    """
    samples = render.samples
    shown = min(samples.history_len, len(person))
    rated = person.places[len(person) - shown :]
    new = rated < 0
    newer = [person.newer[-1 - place] for place in rated[new].tolist()]
    ratings = np.array([each.rating for each in newer], np.float64)
    known = render.scale.to_numpy()
    unknown = ratings[~np.isin(ratings, known)]
    if unknown.size:
        raise KeyError(float(unknown[0]))
    rated[new] = target[[each.item for each in newer]]
    rows = np.concatenate([rated, target[item]])
    timeline = samples.timeline[rows]
    if newer:
        rating = timeline["rating"].to_numpy().copy()
        rating[:shown][new] = ratings
        timeline = timeline.with_columns(rating=rating)
    context = samples.context and Context(samples.context.code[rows], samples.context.values)
    samples = replace(samples, timeline=timeline, context=context, signals=None)
    own = replace(render, samples=samples, item=render.item.gather(rows))
    own.__dict__["_columns"] = render._columns  # the texts of items and ratings are the same
    return own, np.full(item.size, shown), shown + np.arange(item.size), shown


def scale_with(render: Renderer, ratings: Sequence[float]) -> list[float]:
    """The distinct ratings of a renderer's scale and some more, ascending."""
    return sorted({*render.scale.to_list(), *map(float, ratings)})
