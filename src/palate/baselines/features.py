"""Features of queries (user, candidate, time), as the columns of a matrix.

Groups of features, by the data that they use:

    prompt      the data that a prompt shows: the last ratings, genres and year of the candidate, and the user's ratings
                of items with similar genres or years among the last ones
    past        the user's whole past: count, mean, share of likes, standard deviation
    item        the candidate's training ratings: mean, share of likes, count; and the mean residual (rating less item
                mean) of the user's last ratings
    past-item   the mean residual of the user's whole past, over all items and over those of the candidate's genres
    then        item and past-item from ratings before the query's time only; residuals of the past use the item means
                at their own time
    near, far   item-kNN: the user's ratings of similar items, among the last ones and in the whole past
    moment, alike, spread, alike-then, spread-then
                see `palate.baselines.strongest`
    text        vectors of the items' text, see `palate.baselines.text`; no column without vectors

`palate.baselines.statistics` explains which ratings item statistics use, and why they exclude the query's user.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from palate.baselines import strongest
from palate.baselines.statistics import BaselineData, Floats
from palate.baselines.text import text_features
from palate.samples.queries import Queries

Columns = dict[str, Floats]
Residual = Literal["residual", "residual_then"]
"""Ratings less their items' means: means out of folds, or as of the rating's own time."""

CHUNK = 100_000
"""Queries per chunk of features, about 150 MB; affects memory, not results."""
FLAGS = 20
"""Number of the most frequent genres, each with an indicator column."""
YEARS = 5.0
"""Difference of two items' years at which the weight of one for the other falls to 1/e."""


def features_of(data: BaselineData, queries: Queries, groups: Sequence[str]) -> tuple[list[str], NDArray[np.float32]]:
    """The names of the features (c,) and their values, float32 (n, c); NaN for an undefined value.

    `groups` are keys of `GROUPS`, in the order of the columns. Raises `KeyError` for an unknown group.
    """
    names: list[str] = []
    matrix = np.empty((0, 0), np.float32)
    for begin in range(0, max(len(queries), 1), CHUNK):
        window = slice(begin, begin + CHUNK)
        columns: Columns = {}
        for group in groups:
            found = GROUPS[group](data, queries.take(window))
            if twice := columns.keys() & found.keys():
                raise ValueError(f"group {group} has the columns {sorted(twice)}, which another group has, too")
            columns |= found
        if not names:
            names = list(columns)
            matrix = np.empty((len(queries), len(names)), np.float32)
        for c, column in enumerate(columns.values()):
            matrix[window, c] = column
    return names, matrix


