"""Confounding: whether a variable without information about taste predicts the label, as in a log sorted by label.

Examples are a log of likes with dislikes appended, one crawl of fans and another of critics, or negatives that were
sampled later: the time, the place in the file or the user's number then predicts the label. The check cuts each of
these variables into ten blocks of samples and uses a block's share of likes as a score. It takes the share from one
half of the users and measures it on the other, in both directions. Without such a defect the AUC of the score is about
0.5, however generous users are and however few of them a block has.

`BLOCK_LIMIT`: the mean of a user's ratings, a strong single predictor, has an AUC of about 0.7 on MovieLens's small
data sets. If a block predicts better than that with 95 % confidence, the collection of the data explains the label.

`USER_LIMIT`: a user's share of likes in training also has an AUC of about 0.7 on test rows. If it is near 1, each user
has one answer, and a model can learn nothing about items.
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
"""Minimum number of users; with fewer the intervals are unreliable, and the check makes no finding."""


def confounding(rows: TimelineRows) -> Iterator[Finding]:
    """Findings on predictors of the label: time, place within the user, the users' order, and the user."""
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
    """The tenth of the samples by time, (samples,) int64; samples of one timestamp share a block."""
    time = rows.time[rows.samples.position]
    ordered = np.sort(time)
    return np.searchsorted(ordered[np.arange(1, BLOCKS) * time.size // BLOCKS], time, side="right")


def _place_blocks(rows: TimelineRows) -> Longs:
    """The tenth of its user's samples by time, (samples,) int64; samples of one timestamp share their middle place."""
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
    """The tenth of the samples by user id, (samples,) int64; a user's samples share a block."""
    user = rows.user[rows.samples.position]
    counts = np.bincount(user, minlength=rows.users)
    return (((np.cumsum(counts) - counts) * BLOCKS) // max(1, user.size))[user]


def _finding(label: Flags, check: str, what: str, block: Longs, user: Longs, half: Longs) -> Finding:
    """The finding for one kind of block; `label`, `block` and `user` are (samples,), `half` is (users,)."""
    found = _block_auc(block, label, user, half)
    if found is None:
        return Finding(
            *(check, "clean", 0, label.size, "samples"),
            f"not looked at: expected both answers, of at least {FEWEST_USERS} users",
        )
    counts, likes = np.bincount(block), np.bincount(block, label)
    rates = likes[counts > 0] / counts[counts > 0]
    fatal = found.low > BLOCK_LIMIT
    text = (
        f"{what} tells the answer with an AUC of {_auc(found)}; {percent(float(rates.min()))} to "
        f"{percent(float(rates.max()))} of a tenth are liked"
    )
    if fatal:
        text += ": the label comes from how the data were made, and taste is not needed to know it"
    return Finding(
        check, "fatal" if fatal else "clean", label.size if fatal else 0, label.size, "samples", text, auc=found
    )


def _block_auc(block: Longs, label: Flags, user: Longs, half: Longs) -> Auc | None:
    """The AUC of this score: a block's share of likes in the other half of the users, minus that half's share."""
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
    """Two similar halves of the users, (users,) int64: alternate users in order of first time, samples and likes.

    The order does not use ids, so other ids give the same halves.
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
    """Whether a user's share of likes in training predicts the labels in test."""
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
    text = f"a user's share of likes in training tells the answers in test with an AUC of {_auc(found)}"
    if fatal:
        text += ": users have one answer each, and what they rate does not matter"
    return Finding(
        *(
            "label-by-user",
            "fatal" if fatal else "clean",
            rows_tested if fatal else 0,
            rows_tested,
            "test rows",
            text,
        ),
        auc=found,
    )


def _counts(number: Longs, label: Flags, groups: int = 0) -> tuple[Floats, Floats]:
    """The likes and the samples of each group, given each sample's group as a number; both (groups,) float64."""
    likes = np.bincount(number, label, groups).astype(np.float64)
    return likes, np.bincount(number, minlength=groups).astype(np.float64)


def _auc(found: Auc) -> str:
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"
