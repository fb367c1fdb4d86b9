"""Views: the training ratings that the statistics of a query may use, as one of a few subsets.

    of folds       view v has the ratings of the users outside fold v; a query takes the view of its user's fold
    of snapshots   view v has the ratings strictly before moment v; a query takes the last view whose moment is not
                   after its own time. The first view is empty; the others begin at `SNAPSHOTS` quantiles of the
                   times of training ratings, and one after all of them

So a row never contributes to its own features: its user is outside the view, or its time is after it. A model of each
query's own moment would be exact, and need thousands of fits.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from palate.baselines.statistics import FOLDS, BaselineData, Floats
from palate.samples.context import WEIGHT, shrunk
from palate.samples.queries import RowNumbers
from palate.store.recent import Recent

Singles = NDArray[np.float32]

SNAPSHOTS = 20
"""More are nearer to the query's time, and take longer."""
FACTORS = 16
ITERATIONS = 6
PENALTY = (3.0, 10.0)
"""L2 penalties of an offset and of a factor in alternating least squares."""
NORM = 10.0
"""Added to the sum of squares of an item's values: the shrinkage of covariances of items with few ratings."""
RATERS = 200
"""Maximum number of ratings of an item in `Catalogue.value`, which bounds the time of comparing items."""
PASTS = 1 << 26
"""Bytes of `Views.pasts`: a past of 60 ratings takes 15 KB, the longest one 260 KB."""
EXTREME = 0.15
"""Share of all ratings that count as lowest, and as highest."""


class Catalogue(NamedTuple):
    """What the views know of the items. Residuals and means are in units of `scale`."""

    overall: Floats
    """(views,): the mean rating, or the threshold without a rating."""
    scale: Floats
    """(views,): the standard deviation of the ratings from their items' means, or 1."""
    mean: Floats
    """(views, items): the shrunk mean rating, less `overall`."""
    size: Floats
    """(views, items): log(1 + number of ratings)."""
    year: Floats
    """(items,), NaN where unknown."""
    genres: NDArray[np.uint64]
    """(items,), one bit per genre."""
    start: RowNumbers
    """(views, items + 1): the first index of an item's ratings in `rater` and `value`."""
    rater: NDArray[np.int32]
    """Users, by view and item."""
    value: Singles
    """Their residuals: rating less the item's mean, less the user's shrunk mean residual; at most `RATERS` an item."""
    norm: Singles
    """(views, items): √(Σ value² + `NORM`)."""
    factors: Singles
    """(views, items, 1 + `FACTORS`): an offset and factors, by alternating least squares."""


class Views(NamedTuple):
    """Statistics of items by view."""

    of_row: RowNumbers
    """(rows,): the view of a query whose anchor is this row of the timeline."""
    catalogue: Catalogue
    spread: Floats
    """(views, items, 3): the shrunk standard deviation of an item's ratings, in units of `scale`, and the shrunk shares
    of lowest and highest ones."""
    users: int
    """One more than the largest of `Catalogue.rater`."""
    pasts: Recent[tuple[Singles, Singles]]
    """The factors of the last pasts that people asked about, see `palate.baselines.strongest.alike`."""
    begins: RowNumbers | None = None
    """(views − 1,): the moments of snapshots after the first, ascending; None for folds."""


class View(NamedTuple):
    """One view; the fields of `Views` and `Catalogue` without the axis of views."""

    overall: float
    scale: float
    mean: Floats
    size: Floats
    start: RowNumbers
    rater: NDArray[np.int32]
    value: Singles
    norm: Singles
    factors: Singles
    spread: Floats


def views_of(data: BaselineData, *, then: bool) -> Views:
    """The views of folds, or with `then` those of snapshots; computed once for each `data`."""
    if then not in data.views:
        data.views[then] = _views(data, then) if data.log is None else _of_log(data, data.log, then)
    found: Views = data.views[then]
    return found


def _of_log(data: BaselineData, log: BaselineData, then: bool) -> Views:
    """The views of the log, with those of the rows of `data`."""
    views = views_of(log, then=then)
    time = data.samples.timeline["timestamp"].to_numpy().astype(np.int64)
    of_row = data.fold if views.begins is None else np.searchsorted(views.begins, time, side="right")
    return views._replace(of_row=of_row.astype(np.int64))


