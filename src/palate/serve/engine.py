"""`Engine`: answers of a run's models about any person, whether a user of the log or a stranger with a history."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

Longs = NDArray[np.int64]
Floats = NDArray[np.float64]

Kind = Literal["baseline", "language model", "sum"]
Retrieving = Literal["item-knn", "popularity", "all"]


class UnknownUserError(Exception):
    """Neither the log nor the store has a rating of this user."""


class NewRating(NamedTuple):
    """A rating that the log lacks: a row of the item table, the rating, and its time in seconds since 1970."""

    item: int
    rating: float
    time: int


@dataclass(frozen=True)
class Person:
    """Ratings of one person: rows `begin` to `end` of the log, then newer ones; both may be empty."""

    name: str
    begin: int = 0
    end: int = 0
    newer: tuple[NewRating, ...] = ()

    @property
    def ratings(self) -> int:
        """Number of ratings."""
        return self.end - self.begin + len(self.newer)


class Part(NamedTuple):
    """Answers to some of the candidates: their positions (m,) in the request, and (m,) float64 each."""

    position: Longs
    p: Floats
    logit: Floats
    mass: Floats | None


@dataclass(frozen=True)
class Model:
    """A model that can be asked."""

    key: str
    label: str
    kind: Kind
    calibrated: bool
    auc: float | None


@dataclass(frozen=True)
class Effect:
    """What a rating of the history does to a score; see `schemas.Effect`."""

    item: int
    rating: float
    effect: float
    p_without: float


class TokenOf(NamedTuple):
    """A token of a prompt; see `schemas.Token`."""

    id: int
    text: str
    part: Literal["template", "text", "answer"]


class Engine:
    """Answers questions about persons and items; all methods may be called from several threads at once."""

    items: pl.DataFrame
    """`item_id`, `title`, and the item table's other columns."""
    models: Mapping[str, Model]
    default: str
    about: Mapping[str, Any]
    """The fields of `schemas.ModelAnswer`."""
    scale: tuple[float, float]

    def person(
        self, user_id: int | str | None, history: Sequence[NewRating] | None, newer: Sequence[NewRating] = ()
    ) -> Person:
        """Who asks: `history` if there is one, else the user's ratings in the log, then the `newer` ones of the store.

        Raises `UnknownUserError` for a user without any.
        """
        raise NotImplementedError

    def past(self, person: Person) -> pl.DataFrame:
        """The person's ratings, oldest first: `item` (rows of the item table), `rating`, `timestamp`, `stored`."""
        raise NotImplementedError

    def candidates(
        self, person: Person, among: Longs | None, retriever: Retrieving, number: int, *, include_seen: bool
    ) -> tuple[Longs, int]:
        """Rows of the item table to score, and the number of rated items that were left out.

        `among` (rows) restricts them, as filters and lists of a request do; None: all items.
        """
        raise NotImplementedError

    def score(
        self, model: str, person: Person, item: Longs, cancelled: Callable[[], bool] = lambda: False
    ) -> Iterator[Part]:
        """Score candidates (rows); parts come as they are ready, each candidate in one of them.

        Ends early once `cancelled` returns True.
        """
        raise NotImplementedError

    def explain(self, model: str, person: Person, item: int) -> tuple[Part, list[Effect]]:
        """The score of one candidate, and the effect of each of the last ratings, by leaving each out."""
        raise NotImplementedError

    def prompt(self, person: Person, item: int) -> tuple[list[TokenOf], str, str]:
        """What the language model reads, and its two answers; raises `LookupError` without a language model."""
        raise NotImplementedError

    def close(self) -> None:
        """End the worker; requests in flight are answered first."""
        raise NotImplementedError
