"""Order in time: whether training rows and histories precede the samples, and how many timestamps are tied."""

from collections.abc import Iterator

import numpy as np
import polars as pl

from palate.measure.figures import percent
from palate.measure.leaks.findings import Finding, share
from palate.measure.leaks.rows import TEST, TRAIN, VAL, Longs, TimelineRows

LEARNED = "rows learned from"
"""The tables' name of training, warm-up and validation rows: calibration and early stopping also learn."""
NEVER = np.iinfo(np.int64).max


def order(rows: TimelineRows, split: str) -> Iterator[Finding]:
    """The findings about time."""
    yield _training_after_test(rows) if split == "global-time" else _future(rows)
    yield _own_future(rows)
    yield from _history(rows)
    yield from _ties(rows)


def _training_after_test(rows: TimelineRows) -> Finding:
    """Under a split at one moment: training and validation rows later than the first test row."""
    learned = np.flatnonzero(rows.role <= VAL)
    border = rows.time[rows.role == TEST].min(initial=NEVER)
    later = learned[rows.time[learned] > border]
    return rows.finding(
        *("training-after-test", "fatal", later, learned.size, LEARNED),
        text="what is learned from or tuned on is later than the first test row, "
        "though a split at one moment promises that nothing is",
        clean="nothing that is learned from or tuned on is later than a test row",
        other=np.full(later.size, border),
    )


def _future(rows: TimelineRows) -> Finding:
    """Under a split by user: the share of training rows that are later than the median test row."""
    test = np.sort(rows.time[rows.role == TEST])
    middle = test[test.size // 2] if test.size else NEVER
    train, learned = np.flatnonzero(rows.role == TRAIN), np.flatnonzero(rows.role <= TRAIN)
    later = train[rows.time[train] > middle]
    return rows.finding(
        *("future", "stated", later, train.size, "training rows"),
        text=f"for the median test row {share(later.size, train.size)} of the training rows, from which the model "
        f"learns, lie in the future, and {share(int((rows.time[learned] > middle).sum()), learned.size)} of the "
        "ratings that item statistics are made of (training and warm-up): model and baselines know what others thought "
        "later. Statistics as of each row's own time would know less of every item, and of new ones nothing: expect "
        "somewhat lower numbers from all that use them. prepare.split: global-time tests without the future",
        clean="no training row is later than the median test row",
        other=np.full(later.size, middle),
    )


def _own_future(rows: TimelineRows) -> Finding:
    """Training and validation rows that are later than the first test row of the same user."""
    first = np.full(rows.users, NEVER)
    test = rows.role == TEST
    np.minimum.at(first, rows.user[test], rows.time[test])
    learned = np.flatnonzero(rows.role <= VAL)
    later = learned[rows.time[learned] > first[rows.user[learned]]]
    return rows.finding(
        *("own-future", "fatal", later, learned.size, LEARNED),
        text="rows that are learned from or tuned on are later than a test row of the same user: "
        "the model has seen where this user's taste went",
        clean="no row that is learned from or tuned on is later than a test row of the same user",
        other=first[rows.user[later]],
    )


def _history(rows: TimelineRows) -> Iterator[Finding]:
    """Whether the history rows of each sample belong to its user and are not later than the sample."""
    position, length = rows.samples.position, rows.samples.histories
    yield rows.finding(
        *(
            "history-of-others",
            "fatal",
            position[position - length < rows.samples.first[position]],
            position.size,
            "samples",
        ),
        text="samples have a history that reaches back to the rows of another user",
        clean="every history is of its own user",
    )
    latest = _latest_before(rows)
    later = position[latest[position] > rows.time[position]]
    yield rows.finding(
        *("later-history", "fatal", later, position.size, "samples"),
        text="samples have a history that is later than what is asked",
        clean="no history is later than what is asked",
        other=latest[later],
    )
    tied = position[rows.tied[position]]
    yield rows.finding(
        *("tied-history", "stated", tied, position.size, "samples"),
        text=f"in {share(tied.size, position.size)} of the samples the last row of the history has the timestamp of "
        "what is asked: which came first is only the order of the file",
        clean="no history ends at the time of what is asked",
    )


def _latest_before(rows: TimelineRows) -> Longs:
    """The latest time among the user's rows before each row, (rows,) int64; for the user's first row its time."""
    before = np.where(rows.new, rows.time, np.roll(rows.time, 1))
    if not (before > rows.time).any():  # as in every timeline that `build_samples` orders
        return before
    frame = pl.DataFrame({"begin": rows.samples.first, "before": before})
    return frame.select(pl.col("before").cum_max().over("begin")).to_series().to_numpy()


def _ties(rows: TimelineRows) -> Iterator[Finding]:
    """Shares of rows with tied timestamps: overall, per user, and at the borders of splits."""
    shared = rows.tied.copy()
    shared[:-1] |= rows.tied[1:]
    counts = np.bincount(rows.user, minlength=rows.users)
    of_user = np.bincount(rows.user, shared, minlength=rows.users) / np.maximum(counts, 1)
    yield rows.finding(
        *("tied-rows", "stated", np.flatnonzero(shared), shared.size, "rows"),
        text=f"{share(int(shared.sum()), shared.size)} of the rows share their timestamp with another row of their "
        f"user: {percent(float(np.median(of_user)))} of the median user's, and more than half of the rows of "
        f"{share(int((of_user > 0.5).sum()), rows.users)} of the users. Among themselves they stand as in the file",
        clean="no user has two rows of one timestamp",
    )
    for name, role in (("test", TEST), ("validation", VAL)):
        first = rows.first_of(role)
        tied = first[rows.tied[first]]
        yield rows.finding(
            *(f"tied-{name}-border", "stated", tied, first.size, "users"),
            text=f"in {share(tied.size, first.size)} of the users the first {name} row shares its timestamp with the "
            "row before it: there the file's order decides what belongs to which split",
            clean=f"no user's first {name} row shares its timestamp with the row before it",
        )
    sampled = np.zeros(rows.users, bool)
    sampled[rows.user[rows.samples.position]] = True
    one_moment = sampled & (np.bincount(rows.user, ~rows.tied, minlength=rows.users) == 1) & (counts > 1)
    begins = np.flatnonzero(rows.new)
    yield rows.finding(
        *("one-moment-users", "stated", begins[one_moment[rows.user[begins]]], int(sampled.sum()), "users"),
        text="users gave all their ratings at one timestamp: their histories have no order in time",
        clean="no user gave all ratings at one timestamp",
    )
