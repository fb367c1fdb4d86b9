"""Vectors of items from training ratings, as the field `{item_vector}` shows them to a language model.

A vector has what the strongest baseline knows of an item (`palate.baselines.views`): the shrunk mean rating, the
logarithm of the number of ratings, the spread of the ratings, and an offset and factors by alternating least squares.

The vectors of a training prompt must not contain its answer. An item's mean over five ratings says much of each of
them, and no item has one vector without the ratings of every user. So training shows vectors that were fitted without
the ratings of the user's part. Factors of two fits are equal only up to a rotation. Each fit is therefore rotated onto
that of all users, by the orthogonal matrix R that minimizes Σᵢ nᵢ |qᵢ R − q'ᵢ|² (Schönemann 1966, Procrustes), where
nᵢ is the item's number of ratings.

There is no vector of a user. One that is fitted on the user's training ratings has the prompt's own answer among a few
dozen, is as old as the last fit, and does not exist for an unknown user; a history has vectors for any user, and is as
new as the request.
"""

import numpy as np
from numpy.typing import NDArray

from palate.baselines.statistics import PARTS, BaselineData, Floats
from palate.baselines.views import View, view_of
from palate.models.item_vectors import ItemVectors

LARGEST = 4.0
"""Bound of a standardized number."""


def item_vectors(data: BaselineData) -> ItemVectors:
    """The vectors of all items, of all training ratings and without each part of the users.

    Columns are standardized over the items with training ratings. An item without ratings has the vector of the
    shrunk statistics of none.
    """
    rows = np.flatnonzero(data.allowed)
    part_of_row = data.fold % PARTS
    whole = view_of(data, rows)
    count = np.bincount(data.item[rows], minlength=len(data.samples.items)).astype(np.float64)
    values = _columns(whole)
    rated = values[count > 0]
    mean, deviation = rated.mean(axis=0), rated.std(axis=0)

    def standardized(columns: Floats) -> NDArray[np.float32]:
        scaled = (columns - mean) / np.where(deviation > 0, deviation, 1.0)
        bounded: NDArray[np.float32] = scaled.clip(-LARGEST, LARGEST).astype(np.float32)
        return bounded

    apart = []
    for part in range(PARTS):
        columns = _columns(view_of(data, rows[part_of_row[rows] != part]))
        columns[:, FACTORS] = rotated(columns[:, FACTORS], values[:, FACTORS], count)
        apart.append(standardized(columns))
    queries, _ = data.of_split("train")
    return ItemVectors(standardized(values), np.stack(apart), part_of_row[queries.anchor])


FACTORS = slice(6, None)
"""The columns of the factors, which have no axes of their own."""


def _columns(view: View) -> Floats:
    """The statistics of one view, (items, 6 + factors) float64."""
    offset, factors = view.factors[:, :1], view.factors[:, 1:]
    return np.hstack([view.mean[:, None], view.size[:, None], view.spread, offset, factors]).astype(np.float64)


def rotated(factors: Floats, onto: Floats, weight: Floats) -> Floats:
    """The factors (items, k) after the rotation that brings them next to `onto`; items count by `weight` (items,)."""
    left, _, right = np.linalg.svd((factors * weight[:, None]).T @ onto)
    turned: Floats = factors @ (left @ right)
    return turned
