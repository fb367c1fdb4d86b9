"""`BaselineData`: the ratings that a baseline may use, as arrays, and item statistics out of folds of users.

A baseline may use all ratings with the role "warmup" or "train". Of the query's user it may also use every rating
before the anchor, whatever its role, as the prompt shows these.

Each user belongs to one of `FOLDS` folds. A user's features take item statistics from the users of the other folds:
no row contributes to its own features, so a statistic has the same meaning for training rows and test rows.

These statistics include training ratings of any time: for an average item half of them are later than the query.
`BaselineData.earlier` gives the statistics as of the query's time instead.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate.baselines.retriever import ItemKNN, RetrieverData
from palate.errors import InputError
from palate.samples import Samples
from palate.samples.build import check_in_memory
from palate.samples.context import UNIT, shrunk
from palate.samples.items import shown_items
from palate.samples.queries import Labels, Queries, RowNumbers, candidate_rows, item_rows
from palate.samples.signals import rows_of_users
from palate.text.vectors import Vectors

Floats = NDArray[np.float64]

FOLDS = 10
PARTS = 5
"""Number of parts of users, each of two folds, in a cross-fit."""
MOST = 500_000
"""Maximum number of a split's samples in a fit, which bounds memory."""
NEIGHBOURS = 200
"""Neighbours stored per item."""
SEEDS = 5
"""Number of fits that a randomized baseline averages, so that no model is compared with one lucky seed."""
FEW_SHARED = 50.0
"""Shrinkage of similarities: with n users who rated both items, the factor is (n − 1) / (n − 1 + FEW_SHARED)."""


class ItemStatistics(NamedTuple):
    """Statistics of items' training ratings, float64: by the users outside each fold, (folds, items) each; or before
    each of n queries, (n,) each."""

    mean: Floats
    """Shrunk to the mean of all; the threshold if there is no rating."""
    liked: Floats
    """Share of likes, shrunk to that of all; ½ if there is no rating."""
    ratings: Floats
    """Number of ratings."""


class Neighbours(NamedTuple):
    """The items most similar to each one, by the users outside each fold; see `scans.similar_items`."""

    start: RowNumbers
    """(folds, items + 1): the first index of an item's neighbours."""
    item: NDArray[np.int32]
    similarity: NDArray[np.float32]


class InTime(NamedTuple):
    """Cumulative sums of training ratings of groups of items, sorted by group, then by time."""

    key: RowNumbers
    """(training rows,): group · moments + moment, ascending."""
    sums: RowNumbers
    """(training rows + 1, 3): number, ratings in multiples of 1 / `UNIT`, and likes of the rows before each row.
    Integers, so that a difference of two sums is exact."""

    def between(self, low: RowNumbers, high: RowNumbers) -> tuple[Floats, Floats, Floats]:
        """Number, sum of ratings and likes of the rows with keys in [`low`, `high`)."""
        begin, end = np.searchsorted(self.key, low), np.searchsorted(self.key, high)
        count, rated, liked = (self.sums[end] - self.sums[begin]).T.astype(np.float64)
        return count, rated / UNIT, liked


class Content(NamedTuple):
    """Genres and years of the items."""

    names: list[str]
    """Genres, the most frequent first, at most 64."""
    genres: NDArray[np.uint64]
    """(items,), bit g for genre g."""
    year: Floats | None
    """(items,), NaN where unknown; None if no item has one."""


if TYPE_CHECKING:
    of_log = cached_property
else:

    class of_log(cached_property):  # noqa: N801  a decorator
        """A cached property of a log: data of a few people (`BaselineData.log`) have that of their log."""

        def __get__(self, instance, owner=None):
            """The log's value."""
            if instance is None or instance.log is None:
                return super().__get__(instance, owner)
            return getattr(instance.log, self.attrname)


