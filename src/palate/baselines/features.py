"""Features: statistics of what is asked, as the columns of a matrix.

Groups of them, by what one must know to work them out:

    prompt      what a prompt shows: the last ratings, genres and year of the candidate, and how items alike in genre
                or of about its year were rated among the last ones
    past        the user's whole past: count, mean, share of likes, standard deviation
    item        the candidate's known ratings: mean, share of likes, count; and how far the user's last ratings lie
                above the means of what they rate
    past-item   how far the ratings of the user's whole past do, all of them and those of the candidate's genres
    then        what item and past-item say, but of ratings before the moment of asking alone, those of the past
                being compared with the means of their own time
    near, far   item-kNN: what the ratings of similar items come to, among the last ones, and in the whole past

What is known of items, and why none of it comes from the user who is asked: `palate.baselines.statistics`.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from palate.baselines.statistics import BaselineData, Floats
from palate.samples.queries import Queries

Columns = dict[str, Floats]
Residual = Literal["residual", "residual_then"]
"""Ratings less their items' means: out of folds, or as of the rating's own time."""

CHUNK = 100_000
"""Questions whose features are made at once, some 150 MB; affects memory, not results."""
FLAGS = 20
"""Genres that have a column of their own."""
YEARS = 5.0
"""Years apart at which one item tells of another by 1/e."""


def features_of(known: BaselineData, asked: Queries, groups: Sequence[str]) -> tuple[list[str], NDArray[np.float32]]:
    """The names of the features (c,) and their values, float32 (n, c); NaN where one is not defined.

    `groups` are among those above, in the order of the columns. `KeyError` for any other.
    """
    names: list[str] = []
    matrix = np.empty((0, 0), np.float32)
    for begin in range(0, max(len(asked), 1), CHUNK):
        window = slice(begin, begin + CHUNK)
        columns: Columns = {}
        for group in groups:
            columns |= GROUPS[group](known, asked.take(window))
        if not names:
            names = list(columns)
            matrix = np.empty((len(asked), len(names)), np.float32)
        for c, column in enumerate(columns.values()):
            matrix[window, c] = column
    return names, matrix


def last_rows(known: BaselineData, asked: Queries) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The rows that the prompts show, the latest first, (n, history_len); and which of them there are."""
    rows = asked.anchor[:, None] - np.arange(1, known.samples.history_len + 1)
    there = rows >= known.first[asked.anchor][:, None]
    return np.where(there, rows, 0), there


def recent_residual(known: BaselineData, asked: Queries, of: Residual = "residual") -> Floats:
    """The mean of what the last ratings are above their items' means; 0 without a history."""
    rows, there = last_rows(known, asked)
    mean: Floats = (getattr(known, of)[rows] * there).sum(axis=1) / np.maximum(there.sum(axis=1), 1)
    return mean


def past_residual(known: BaselineData, asked: Queries, of: Residual = "residual") -> Floats:
    """The same of the whole past, drawn to 0 by two imaginary ratings."""
    return known.before(of)[asked.anchor] / (asked.anchor - known.first[asked.anchor] + 2)


def item_mean(known: BaselineData, asked: Queries) -> Floats:
    """The mean rating of the candidates, shrunk, out of folds."""
    return known.items.mean[known.fold[asked.anchor], asked.item]


def neighbour_score(known: BaselineData, asked: Queries, *, near: bool) -> tuple[Floats, Floats]:
    """How far above what one would expect the user rated similar items, and how much similarity that rests on.

    With s the similarities of the rated items, r their residuals and ū the mean of the user's: Σ s (r − ū) /
    (Σ |s| + λ), and Σ |s|. Of the last `history_len` ratings, λ = ½, where `near`; else of all past ones, λ = 1.
    """
    from palate.baselines.scans import neighbour_sums

    like, fold = known.neighbours, known.fold[asked.anchor]
    window = known.samples.history_len if near else len(known.rating)
    order = np.argsort(asked.anchor, kind="stable")
    rated, of_all, weight = neighbour_sums(
        asked.anchor, asked.item, order, fold, known.first, known.item, known.residual, *like, window
    ).T
    mean = recent_residual(known, asked) if near else past_residual(known, asked)
    return (rated - mean * of_all) / (weight + (0.5 if near else 1.0)), weight


