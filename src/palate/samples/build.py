"""Build samples from ratings: each user's ratings in order of time, and an index of the rows that are samples."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate.config import PrepareConfig
from palate.errors import InputError
from palate.ratings.blocks import bounds_of
from palate.ratings.ids import distinct
from palate.ratings.likes import Likes
from palate.ratings.load import Ratings
from palate.ratings.order import in_order, lengths_of
from palate.samples.context import Context
from palate.samples.items import item_rows
from palate.samples.negatives import negatives_of
from palate.samples.split import SPLITS, TRAIN, cold_items, split_at, split_by_user, time_cutoffs
from palate.store.scratch import FIXED, Scratch, blocks_of, empty, filled, selected

ROLES = pl.Enum(["warmup", *SPLITS, "unused"])
"""The role of a rating: a sample of a split, part of a user's warm-up, or unused."""
WARMUP, UNUSED = np.uint8(0), np.uint8(len(SPLITS) + 1)
"""Numbers of these roles; that of a sample is its split's + 1."""


@dataclass(frozen=True)
class Samples:
    """All samples, as an index into the users' timelines.

    `timeline` has all ratings by user, then timestamp, then file order: `user_id`, `item_id`, `rating`, `timestamp` and
    `split` (`ROLES`). `position` (n,) int64, ascending, is the timeline row of each sample's candidate; the sample's
    history is the `history_len` rows before it. `split` (n,) uint8 is 0 for train, 1 for val, 2 for test. A rating of
    at least `threshold` is a Yes. `items` has `item_id`, `title` and the item table's other columns. `context` is None
    until a prompt that needs it is rendered. `history` (n,) int64 is the number of history rows of each sample; None
    means `history_len` for all. Only given splits set it, since their samples may have fewer earlier rows. `signals`
    has n rows, see `palate.samples.signals`; None if they were not computed. `users` has `user_id` and the fields of
    users as text, see `palate.ratings.user_table`; None without such a table.

    A log of likes has sampled negatives, see `palate.samples.negatives`; `likes` is the rule that sampled them, None
    for a log of ratings. `negative` (n,) int64 then is the row of `items` of the candidate of a No, and −1 for a like.
    A No has the position, the user, the time and the split of its like, so that a position occurs several times. It is
    no row of the timeline: no history shows it, and no statistic of ratings counts it. The first like of an item by
    anyone is no sample. In a log of ratings `negative` has the unrated pairs of a training, see
    `palate.samples.unrated`: their label is No, but they have no answer.

    Models may learn from the roles "warmup" and "train". A warm-up rating after the first cutoff of a global-time split
    is therefore "unused", though it is part of a history. So are, under cold-items, the other ratings at the time of a
    user's validation and test samples.
    """

    timeline: pl.DataFrame
    items: pl.DataFrame
    position: NDArray[np.int64]
    split: NDArray[np.uint8]
    threshold: float
    history_len: int
    context: Context | None = None
    history: NDArray[np.int64] | None = None
    signals: pl.DataFrame | None = None
    negative: NDArray[np.int64] | None = None
    likes: Likes | None = None
    users: pl.DataFrame | None = None
    scratch: Scratch | None = None
    """Where the timeline and arrays of its length are on the disk; None: they are in memory."""

    @property
    def histories(self) -> NDArray[np.int64]:
        """The number of history rows of each sample, (n,) int64, read-only."""
        if self.history is None:  # one number in memory for all samples
            return np.broadcast_to(np.int64(self.history_len), self.position.shape)
        return self.history

    @cached_property
    def liked(self) -> NDArray[np.bool_]:
        """Whether each rating of the timeline is a Yes, (rows,) bool."""
        rating = self.timeline["rating"].to_numpy()
        return filled(self.scratch, rating.size, np.bool_, lambda rows: rating[rows] >= self.threshold)

    @cached_property
    def label(self) -> NDArray[np.bool_]:
        """Whether each sample is a Yes, (n,) bool."""
        if self.negative is not None:
            return (self.negative < 0) & self.liked[self.position]
        position = self.position
        return filled(self.scratch, position.size, np.bool_, lambda some: self.liked[position[some]])

    @cached_property
    def user(self) -> NDArray[np.int64]:
        """The number of each timeline row's user: 0, 1, … in timeline order, (rows,) int64."""
        return self.timeline["user_id"].rle_id().to_numpy().astype(np.int64)

    @cached_property
    def first(self) -> NDArray[np.int64]:
        """The first row of each row's user, (rows,) int64."""
        return np.flatnonzero(np.diff(self.user, prepend=-1))[self.user]

    def of(self, split: str) -> NDArray[np.int64]:
        """The samples of a split as indices into `position`, in timeline order."""
        number = SPLITS.index(split)
        if self.scratch is None:
            return np.flatnonzero(self.split == number)
        return selected(self.scratch, self.split.size, lambda rows: self.split[rows] == number)


