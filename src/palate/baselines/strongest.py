"""The feature groups of the strongest baseline, by the views of folds or of snapshots (`palate.baselines.views`).

moment      the time of the question: since the user's last and first rating, ratings of this session, hour, weekday;
            since the item's first training rating, and since its year. All of it from earlier ratings
alike       the user's ratings of items that are similar in any of several ways: kernel ridge regression,
            item-kNN, and matrix factorization with the user folded in
spread      how far ratings of the item, and the user's ratings, lie from the items' means
"""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np

from palate.baselines.statistics import BaselineData, Floats
from palate.baselines.views import Views, views_of
from palate.samples.queries import Queries, RowNumbers

log = logging.getLogger(__name__)

Columns = dict[str, Floats]

SESSION = 3600
"""Seconds between two ratings that begin a new session."""
YEAR = 365.25 * 86_400
FEW = 5_000
"""So many queries take less time than threads take to start on a busy machine."""
DAMPING = 0.3
"""Added to the sum of similarities of item-kNN."""


def moment(data: BaselineData, queries: Queries) -> Columns:
    """The time of the question.

    An anchor of the role "unused" is a request without a time: it is asked at the end of the user's last session. Of
    times that only count the rows nothing is left but the number of the user's ratings.
    """
    time = data.samples.timeline["timestamp"].to_numpy().astype(np.int64)
    if data.latest < (height := (data.log or data).samples.timeline.height):
        _say_that_times_only_count(height)
        return {"ratings before": np.log1p(queries.anchor - data.first[queries.anchor])}
    anchor, rows = queries.anchor, np.arange(len(time))
    first, last = data.first[anchor], np.maximum(anchor - 1, 0)
    asked = np.where(data.unused[anchor] & (anchor > first), time[last], time[anchor])
    past = np.where(anchor > first, 1.0, np.nan)
    gap = (asked - time[last]) * past
    begins = (data.first == rows) | (np.diff(time, prepend=time[0]) > SESSION)
    session = np.maximum.accumulate(np.where(begins, rows, 0))
    columns = {
        "since last rating": np.log1p(gap),
        "since first rating": np.log1p((asked - time[first]) * past),
        "ratings in session": np.log1p(np.where(gap <= SESSION, anchor - session[last], 0)),
        "hour": (asked // 3600 % 24).astype(np.float64),
        "weekday": ((asked // 86_400 + 3) % 7).astype(np.float64),
        "since item's first rating": np.log(np.maximum(_since_first(data, time, queries), 1)),
    }
    if data.content.year is not None:
        columns["since item's year"] = 1970 + time[anchor] / YEAR - data.content.year[queries.item]
    return columns


@cache
def _say_that_times_only_count(rows: int) -> None:
    """Log once for each number of rows, as each fit and each prediction computes the features."""
    log.info("times only number the log's %s rows: the strongest models do without the time of asking", f"{rows:,}")


def alike(data: BaselineData, queries: Queries, *, then: bool = False) -> Columns:
    """Predictions of the rating from the user's ratings of similar items, in units of ratings."""
    from palate.baselines import pasts

    views = views_of(data, then=then)
    catalogue, view = views.catalogue, views.of_row[queries.anchor]
    ridge, deviation, usual, nearest, weight, recent, recent_weight = _alike(data, queries, views).T
    offset, product, doubt = _scanned(pasts.folded, data, queries, views).T
    nearest, recent = nearest / (weight + DAMPING), recent / (recent_weight + DAMPING)
    mean = catalogue.mean[view, queries.item]
    columns = {
        "ridge": ridge,
        "ridge std": deviation,
        "item mean + ridge": mean + ridge,
        "nearest": nearest,
        "similarity of nearest": weight,
        "item mean + nearest": mean + usual + nearest,
        "recent alike": recent,
        "similarity of recent": recent_weight,
        "offset": offset,
        "factors": product,
        "factors std": doubt,
        "item mean + factors": mean + offset + product,
        "item mean + ridge and factors": mean + (ridge + offset + product) / 2,
    }
    scale, overall = catalogue.scale[view], catalogue.overall[view]
    for name in columns:
        if not name.startswith("similarity"):
            columns[name] = scale * columns[name] + (overall if name.startswith("item mean") else 0)
    return _named(columns, then=then)


def spread(data: BaselineData, queries: Queries, *, then: bool = False) -> Columns:
    """Deviations of the item's ratings and of the user's past, in units of ratings."""
    from palate.baselines import pasts

    views = views_of(data, then=then)
    view = views.of_row[queries.anchor]
    columns = dict(zip(DEVIATIONS, _scanned(pasts.deviations, data, queries, views).T, strict=True))
    std, low, high = views.spread[view, queries.item].T
    return _named(columns | {"item std": std, "item lowest": low, "item highest": high}, then=then)


def _named(columns: Columns, *, then: bool) -> Columns:
    """The columns under the names of their group."""
    return {f"{name} then": values for name, values in columns.items()} if then else columns


DEVIATIONS = (
    "mean deviation", "std of residuals", "slope", "rank of mean", "rank of count", "residual about mean",
    "residual about count", "residual about year", "usual mean",
)  # fmt: skip


def _since_first(data: BaselineData, time: RowNumbers, queries: Queries) -> Floats:
    """Seconds since the item's first training rating; NaN if it has none before the question's time."""
    since = time[queries.anchor] - data.first_rated[queries.item]
    return np.where(since > 0, since, np.nan)


def _alike(data: BaselineData, queries: Queries, views: Views) -> Floats:
    """`pasts.alike`; of a few people (`BaselineData.log`) it keeps the last factors for later questions."""
    from palate.baselines import pasts

    if data.log is None:
        return _scanned(
            lambda *given: pasts.alike(*given, pasts.Past.empty(2 * pasts.WINDOW, views.users), 0), data, queries, views
        )
    out = np.empty((len(queries), 7))
    log = pasts.Log(data.first, data.item, data.rating)
    for anchor in np.unique(queries.anchor).tolist():
        rows = np.flatnonzero(queries.anchor == anchor)
        own = slice(pasts.block_of(data.first[anchor], anchor), anchor)
        view = views.of_row[queries.anchor[rows]]
        key = int(view[0]), data.item[own].tobytes(), data.rating[own].tobytes()
        kept = views.pasts.get(key)
        past = pasts.Past.empty(anchor - own.start, views.users)
        if kept is not None:
            past = past._replace(lower=kept[0], solved=kept[1])
        asked = pasts.PastQueries(queries.anchor[rows], queries.item[rows], np.arange(rows.size), view)
        out[rows] = pasts.alike(asked, log, views.catalogue, past, 0 if kept is None else anchor - own.start)
        if kept is None:
            views.pasts.put(key, (past.lower, past.solved), past.lower.nbytes + 5 * past.solved.nbytes)
    return out


def _scanned(scan: Callable[..., Floats], data: BaselineData, queries: Queries, views: Views) -> Floats:
    """A scan over queries, in two threads if there are many."""
    from palate.baselines.pasts import Log, PastQueries

    view, log = views.of_row[queries.anchor], Log(data.first, data.item, data.rating)
    return in_halves(
        queries, lambda order: scan(PastQueries(queries.anchor, queries.item, order, view), log, views.catalogue)
    )


def in_halves(queries: Queries, scan: Callable[[RowNumbers], Floats]) -> Floats:
    """The result of a scan over the queries in the order of their anchors: of two halves in threads if there are many.

    A scan takes the order of some of the queries; its result is 0 for the others.
    """
    order = np.argsort(queries.anchor, kind="stable")
    if len(queries) < FEW:
        return scan(order)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(scan, np.array_split(order, 2))
    return first + second