def _views(data: BaselineData, then: bool) -> Views:
    rows = np.flatnonzero(data.allowed)
    begins: RowNumbers | None = None
    of_row, chosen = data.fold, [rows[data.fold[rows] != fold] for fold in range(FOLDS)]
    if then:
        time = data.samples.timeline["timestamp"].to_numpy().astype(np.int64)
        begins = np.unique(np.quantile(time[rows], np.arange(1, SNAPSHOTS + 1) / (SNAPSHOTS + 1), method="lower"))
        begins = np.append(begins, time[rows].max() + 1).astype(np.int64)
        of_row = np.searchsorted(begins, time, side="right")
        chosen = [rows[:0], *(rows[time[rows] < begin] for begin in begins)]
    with ThreadPoolExecutor(2) as pool:
        views = list(pool.map(lambda rows: view_of(data, rows), chosen))
    offset = np.cumsum([0, *(len(view.rater) for view in views[:-1])])
    content = data.content
    year = np.full(len(data.samples.items), np.nan) if content.year is None else content.year.copy()  # not read-only
    catalogue = Catalogue(
        overall=np.array([view.overall for view in views]),
        scale=np.array([view.scale for view in views]),
        mean=np.stack([view.mean for view in views]),
        size=np.stack([view.size for view in views]),
        year=year,
        genres=content.genres,
        start=np.stack([view.start + o for view, o in zip(views, offset, strict=True)]),
        rater=np.concatenate([view.rater for view in views]),
        value=np.concatenate([view.value for view in views]),
        norm=np.stack([view.norm for view in views]),
        factors=np.stack([view.factors for view in views]),
    )
    return Views(
        of_row.astype(np.int64),
        catalogue,
        np.stack([view.spread for view in views]),
        1 + int(catalogue.rater.max(initial=-1)),
        Recent(PASTS),
        begins,
    )


def view_of(data: BaselineData, rows: RowNumbers) -> View:
    """The statistics of the training ratings `rows`."""
    items, users = len(data.samples.items), int(data.user[-1]) + 1
    user, item, rating = data.user[rows], data.item[rows], data.rating[rows]
    of_item, of_user = np.bincount(item, minlength=items), np.bincount(user, minlength=users)
    overall = float(rating.mean()) if rows.size else data.samples.threshold
    mean = shrunk(np.bincount(item, rating - overall, items), of_item)
    residual = rating - overall - mean[item]
    scale = float(residual.std()) or 1.0 if rows.size else 1.0
    residual /= scale
    bias = shrunk(np.bincount(user, residual, users), of_user)
    value = residual - bias[user]
    by_item = np.argsort(item, kind="stable")
    item_start, user_start = _starts(of_item), _starts(of_user)
    compared = _sampled(user, item, by_item, item_start)
    low, high = np.quantile(rating, [EXTREME, 1 - EXTREME]) if rows.size else (overall, overall)
    extremes = [
        shrunk(np.bincount(item, is_so, items), of_item, float(is_so.mean()) if rows.size else EXTREME)
        for is_so in (rating <= low, rating >= high)
    ]
    deviation = np.sqrt((np.bincount(item, residual**2, items) + WEIGHT) / (of_item + WEIGHT))
    return View(
        overall,
        scale,
        mean / scale,
        np.log1p(of_item),
        _starts(np.bincount(item[compared], minlength=items)),
        user[compared].astype(np.int32),
        value[compared].astype(np.float32),
        np.sqrt(np.bincount(item[compared], value[compared] ** 2, items) + NORM).astype(np.float32),
        _factors(user_start, item, item_start, user[by_item], residual.astype(np.float32), by_item),
        np.stack([deviation, *extremes], axis=1),
    )


def _starts(counts: RowNumbers) -> RowNumbers:
    """The first index of each group, and the end of the last."""
    return np.concatenate([[0], np.cumsum(counts)])


def _sampled(user: RowNumbers, item: RowNumbers, by_item: RowNumbers, start: RowNumbers) -> RowNumbers:
    """`by_item` with at most `RATERS` ratings of each item: those of the first users in a fixed random order.

    The order is the same for all items, so that two items share many of the users that are left.
    """
    if np.diff(start).max(initial=0) <= RATERS:
        return by_item
    order = np.lexsort((user * 2_654_435_761 % 2**32, item))  # Knuth's multiplicative hash
    return order[np.arange(len(item)) - start[item[order]] < RATERS]


def _factors(
    user_start: RowNumbers,
    item: RowNumbers,
    item_start: RowNumbers,
    user: RowNumbers,
    residual: Singles,
    by_item: RowNumbers,
) -> Singles:
    """Alternating least squares, from items' random factors: residual ≈ bᵤ + bᵢ + pᵤ · qᵢ."""
    from palate.baselines.pasts import ridge_side

    random = np.random.default_rng(0).normal(0, 0.1, (item_start.size - 1, FACTORS))
    factors = np.hstack([np.zeros((len(random), 1)), random]).astype(np.float32)
    penalty = np.repeat(np.array(PENALTY, np.float32), [1, FACTORS])
    for _ in range(ITERATIONS):
        of_users = ridge_side(user_start, item, residual, factors, penalty)
        factors = ridge_side(item_start, user, residual[by_item], of_users, penalty)
    return factors