def check_in_memory(log: Samples | Ratings, what: str) -> None:
    """Raise `InputError` for work that needs a whole log in memory, if the log is on the disk."""
    if log.scratch is None:
        return
    frame = log.timeline if isinstance(log, Samples) else log.frame
    # The drawn users may have more ratings than the average one.
    users = int(0.8 * log.scratch.fitting * distinct(frame["user_id"]).len() / frame.height)
    some = (
        f"ratings.sample_users: {users}"
        if users
        else f"prepare.memory above {FIXED / 1e9:g} GB and ratings.sample_users"
    )
    log.scratch.refuse(what, "ratings", some)


def build_samples(ratings: Ratings, options: PrepareConfig, seed: int = 13) -> Samples:
    """Order the ratings, make every rating after a user's first `history_len` a sample, and split them.

    With given splits every rating is a sample of its split. `seed` draws the items of a cold-items split, and the
    negatives of likes. Raises `InputError` if the threshold is outside the ratings' scale, if no user has more than
    `history_len` ratings, or if no samples are left to train on.
    """
    low, high = ratings.scale
    if not low < options.rating_threshold <= high:
        every = "Yes" if options.rating_threshold <= low else "No"
        better = _threshold_between(ratings.frame["rating"])
        example = "" if better is None else f", such as {better:g}"
        raise InputError(
            f"{options.rating_threshold:g} makes every answer {every}, "
            f"expected one above {low:g} and up to {high:g}{example}",
            "prepare.rating_threshold",
        )
    need = options.history_len
    if options.split == "given":
        timeline = ratings.frame.sort("user_id", "timestamp", maintain_order=True)
        return samples_of(timeline.with_columns(pl.col("split").cast(ROLES)), ratings.items, options)
    scratch = ratings.scratch
    timeline, counts = in_order(ratings.frame, scratch)
    longest = int(counts.max(initial=0))
    if longest <= need:
        raise InputError(
            f"no user has more than {need} ratings, the longest history has {longest}; "
            f"expected at least {need + 1}, or a smaller prepare.history_len",
            ratings.name,
        )
    if options.split == "cold-items":
        timeline, role = _cold_items(timeline, counts, options, seed, scratch)
    else:
        role = _roles(timeline["timestamp"].to_numpy(), counts, options, scratch)
    if ratings.likes is not None:
        role = _without_firsts(timeline, role)
    timeline = timeline.with_columns(split=pl.Series(role).cat.to(ROLES))
    samples = samples_of(timeline, ratings.items, options, scratch)
    if ratings.likes is None:
        return samples
    item = item_rows(timeline["item_id"], ratings.items["item_id"]).to_numpy().astype(np.int64)
    time = timeline["timestamp"].to_numpy()
    of, negative = negatives_of(samples.user, item, time, samples.position, ratings.likes, seed)
    return with_negatives(samples, of, negative, ratings.likes)


def _roles(
    times: NDArray[np.int64], counts: NDArray[np.int64], options: PrepareConfig, scratch: Scratch | None
) -> NDArray[np.uint8]:
    """The role of each rating under a split by user or by time, (rows,); users have `counts` ratings."""
    need = options.history_len
    cutoffs: tuple[int | None, int | None] = (None, None)
    if options.split == "global-time":
        sampled, end = empty(scratch, int(np.maximum(counts - need, 0).sum()), np.int64), 0
        for rows, some in _users(counts):
            late = times[rows][_after_warmup(some, need)]
            sampled[end : end + late.size] = late
            end += late.size
        cutoffs = time_cutoffs(sampled, options.val_ratio, options.test_ratio)
    reached = [cutoff for cutoff in cutoffs if cutoff is not None]
    role = empty(scratch, times.size, np.uint8)
    for rows, some in _users(counts):
        is_sample = _after_warmup(some, need)
        part = np.repeat(np.where(some > need, WARMUP, UNUSED), some)
        if options.split == "user-time":
            split = split_by_user(some[some > need] - need, options.val_ratio, options.test_ratio)
        else:
            split = split_at(times[rows][is_sample], cutoffs)
        if reached:
            part[times[rows] >= min(reached)] = UNUSED
        part[is_sample] = split + 1
        role[rows] = part
    return role