def last_rows(data: BaselineData, queries: Queries) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The timeline rows in each prompt, the latest first, (n, history_len); and a mask of those that exist."""
    rows = queries.anchor[:, None] - np.arange(1, data.samples.history_len + 1)
    exists = rows >= data.first[queries.anchor][:, None]
    return np.where(exists, rows, 0), exists


def recent_residual(data: BaselineData, queries: Queries, of: Residual = "residual") -> Floats:
    """The mean residual of the ratings in the prompt; 0 without a history."""
    rows, exists = last_rows(data, queries)
    mean: Floats = (getattr(data, of)[rows] * exists).sum(axis=1) / np.maximum(exists.sum(axis=1), 1)
    return mean


def past_residual(data: BaselineData, queries: Queries, of: Residual = "residual") -> Floats:
    """The mean residual of the whole past, shrunk to 0 by two pseudo-ratings."""
    return data.before(of)[queries.anchor] / (queries.anchor - data.first[queries.anchor] + 2)


def item_mean(data: BaselineData, queries: Queries) -> Floats:
    """The mean rating of the candidates, shrunk, out of folds."""
    return data.items.mean[data.fold[queries.anchor], queries.item]


def neighbour_score(data: BaselineData, queries: Queries, *, near: bool) -> tuple[Floats, Floats]:
    """Item-kNN: the weighted mean residual of the user's ratings of similar items, and the sum of the weights.

    With s the similarities of the rated items, r their residuals and ū the user's mean residual:
    Σ s (r − ū) / (Σ |s| + λ), and Σ |s|. `near` uses the last `history_len` ratings and λ = ½; else all past ratings
    and λ = 1.
    """
    from palate.baselines.scans import neighbour_sums

    like, fold = data.neighbours, data.fold[queries.anchor]
    window = data.samples.history_len if near else len(data.rating)
    order = np.argsort(queries.anchor, kind="stable")
    rated, of_all, weight = neighbour_sums(
        queries.anchor, queries.item, order, fold, data.first, data.item, data.residual, *like, window
    ).T
    mean = recent_residual(data, queries) if near else past_residual(data, queries)
    return (rated - mean * of_all) / (weight + (0.5 if near else 1.0)), weight


def _prompt(data: BaselineData, queries: Queries) -> Columns:
    rows, exists = last_rows(data, queries)
    count = exists.sum(axis=1)
    rating = np.where(exists, data.rating[rows], np.nan)
    columns = {f"rating −{back + 1}": rating[:, back] for back in range(rating.shape[1])}
    mean = _mean(rating, exists)
    columns |= {
        "last mean": mean,
        "last five": _mean(rating[:, :5], exists[:, :5]),
        "last liked": _mean(data.liked[rows].astype(np.float64), exists),
        "last std": np.sqrt(_mean((rating - mean[:, None]) ** 2, exists)),
        "last least": np.where(exists, rating, np.inf).min(axis=1, initial=np.inf),
        "last most": np.where(exists, rating, -np.inf).max(axis=1, initial=-np.inf),
    }
    for name in ("last least", "last most"):
        columns[name][count == 0] = np.nan
    above = np.where(exists, rating - mean[:, None], 0)
    content = data.content
    if content.names:
        genres, rated_genres = content.genres[queries.item][:, None], content.genres[data.item[rows]]
        jaccard = (
            np.bitwise_count(genres & rated_genres) / np.maximum(np.bitwise_count(genres | rated_genres), 1) * exists
        )
        columns |= {"genres": np.bitwise_count(genres[:, 0]).astype(np.float64), "alike in genre": jaccard.sum(axis=1)}
        columns["rated alike in genre"] = _shrunk_mean(jaccard, above)
        columns["rated very alike in genre"] = _shrunk_mean(4 * jaccard**2, above)
        for bit, name in enumerate(content.names[:FLAGS]):
            columns[name] = (genres[:, 0] >> np.uint64(bit) & np.uint64(1)).astype(np.float64)
    if content.year is not None:
        year, years = content.year[queries.item], content.year[data.item[rows]]
        dated = exists & ~np.isnan(years)
        usual = _mean(np.where(dated, years, 0.0), dated)
        near = np.exp(-np.abs(years - year[:, None]) / YEARS)
        columns |= {"year": year, "last years": usual, "years later": year - usual}
        columns["rated about that year"] = _shrunk_mean(np.where(dated, np.nan_to_num(near), 0.0), above)
    return columns


def _past(data: BaselineData, queries: Queries) -> Columns:
    count = (queries.anchor - data.first[queries.anchor]).astype(np.float64)
    some = np.where(count > 0, count, np.nan)
    mean = data.before("rating")[queries.anchor] / some
    square = data.before("square")[queries.anchor] / some
    return {
        "past count": np.log1p(count),
        "past mean": mean,
        "past liked": data.before("liked")[queries.anchor] / some,
        "past std": np.sqrt(np.maximum(square - mean**2, 0)),
    }


def _item(data: BaselineData, queries: Queries) -> Columns:
    fold, mean, recent = data.fold[queries.anchor], item_mean(data, queries), recent_residual(data, queries)
    return {
        "item mean": mean,
        "item liked": data.items.liked[fold, queries.item],
        "item count": np.log1p(data.items.ratings[fold, queries.item]),
        "last residual": recent,
        "item mean + last residual": mean + recent,
    }


def _past_item(data: BaselineData, queries: Queries) -> Columns:
    past = past_residual(data, queries)
    columns = {"past residual": past, "item mean + past residual": item_mean(data, queries) + past}
    return columns | _genres(data, queries, data.residual)


def _then(data: BaselineData, queries: Queries) -> Columns:
    then = data.earlier(queries.anchor, queries.item)
    recent, past = (mean(data, queries, "residual_then") for mean in (recent_residual, past_residual))
    columns = {
        "item mean then": then.mean,
        "item liked then": then.liked,
        "item count then": np.log1p(then.ratings),
        "last residual then": recent,
        "item mean + last residual then": then.mean + recent,
        "past residual then": past,
        "item mean + past residual then": then.mean + past,
    }
    liking = _genres(data, queries, data.residual_then)
    return columns | {f"{name} then": values for name, values in liking.items()}


def _genres(data: BaselineData, queries: Queries, residual: Floats) -> Columns:
    """Residuals of the past by the candidate's genres; no columns if no item has a genre."""
    from palate.baselines.scans import genre_sums

    content = data.content
    if not content.names:
        return {}
    order = np.argsort(queries.anchor, kind="stable")
    liking = genre_sums(
        queries.anchor, queries.item, order, data.first, data.item, residual, content.genres, len(content.names)
    )
    names = ("genres' residual", "least genre's residual", "greatest genre's residual", "genres' share")
    return dict(zip(names, liking.T, strict=True))


def _near(data: BaselineData, queries: Queries) -> Columns:
    score, weight = neighbour_score(data, queries, near=True)
    return {"neighbours among the last": score, "similarity of the last": weight}


def _far(data: BaselineData, queries: Queries) -> Columns:
    score, weight = neighbour_score(data, queries, near=False)
    expected = item_mean(data, queries) + past_residual(data, queries)
    return {"neighbours": score, "similarity": weight, "expected + neighbours": expected + score}


GROUPS: dict[str, Callable[[BaselineData, Queries], Columns]] = {
    "prompt": _prompt,
    "past": _past,
    "item": _item,
    "past-item": _past_item,
    "then": _then,
    "near": _near,
    "far": _far,
    "moment": strongest.moment,
    "alike": strongest.alike,
    "spread": strongest.spread,
    "alike-then": partial(strongest.alike, then=True),
    "spread-then": partial(strongest.spread, then=True),
    "text": text_features,
}


def _mean(values: Floats, exists: NDArray[np.bool_]) -> Floats:
    """The mean of each row's existing values; NaN for a row without any."""
    count = exists.sum(axis=1)
    mean: Floats = np.where(exists, values, 0).sum(axis=1) / np.where(count > 0, count, np.nan)
    return mean


def _shrunk_mean(weight: Floats, values: Floats) -> Floats:
    """The weighted mean of each row's values, shrunk to 0 by a weight of 1."""
    mean: Floats = (weight * values).sum(axis=1) / (weight.sum(axis=1) + 1)
    return mean
