"""Confounding: whether something that says nothing about taste tells the label, as in a log that is sorted by it.

A log of likes with dislikes appended behind them, one crawl of fans and another of critics, negatives that were drawn
afterwards: such data are answered by knowing the time, the place in the file or the user's number. Each of these is
cut into ten blocks of samples, and a block's share of likes is taken as a score. It is taken from one half of the
users and measured on the other, both ways round: on data without such a defect the AUC of that score is about 0.5,
however much users differ in generosity, and however few of them a block has.

`BLOCK_LIMIT`: the mean of a user's ratings, a strong score for one number, has an AUC of about 0.7 on MovieLens's small
data sets. A block that tells more than who the user is, with 95 % confidence, comes from how the data were made.

`USER_LIMIT`: a user's own share of likes in training tells about 0.7 on test rows, too. Where it tells nearly all,
users have one answer each, and nothing about items can be learned or measured.
"""

from collections.abc import Iterator

import numpy as np

from palate.measure.figures import percent
from palate.measure.leaks.clustered import Auc, Floats, clustered_auc
from palate.measure.leaks.findings import Finding
from palate.measure.leaks.rows import TEST, TRAIN, Flags, Longs, TimelineRows

BLOCKS = 10
BLOCK_LIMIT = 0.7
USER_LIMIT = 0.95
FEWEST_USERS = 20
"""With fewer users the intervals are too narrow to stop a run for; no finding is made then."""


def confounding(rows: TimelineRows) -> Iterator[Finding]:
    """The findings about what tells the label: time, place within the user, the users' order, and the user alone."""
    position = rows.samples.position
    user, half = rows.user[position], _halves(rows)
    for check, what, block in (
        ("label-by-time", "the tenth of all samples, by time,", _time_blocks(rows)),
        ("label-by-place", "the tenth of its user's samples, by time,", _place_blocks(rows)),
        ("label-by-user-order", "the tenth of all samples, by user id,", _user_blocks(rows)),
    ):
        yield _finding(rows.samples.label, check, what, block, user, half)
    yield _by_user(rows)