def _prompt(known: BaselineData, asked: Queries) -> Columns:
    rows, there = last_rows(known, asked)
    count = there.sum(axis=1)
    rating = np.where(there, known.rating[rows], np.nan)
    columns = {f"rating −{back + 1}": rating[:, back] for back in range(rating.shape[1])}
    mean = _mean(rating, there)
    columns |= {
        "last mean": mean,
        "last five": _mean(rating[:, :5], there[:, :5]),
        "last liked": _mean(known.liked[rows].astype(np.float64), there),
        "last std": np.sqrt(_mean((rating - mean[:, None]) ** 2, there)),
        "last least": np.where(there, rating, np.inf).min(axis=1, initial=np.inf),
        "last most": np.where(there, rating, -np.inf).max(axis=1, initial=-np.inf),
    }
    for name in ("last least", "last most"):
        columns[name][count == 0] = np.nan
    above = np.where(there, rating - mean[:, None], 0)
    content = known.content
    if content.names:
        own, theirs = content.genres[asked.item][:, None], content.genres[known.item[rows]]
        alike = np.bitwise_count(own & theirs) / np.maximum(np.bitwise_count(own | theirs), 1) * there
        columns |= {"genres": np.bitwise_count(own[:, 0]).astype(np.float64), "alike in genre": alike.sum(axis=1)}
        columns["rated alike in genre"] = _drawn(alike, above)
        columns["rated very alike in genre"] = _drawn(4 * alike**2, above)
        for bit, name in enumerate(content.names[:FLAGS]):
            columns[name] = (own[:, 0] >> np.uint64(bit) & np.uint64(1)).astype(np.float64)
    if content.year is not None:
        year, years = content.year[asked.item], content.year[known.item[rows]]
        dated = there & ~np.isnan(years)
        usual = _mean(np.where(dated, years, 0.0), dated)
        near = np.exp(-np.abs(years - year[:, None]) / YEARS)
        columns |= {"year": year, "last years": usual, "years later": year - usual}
        columns["rated about that year"] = _drawn(np.where(dated, np.nan_to_num(near), 0.0), above)
    return columns


def _past(known: BaselineData, asked: Queries) -> Columns:
    count = (asked.anchor - known.first[asked.anchor]).astype(np.float64)
    some = np.where(count > 0, count, np.nan)
    mean = known.before("rating")[asked.anchor] / some
    square = known.before("square")[asked.anchor] / some
    return {
        "past count": np.log1p(count),
        "past mean": mean,
        "past liked": known.before("liked")[asked.anchor] / some,
        "past std": np.sqrt(np.maximum(square - mean**2, 0)),
    }


def _item(known: BaselineData, asked: Queries) -> Columns:
    fold, mean, recent = known.fold[asked.anchor], item_mean(known, asked), recent_residual(known, asked)
    return {
        "item mean": mean,
        "item liked": known.items.liked[fold, asked.item],
        "item count": np.log1p(known.items.ratings[fold, asked.item]),
        "last residual": recent,
        "item mean + last residual": mean + recent,
    }


def _past_item(known: BaselineData, asked: Queries) -> Columns:
    past = past_residual(known, asked)
    columns = {"past residual": past, "item mean + past residual": item_mean(known, asked) + past}
    return columns | _genres(known, asked, known.residual)


def _then(known: BaselineData, asked: Queries) -> Columns:
    then = known.earlier(asked.anchor, asked.item)
    recent, past = (mean(known, asked, "residual_then") for mean in (recent_residual, past_residual))
    columns = {
        "item mean then": then.mean,
        "item liked then": then.liked,
        "item count then": np.log1p(then.ratings),
        "last residual then": recent,
        "item mean + last residual then": then.mean + recent,
        "past residual then": past,
        "item mean + past residual then": then.mean + past,
    }
    liking = _genres(known, asked, known.residual_then)
    return columns | {f"{name} then": values for name, values in liking.items()}


def _genres(known: BaselineData, asked: Queries, residual: Floats) -> Columns:
    """What the residuals of the past say of the candidate's genres; none where no item has a genre."""
    from palate.baselines.scans import genre_sums

    content = known.content
    if not content.names:
        return {}
    order = np.argsort(asked.anchor, kind="stable")
    liking = genre_sums(
        asked.anchor, asked.item, order, known.first, known.item, residual, content.genres, len(content.names)
    )
    names = ("genres' residual", "least genre's residual", "greatest genre's residual", "genres' share")
    return dict(zip(names, liking.T, strict=True))


def _near(known: BaselineData, asked: Queries) -> Columns:
    score, weight = neighbour_score(known, asked, near=True)
    return {"neighbours among the last": score, "similarity of the last": weight}


def _far(known: BaselineData, asked: Queries) -> Columns:
    score, weight = neighbour_score(known, asked, near=False)
    expected = item_mean(known, asked) + past_residual(known, asked)
    return {"neighbours": score, "similarity": weight, "expected + neighbours": expected + score}


GROUPS = {
    "prompt": _prompt,
    "past": _past,
    "item": _item,
    "past-item": _past_item,
    "then": _then,
    "near": _near,
    "far": _far,
}


def _mean(values: Floats, there: NDArray[np.bool_]) -> Floats:
    """The mean of each row's values that are there, NaN where none is."""
    count = there.sum(axis=1)
    mean: Floats = np.where(there, values, 0).sum(axis=1) / np.where(count > 0, count, np.nan)
    return mean


def _drawn(weight: Floats, values: Floats) -> Floats:
    """The weighted mean of each row's values, drawn to 0 by a weight of 1."""
    mean: Floats = (weight * values).sum(axis=1) / (weight.sum(axis=1) + 1)
    return mean
