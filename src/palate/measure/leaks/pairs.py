"""Pairs of user and item: repeated pairs, and test users and items without training rows."""

from collections.abc import Iterator

import numpy as np

from palate.measure.leaks.findings import Finding, share
from palate.measure.leaks.order import LEARNED
from palate.measure.leaks.rows import TEST, TRAIN, VAL, Longs, TimelineRows


def pairs(rows: TimelineRows, split: str) -> Iterator[Finding]:
    """Findings on repeated pairs, and on users and items without training rows; under cold-items also on items with."""
    again, before = _repeated(rows)
    yield from _both_sides(rows, again, before)
    yield _shown(rows, again, before)
    yield _duplicates(rows, again, before)
    yield from _unseen(rows)
    if split == "cold-items":
        yield _known(rows)


def _repeated(rows: TimelineRows) -> tuple[Longs, Longs]:
    """The rows that repeat an earlier pair, and the latest earlier row of each; both (repeats,) int64."""
    key = rows.user * (int(rows.item.max(initial=0)) + 1) + rows.item
    ordered = np.sort(key)
    twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not twice.size:
        return twice, twice
    some = np.flatnonzero(np.isin(key, twice))
    some = some[np.argsort(key[some], kind="stable")]
    same = key[some[1:]] == key[some[:-1]]
    return some[1:][same], some[:-1][same]


def _both_sides(rows: TimelineRows, again: Longs, before: Longs) -> Iterator[Finding]:
    """Held-out rows whose pair is also in training, or, for test rows, in validation."""
    held_out = int(((rows.role == VAL) | (rows.role == TEST)).sum())
    # A pair may have more than two rows: check the roles of all rows of a pair together.
    some = np.union1d(again, before)
    pair = rows.user[some] * (int(rows.item.max(initial=0)) + 1) + rows.item[some]
    number = np.unique(pair, return_inverse=True)[1]
    role = rows.role[some]
    learned, tuned = (np.bincount(number, on) > 0 for on in (role <= TRAIN, role == VAL))
    hit = ((role == TEST) & (learned | tuned)[number]) | ((role == VAL) & learned[number])
    yield rows.finding(
        *("pair-on-both-sides", "fatal", some[hit], held_out, "held-out rows"),
        text="users are asked about items that they have rated on the other side of the split too: "
        "the answer has been learned",
        clean="no user and item are on both sides of the split",
    )


def _shown(rows: TimelineRows, again: Longs, before: Longs) -> Finding:
    """Samples whose history contains the candidate."""
    position = rows.samples.position
    shown = np.zeros(rows.role.size, np.int64)
    shown[position] = rows.samples.histories
    hit = again - before <= shown[again]
    return rows.finding(
        *("candidate-in-history", "fatal", again[hit], position.size, "samples"),
        text="samples show the item that they ask about in their history, and how it was rated",
        clean="no history shows the item that is asked about",
        other=rows.time[before[hit]],
    )


def _duplicates(rows: TimelineRows, again: Longs, before: Longs) -> Finding:
    """Rows with the same user, item and time as another row."""
    return rows.finding(
        *("duplicate-rows", "stated", again[rows.time[again] == rows.time[before]], rows.role.size, "rows"),
        text="rows have user, item and time of another row: they count twice in all that is learned and measured",
        clean="no row is there twice",
    )


def _unseen(rows: TimelineRows) -> Iterator[Finding]:
    """Test rows of users without a training row, and of items without a training or warm-up row."""
    test = np.flatnonzero(rows.role == TEST)
    for name, ids, roles, known in (
        ("user", rows.user, rows.role == TRAIN, "training row"),
        ("item", rows.item, rows.role <= TRAIN, "training or warm-up row"),
    ):
        seen = np.zeros(int(ids.max(initial=-1)) + 1, bool)
        seen[ids[roles]] = True
        new = test[~seen[ids[test]]]
        yield rows.finding(
            *(f"unseen-{name}s", "stated", new, test.size, "test rows"),
            text=f"{share(new.size, test.size)} of the test rows are of {np.unique(ids[new]).size:,} {name}s without a "
            f"{known}",
            clean=f"every {name} of a test row has a {known}",
        )


def _known(rows: TimelineRows) -> Finding:
    """Under cold-items: training and warm-up rows, and rows of their histories, that have the item of a test row."""
    cold = np.zeros(int(rows.item.max(initial=-1)) + 1, bool)
    cold[rows.item[rows.role == TEST]] = True
    shown = np.zeros(rows.role.size + 1, np.int64)
    learned = rows.samples.position[rows.samples.split == TRAIN - 1]
    np.add.at(shown, learned - rows.samples.history_len, 1)
    np.add.at(shown, learned + 1, -1)
    seen = (np.cumsum(shown)[:-1] > 0) | (rows.role <= TRAIN)
    return rows.finding(
        *("known-cold-items", "fatal", np.flatnonzero(seen & cold[rows.item]), int(seen.sum()), LEARNED),
        text="rows that are learned from, or in a history of these, have the item of a test row, though the split "
        "promises items that nothing is learned from",
        clean="nothing is learned from an item of a test row",
    )