@dataclass(frozen=True)
class BaselineData:
    """The timeline of `samples` as arrays of shape (rows,), and statistics of it, each computed once."""

    samples: Samples
    user: RowNumbers
    """0, 1, … in the order of the timeline."""
    first: RowNumbers
    """The first row of the row's user."""
    item: RowNumbers
    """Row of `samples.items`."""
    rating: Floats
    liked: Labels
    allowed: Labels
    """Whether the row is a training rating: role "warmup" or "train"."""
    unused: Labels
    """Whether the row has the role "unused"."""
    fold: RowNumbers
    """The fold of the row's user."""
    seed: int
    without: int | None = None
    """The part of users whose training samples a fit leaves out; None: it uses those of all."""
    apart: bool = False
    """Whether a fit reads nothing of the users of `without`; see `leaving_out`."""
    vectors: Vectors | None = None
    """Vectors of the items' text."""
    fits: int = SEEDS
    """Number of fits that a randomized baseline averages."""
    log: "BaselineData | None" = field(default=None, repr=False, compare=False)
    """The log whose statistics these rows have, see `palate.baselines.people`; None: the rows are the log."""
    log_row: RowNumbers | None = field(default=None, repr=False, compare=False)
    """(rows,): the row in `log`, or -1; None without a `log`."""
    features: dict[tuple[str, str], NDArray[np.float32]] = field(default_factory=dict, repr=False, compare=False)
    """Cached features of a split's samples by (split, group), which several models share."""
    linear: dict[tuple[str, ...], dict[str, NDArray[Any]]] = field(default_factory=dict, repr=False, compare=False)
    """Cached logistic regressions and trees by groups of features, which several models share."""
    views: dict[bool, Any] = field(default_factory=dict, repr=False, compare=False)
    """Cached results of `palate.baselines.views`, which several models share."""
    sums: dict[str, Floats] = field(default_factory=dict, repr=False, compare=False)
    """Cached results of `before`, and the prior of `palate.baselines.text`."""

    @classmethod
    def of(cls, samples: Samples, seed: int = 13, guests: int = 0, vectors: Vectors | None = None) -> Self:
        """The data of samples; raises `InputError` if there is no training sample, and for a log on the disk.

        The last `guests` users are not of the log. They do not change the folds of the others.
        """
        check_in_memory(samples, "fits classical models")
        timeline = samples.timeline
        if not samples.of("train").size:
            raise InputError("the timeline has no training rows, expected some to fit the baselines on")
        user = samples.user
        rating = timeline["rating"].to_numpy().astype(np.float64)
        role = timeline["split"].cast(pl.String)
        allowed, unused = role.is_in(["warmup", "train"]).to_numpy(), (role == "unused").to_numpy()
        fold = np.random.default_rng(seed).permutation(int(user[-1]) + 1 - guests) % FOLDS
        fold = np.append(fold, np.zeros(guests, np.int64))
        rows = samples.first, item_rows(samples), rating, samples.liked, allowed, unused, fold[user]
        return cls(samples, user, *rows, seed, vectors=vectors)

    def of_split(self, split: str) -> tuple[Queries, Labels]:
        """The samples of a split and their labels, (n,) bool."""
        index = self.samples.of(split)
        anchor = self.samples.position[index]
        if self.samples.negative is None:
            return Queries(anchor, self.item[anchor]), self.liked[anchor]
        return Queries(anchor, candidate_rows(self.samples, index)), self.samples.label[index]

    def learned(self, queries: Queries) -> RowNumbers:
        """The rows of the training queries that a fit uses; see `without`."""
        return np.flatnonzero(self.fold[queries.anchor] % PARTS != (-1 if self.without is None else self.without))

    def leaving_out(self, part: int, *, apart: bool) -> Self:
        """The data for a fit that leaves out the training samples of a part of the users.

        A fit still learns from their ratings otherwise: they are in the item statistics of other users' features, and
        in the validation samples. With `apart` the part's ratings are in neither, so that a prediction for one of
        its users depends on no answer of theirs but those before the query.
        """
        if not apart:
            return replace(self, without=part, linear={})
        allowed = self.allowed & (self.fold % PARTS != part)
        caches: dict[str, Any] = {"features": {}, "linear": {}, "views": {}, "sums": {}}
        return replace(self, without=part, apart=True, allowed=allowed, **caches)

    def fitted_on(self, split: str) -> tuple[Queries, Labels]:
        """`drawn` without the samples that a fit leaves out: training samples of `without`; if `apart`, also others."""
        queries, liked = self.drawn(split)
        if split != "train" and not self.apart:
            return queries, liked
        rows = self.learned(queries)
        return queries.take(rows), liked[rows]

    def drawn(self, split: str) -> tuple[Queries, Labels]:
        """The samples of a split to fit on: all, or a random `MOST` of them, in order."""
        queries, liked = self.of_split(split)
        if len(queries) <= MOST:
            return queries, liked
        rows = np.sort(np.random.default_rng(self.seed).choice(len(queries), MOST, replace=False))
        return queries.take(rows), liked[rows]

    @cached_property
    def training(self) -> RetrieverData:
        """The training ratings."""
        return RetrieverData.of(self.samples)

    @of_log
    def items(self) -> ItemStatistics:
        """Statistics of items out of folds."""
        count, rated, liked = (self._outside(of) for of in (np.ones(len(self.rating)), self.rating, self.liked))
        rows = count.sum(axis=1, keepdims=True)

        def means(part: Floats, otherwise: float) -> Floats:
            # If no rating is outside a fold (of a single user, say), the mean of all would hold the query's answer.
            prior = np.where(rows > 0, part.sum(axis=1, keepdims=True) / np.maximum(rows, 1), otherwise)
            return shrunk(part, count, prior)

        return ItemStatistics(means(rated, self.samples.threshold), means(liked, 0.5), count)

    @of_log
    def latest(self) -> int:
        """The last time."""
        return int(self.samples.timeline["timestamp"].max())  # type: ignore[arg-type]

    @of_log
    def user_rows(self) -> RowNumbers:
        """The row of each user in the table of users, then that of a stranger, see `rows_of_users`."""
        return rows_of_users(self.samples)

    @cached_property
    def residual(self) -> Floats:
        """Each rating less the mean of its item, out of the user's fold."""
        return self.rating - self.items.mean[self.fold, self.item]

    def earlier(self, anchor: RowNumbers, item: RowNumbers) -> ItemStatistics:
        """Statistics of items by training ratings strictly before the anchors' times; (n,) each.

        Means are shrunk to those of all items at that time; before the first rating, to the threshold and to ½. Folds
        are unnecessary: earlier ratings never include the query's own.
        """
        moment = self._moment[anchor]
        n, of_all, liked_of_all = self._by_time.between(np.zeros_like(moment), moment)
        start = item * self._moments
        count, rated, liked = self._by_item_and_time.between(start, start + moment)
        mean = np.where(n > 0, of_all / np.maximum(n, 1), self.samples.threshold)
        rate = np.where(n > 0, liked_of_all / np.maximum(n, 1), 0.5)
        return ItemStatistics(shrunk(rated, count, mean), shrunk(liked, count, rate), count)

    @cached_property
    def residual_then(self) -> Floats:
        """Each rating less the mean of its item as of the rating's own time."""
        return self.rating - self.earlier(np.arange(len(self.rating)), self.item).mean

    def before(self, name: Literal["rating", "square", "liked", "residual", "residual_then"]) -> Floats:
        """The sum of the user's ratings, their squares, likes or residuals before each row, (rows,)."""
        from palate.baselines.scans import sums_before

        if name not in self.sums:
            values = self.rating**2 if name == "square" else getattr(self, name).astype(np.float64)
            self.sums[name] = sums_before(values, self.first)
        return self.sums[name]

    @of_log
    def neighbours(self) -> Neighbours:
        """Similar items out of folds."""
        with ThreadPoolExecutor(2) as pool:
            parts = list(pool.map(self._neighbours, range(FOLDS)))
        offset = np.cumsum([0, *(len(part.item) for part in parts[:-1])])
        return Neighbours(
            np.stack([part.start + o for part, o in zip(parts, offset, strict=True)]),
            np.concatenate([part.item for part in parts]),
            np.concatenate([part.similarity for part in parts]),
        )

    @of_log
    def content(self) -> Content:
        """Genres and years as prompts show them."""
        shown = shown_items(self.samples.items)
        year = None
        if "year" in shown.columns:
            found = shown["year"].cast(pl.Float64, strict=False)
            year = found.to_numpy() if found.null_count() < len(found) else None
        bits = np.zeros(len(shown), np.uint64)
        if shown.schema.get("genres") != pl.String:
            return Content([], bits, year)
        listed = shown.select(pl.col("genres").str.split(", ").list.unique()).with_row_index("row").explode("genres")
        listed = listed.filter(~pl.col("genres").is_in(["", "no genres listed"]))
        names = listed["genres"].value_counts().sort(["count", "genres"], descending=[True, False])["genres"].head(64)
        for bit, name in enumerate(names):
            bits[listed.filter(genres=name)["row"].to_numpy()] |= np.uint64(1) << np.uint64(bit)
        return Content(names.to_list(), bits, year)

    @of_log
    def fitted_queries(self) -> Queries:
        """The training samples that a fit uses, in order."""
        queries, _ = self.drawn("train")
        return queries.take(self.learned(queries))

    @of_log
    def first_rated(self) -> Floats:
        """The time of each item's first training rating, (items,); infinite without one."""
        rows = np.flatnonzero(self.allowed)
        first = np.full(len(self.samples.items), np.inf)
        np.minimum.at(first, self.item[rows], self.samples.timeline["timestamp"].to_numpy()[rows])
        return first

    @of_log
    def _times(self) -> RowNumbers:
        """The distinct times of the log, ascending."""
        return np.unique(self.samples.timeline["timestamp"].to_numpy().astype(np.int64))

    @cached_property
    def _moment(self) -> RowNumbers:
        """The number of the log's distinct times before each row's."""
        return np.searchsorted(self._times, self.samples.timeline["timestamp"].to_numpy().astype(np.int64))

    @of_log
    def _moments(self) -> int:
        return len(self._times)

    @of_log
    def _by_item_and_time(self) -> InTime:
        return self._in_time(self.item)

    @of_log
    def _by_time(self) -> InTime:
        return self._in_time(np.zeros_like(self.item))

    def _in_time(self, group: RowNumbers) -> InTime:
        rows = np.flatnonzero(self.allowed)
        key = group[rows] * self._moments + self._moment[rows]
        order = np.argsort(key, kind="stable")
        rows = rows[order]
        amounts = np.column_stack([np.ones(len(rows), np.int64), np.rint(self.rating[rows] * UNIT), self.liked[rows]])
        sums = np.concatenate([np.zeros((1, 3), np.int64), np.cumsum(amounts.astype(np.int64), axis=0)])
        return InTime(key[order], sums)

    @of_log
    def ratings_by_item(self) -> tuple[RowNumbers, RowNumbers, Floats, Labels, RowNumbers]:
        """The training ratings by item, then user: the first of each item (items + 1,), and user, rating and whether
        liked of each (n,); and the fold of each user."""
        rows = np.flatnonzero(self.allowed)
        rows = rows[np.lexsort((self.user[rows], self.item[rows]))]
        start = np.searchsorted(self.item[rows], np.arange(len(self.samples.items) + 1))
        fold_of = np.zeros(int(self.user[-1]) + 1, np.int64)
        fold_of[self.user] = self.fold
        return start, self.user[rows], self.rating[rows], self.liked[rows], fold_of

    def _outside(self, values: NDArray[Any]) -> Floats:
        """Sums of the training rows' values per item, over the users outside each fold: (folds, items)."""
        outside = [np.flatnonzero(self.allowed & (self.fold != fold)) for fold in range(FOLDS)]
        return np.stack([np.bincount(self.item[rows], values[rows], len(self.samples.items)) for rows in outside])

    def _neighbours(self, fold: int) -> Neighbours:
        """Similar items by the training ratings of the users outside one fold."""
        from palate.baselines.scans import similar_items

        rows = np.flatnonzero(self.allowed & (self.fold != fold))
        user, item = self.user[rows], self.item[rows]
        if self.samples.likes is not None:
            return self._liked_neighbours(rows)
        residual = self.rating[rows] - self.items.mean[fold, item]
        of_user = np.bincount(user, minlength=int(self.user[-1]) + 1)
        bias = shrunk(np.bincount(user, residual, of_user.size), of_user)
        value = residual - bias[user]
        by_item = np.argsort(item, kind="stable")
        of_item = np.bincount(item, minlength=len(self.samples.items))
        user_start, item_start = (np.concatenate([[0], np.cumsum(counts)]) for counts in (of_user, of_item))
        found = similar_items(
            user_start, item, value, item_start, user[by_item], value[by_item], NEIGHBOURS, FEW_SHARED
        )
        return Neighbours(*found)

    def _liked_neighbours(self, rows: RowNumbers) -> Neighbours:
        """Similar items by likes, which have no residuals: by their users in common, as `ItemKNN` counts them."""
        likes = RetrieverData(
            self.user[rows], self.item[rows], self.rating[rows], self.liked[rows], int(self.user[-1]) + 1,
            len(self.samples.items),
        )  # fmt: skip
        found = ItemKNN.fit(likes, NEIGHBOURS).similarity
        return Neighbours(found.indptr.astype(np.int64), found.indices.astype(np.int32), found.data.astype(np.float32))