def _time_blocks(rows: TimelineRows) -> Longs:
    """The tenth of the samples in order of time, (samples,) int64; a moment is in one block."""
    time = rows.time[rows.samples.position]
    ordered = np.sort(time)
    return np.searchsorted(ordered[np.arange(1, BLOCKS) * time.size // BLOCKS], time, side="right")


def _place_blocks(rows: TimelineRows) -> Longs:
    """The tenth of its user's samples that each is in, (samples,) int64; those of a moment share their middle place."""
    position = rows.samples.position
    user = rows.user[position]
    order = np.lexsort((rows.time[position], user))
    user, time = user[order], rows.time[position][order]
    new_user = np.append(True, user[1:] != user[:-1])
    new_moment = new_user | np.append(True, time[1:] != time[:-1])
    moments, users = np.flatnonzero(new_moment), np.flatnonzero(new_user)
    moment, of_user = np.cumsum(new_moment) - 1, np.cumsum(new_user) - 1
    middle = moments + np.append(moments[1:], user.size)
    count = np.diff(np.append(users, user.size))
    block = np.empty(user.size, np.int64)
    block[order] = (middle[moment] - 2 * users[of_user]) * BLOCKS // (2 * count[of_user])
    return np.minimum(block, BLOCKS - 1)


def _user_blocks(rows: TimelineRows) -> Longs:
    """The tenth of the samples in order of the users' ids, (samples,) int64; a user is in one block."""
    user = rows.user[rows.samples.position]
    counts = np.bincount(user, minlength=rows.users)
    return (((np.cumsum(counts) - counts) * BLOCKS) // max(1, user.size))[user]


def _finding(label: Flags, check: str, what: str, block: Longs, user: Longs, half: Longs) -> Finding:
    """What one kind of block tells of the label; `label`, `block` and `user` are (samples,), `half` is (users,)."""
    found = _told_by(block, label, user, half)
    if found is None:
        return Finding(
            *(check, "clean", 0, label.size, "samples"),
            f"not looked at: expected both answers, of at least {FEWEST_USERS} users",
        )
    counts, likes = np.bincount(block), np.bincount(block, label)
    rates = likes[counts > 0] / counts[counts > 0]
    fatal = found.low > BLOCK_LIMIT
    told = (
        f"{what} tells the answer with an AUC of {_auc(found)}; {percent(float(rates.min()))} to "
        f"{percent(float(rates.max()))} of a tenth are liked"
    )
    if fatal:
        told += ": the label comes from how the data were made, and taste is not needed to know it"
    return Finding(
        check, "fatal" if fatal else "clean", label.size if fatal else 0, label.size, "samples", told, auc=found
    )


def _told_by(block: Longs, label: Flags, user: Longs, half: Longs) -> Auc | None:
    """The AUC of a block's share of likes among the other half of the users, less that half's own share of likes."""
    if np.count_nonzero(np.bincount(user)) < FEWEST_USERS:
        return None
    yes, count = _counts(user * BLOCKS + block, label)
    cell = np.flatnonzero(count)
    yes, count, user, block = yes[cell], count[cell], cell // BLOCKS, cell % BLOCKS
    score = np.zeros(cell.size)
    for one in (0, 1):
        other = half[user] != one
        overall = yes[other].sum() / max(1.0, count[other].sum())
        likes, rated = (np.bincount(block[other], n[other], minlength=BLOCKS) for n in (yes, count))
        lift = np.where(rated > 0, likes / np.maximum(rated, 1) - overall, 0.0)
        score[~other] = lift[block[~other]]
    return clustered_auc(score, yes, count - yes, user)


def _halves(rows: TimelineRows) -> Longs:
    """Users in two halves that are alike, (users,) int64: every other one in order of first time, samples and likes.

    By what they did and not by their ids, so that other ids give the same halves.
    """
    position = rows.samples.position
    user = rows.user[position]
    first = np.full(rows.users, np.iinfo(np.int64).max)
    np.minimum.at(first, user, rows.time[position])
    counts, likes = np.bincount(user, minlength=rows.users), np.bincount(user, rows.samples.label, rows.users)
    half = np.empty(rows.users, np.int64)
    half[np.lexsort((likes, counts, first))] = np.arange(rows.users) % 2
    return half


def _by_user(rows: TimelineRows) -> Finding:
    """Whether a user's answers in training tell those in test."""
    position, label = rows.samples.position, rows.samples.label
    user, role = rows.user[position], rows.role[position]
    likes, seen = _counts(user[role == TRAIN], label[role == TRAIN], rows.users)
    yes, tested = _counts(user[role == TEST], label[role == TEST], rows.users)
    users = np.flatnonzero((seen > 0) & (tested > 0))
    found = None
    if users.size >= FEWEST_USERS:
        share, yes, no = likes[users] / seen[users], yes[users], (tested - yes)[users]
        found = clustered_auc(share, yes, no, np.arange(users.size))
    rows_tested = int((rows.role == TEST).sum())
    if found is None:
        return Finding(
            *("label-by-user", "clean", 0, rows_tested, "test rows"),
            f"not looked at: expected both answers, of at least {FEWEST_USERS} users in training and test",
        )
    fatal = found.low > USER_LIMIT
    told = f"a user's share of likes in training tells the answers in test with an AUC of {_auc(found)}"
    if fatal:
        told += ": users have one answer each, and what they rate does not matter"
    return Finding(
        *("label-by-user", "fatal" if fatal else "clean", rows_tested if fatal else 0, rows_tested, "test rows", told),
        auc=found,
    )


def _counts(number: Longs, label: Flags, groups: int = 0) -> tuple[Floats, Floats]:
    """The likes and the samples of each group, given each sample's group as a number; both (groups,) float64."""
    likes = np.bincount(number, label, groups).astype(np.float64)
    return likes, np.bincount(number, minlength=groups).astype(np.float64)


def _auc(found: Auc) -> str:
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"