def _users(counts: NDArray[np.int64]) -> Iterator[tuple[slice, NDArray[np.int64]]]:
    """The rows of each block of users, see `bounds_of`, and these users' numbers of ratings."""
    bounds = bounds_of(counts)
    users = np.searchsorted(np.cumsum(counts), bounds[1:])
    for begin, end, first, last in zip(bounds, bounds[1:], [0, *(users[:-1] + 1)], users + 1, strict=False):
        yield slice(int(begin), int(end)), counts[first:last]


def _without_firsts(timeline: pl.DataFrame, role: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The role of each like, if that of an item that nobody else had taken by then is no sample.

    No negative is of such an item, so that its novelty alone would tell the answer: models may learn from it as from
    a warm-up, and a held-out one is unused.
    """
    alone = timeline.select(pl.col("timestamp").rank("max").over("item_id") == 1).to_series().to_numpy()
    is_sample = (role != WARMUP) & (role != UNUSED)
    return np.where(alone & is_sample, np.where(role == TRAIN + 1, WARMUP, UNUSED), role).astype(np.uint8)


def _cold_items(
    timeline: pl.DataFrame, counts: NDArray[np.int64], options: PrepareConfig, seed: int, scratch: Scratch | None
) -> tuple[pl.DataFrame, NDArray[np.uint8]]:
    """The timeline without ratings of held-out items at the wrong time, and the role of each rating that is left.

    A split by user decides the time of each user's test and validation samples. Of them, those of held-out items
    become samples; the others are parts of histories. At any other time, ratings of held-out items leave the timeline,
    so that no history of a training sample shows one. Raises `InputError` if no training or no test sample is left.
    """
    need, items = options.history_len, distinct(timeline["item_id"]).sort()
    limited = pl.Series(cold_items(items.len(), options.cold_share, seed))

    def parts() -> Iterator[pl.DataFrame]:
        for rows, some in _users(counts):
            block = timeline[rows]
            part = np.full(block.height, TRAIN, np.uint8)
            part[_after_warmup(some, need)] = split_by_user(
                some[some > need] - need, options.val_ratio, options.test_ratio
            )
            only = limited.gather(items.search_sorted(block["item_id"])).to_numpy()
            kept = (only == TRAIN) | (only == part)
            block, part, only = block.filter(kept), part[kept], only[kept]
            if not block.height:
                continue
            left = lengths_of(block["user_id"])
            warmup = ~_after_warmup(left, need)
            is_sample = ~warmup & (only == part)
            role = np.where(is_sample, part + 1, np.where(warmup & (part == TRAIN), WARMUP, UNUSED)).astype(np.uint8)
            role[~np.repeat(np.logical_or.reduceat(is_sample, np.cumsum(left) - left), left)] = UNUSED
            yield block.with_columns(split=pl.Series(role))

    timeline = pl.concat(parts(), rechunk=True) if scratch is None else scratch.table(parts())
    role = timeline["split"].to_numpy()
    for split in ("train", "test"):
        if not (role == ROLES.categories.to_list().index(split)).any():
            raise InputError(
                f"cold-items with prepare.cold_share {options.cold_share:g} leaves no {split} samples, "
                "expected more ratings, or another share",
                "prepare.split",
            )
    return timeline, role


def _after_warmup(counts: NDArray[np.int64], need: int) -> NDArray[np.bool_]:
    """Whether each rating comes after its user's first `need`, (sum of counts,)."""
    warmup = np.minimum(counts, need)
    return np.repeat(np.tile([False, True], counts.size), np.column_stack([warmup, counts - warmup]).ravel())


def samples_of(
    timeline: pl.DataFrame, items: pl.DataFrame, options: PrepareConfig, scratch: Scratch | None = None
) -> Samples:
    """The samples of a timeline: the rows whose column `split` (`ROLES`) is a split's name."""
    role = timeline["split"].to_physical().to_numpy()
    position = selected(scratch, role.size, lambda rows: (role[rows] >= 1) & (role[rows] <= len(SPLITS)))
    split = filled(scratch, position.size, np.uint8, lambda some: role[position[some]] - 1)
    samples = Samples(timeline, items, position, split, options.rating_threshold, options.history_len, scratch=scratch)
    if options.split != "given":
        return samples
    before = position - samples.first[position]
    return replace(samples, history=np.minimum(before, options.history_len))


def with_negatives(
    samples: Samples, of: NDArray[np.int64], negative: NDArray[np.int64], likes: Likes | None = None
) -> Samples:
    """The samples, each followed by its negatives: `negative` (m,), rows of `items`, are those of samples `of` (m,)."""
    every = np.concatenate([np.arange(samples.position.size), of])
    order = np.argsort(every, kind="stable")
    every = every[order]
    candidate = np.concatenate([np.full(samples.position.size, -1), negative])[order]
    position, split = samples.position[every], samples.split[every]
    history = None if samples.history is None else samples.history[every]
    return replace(samples, position=position, split=split, history=history, negative=candidate, likes=likes)


def checked_samples(ratings: Ratings, options: PrepareConfig, seed: int = 13) -> Samples:
    """`build_samples` for data to train on.

    Also raises `InputError` if no user has ratings at two times, since histories then have no order, and if two or more
    training samples all have one answer.
    """
    _check_times(ratings)
    samples = replace(build_samples(ratings, options, seed), users=ratings.users)
    if _has_both_answers(samples):
        return samples
    train = samples.of("train")
    label = samples.label[train]
    if samples.negative is not None and label.all():
        raise InputError(
            f"none of {label.size:,} training samples has a negative: an item that someone else had taken by then, and "
            "the user never takes; expected more users and items",
            ratings.name,
        )
    if label.size < 2:
        return samples
    rating = samples.timeline["rating"].to_numpy()[samples.position[train]]
    better = _threshold_between(pl.Series("rating", rating))
    if better is None:
        raise InputError(
            f"all {label.size:,} training samples have the rating {rating[0]:g}, expected ratings that differ",
            ratings.name,
        )
    raise InputError(
        f"{options.rating_threshold:g} makes the answer of all {label.size:,} training samples "
        f"{'Yes' if label[0] else 'No'} (their ratings are {rating.min():g} to {rating.max():g}), expected a threshold "
        f"that divides them, such as {better:g}: {(rating >= better).mean():.0%} Yes",
        "prepare.rating_threshold",
    )


def _has_both_answers(samples: Samples) -> bool:
    """Whether the training samples have a Yes and a No."""
    rating = samples.timeline["rating"].to_numpy()
    answers: set[bool] = set()
    for some in blocks_of(samples.position.size):
        train = samples.split[some] == TRAIN
        if samples.negative is None:
            liked = rating[samples.position[some][train]] >= samples.threshold
        else:
            liked = samples.negative[some][train] < 0
        answers |= set(np.unique(liked).tolist())
        if len(answers) > 1:
            return True
    return False


def _check_times(ratings: Ratings) -> None:
    """Raise `InputError` if no user with several ratings has them at two times."""
    every_user, time = ratings.frame["user_id"], ratings.frame["timestamp"]
    for rows in blocks_of(time.len()):  # finds the two times if the file is ordered by user
        user, at = every_user[rows], time[rows]
        if ((user == user.shift()) & (at != at.shift())).any():
            return
    of_user = ratings.frame.group_by("user_id").agg(
        several=pl.len() > 1, ordered=pl.col("timestamp").min() != pl.col("timestamp").max()
    )
    if not of_user["several"].any() or of_user["ordered"].any():
        return
    every = f"every timestamp is {time[0]}" if time.min() == time.max() else "each has one timestamp for all"
    raise InputError(
        f"no user has ratings at two times ({every}), so histories have no order; expected the column of times as "
        "ratings.columns.timestamp, or, if the rows are in order, one that numbers them",
        ratings.name,
    )


def _threshold_between(rating: pl.Series) -> float | None:
    """The threshold whose share of Yes is nearest to one half; None if all ratings are equal."""
    counts = rating.value_counts().sort(rating.name)
    yes = counts["count"].reverse().cum_sum().reverse()[1:]
    if yes.is_empty():
        return None
    return float(counts[rating.name][1 + int((yes / rating.len() - 0.5).abs().arg_min() or 0)])
