"""User examples: how the model orders the rated test items of a few users."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate.samples import Samples
from palate.samples.queries import Scores, candidate_rows

USERS = 3
CANDIDATES = 3
"""Number of candidates at the top, and of those at the bottom."""
LIKED = 3
"""Number of earlier liked items."""


@dataclass(frozen=True)
class Candidate:
    """An item that the model scored, and the user's rating of it."""

    title: str
    p: float
    rating: float
    liked: bool


@dataclass(frozen=True)
class UserExample:
    """A user: the last liked items before the test rows, and the candidates of highest and lowest P(like)."""

    user: str
    scored: int
    liked_before: list[str]
    top: list[Candidate]
    bottom: list[Candidate]


def user_examples(samples: Samples, split: str, rows: NDArray[np.int64], p: Scores) -> list[UserExample]:
    """The users with the most scored rows, those with rows of both classes first; none have fewer than two rows.

    `rows` (n,) are indices within the split, `p` (n,) their P(like).
    """
    own = samples.of(split)[rows]
    position = samples.position[own]
    liked = samples.label[own]
    columns = {"user": samples.user[position], "item": candidate_rows(samples, own), "p": p, "liked": liked}
    rating = samples.timeline["rating"].to_numpy()[position] if samples.negative is None else liked.astype(np.float64)
    frame = pl.DataFrame({"position": position, "rating": rating, **columns})
    users = (
        frame.group_by("user", maintain_order=True)
        .agg(n=pl.len(), both=pl.col("liked").any() & ~pl.col("liked").all())
        .filter(pl.col("n") > 1)
        .sort("both", "n", descending=True, maintain_order=True)
    )
    chosen = users["user"].head(USERS)
    return [_example(samples, frame.filter(pl.col("user") == user)) for user in chosen]


def _example(samples: Samples, own: pl.DataFrame) -> UserExample:
    ordered = own.sort("p", descending=True, maintain_order=True)
    titles = samples.items["title"].gather(ordered["item"])
    candidates = [Candidate(*row) for row in zip(titles, *ordered.select("p", "rating", "liked"), strict=True)]
    begin = int(own["position"].to_numpy().min())
    earlier = np.arange(samples.first[begin], begin)
    shown = min(CANDIDATES, len(candidates) // 2)
    return UserExample(
        user=str(samples.timeline["user_id"][begin]),
        scored=len(candidates),
        liked_before=_titles(samples, earlier[samples.liked[earlier]][-LIKED:]),
        top=candidates[:shown],
        bottom=candidates[-shown:],
    )


def _titles(samples: Samples, position: NDArray[np.int64]) -> list[str]:
    wanted = samples.timeline.select("item_id")[position]
    return wanted.join(samples.items, on="item_id", how="left", maintain_order="left")["title"].to_list()
