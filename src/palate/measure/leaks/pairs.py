"""Pairs: a user and an item that meet more than once, and users and items that meet for the first time."""

from collections.abc import Iterator

import numpy as np

from palate.measure.leaks.findings import Finding, share
from palate.measure.leaks.rows import TEST, TRAIN, VAL, Longs, TimelineRows


def pairs(rows: TimelineRows) -> Iterator[Finding]:
    """The findings about who rates what again, and about users and items that training has not seen."""
    again, before = _repeated(rows)
    yield from _both_sides(rows, again, before)
    yield _shown(rows, again, before)
    yield _duplicates(rows, again, before)
    yield from _unseen(rows)


def _repeated(rows: TimelineRows) -> tuple[Longs, Longs]:
    """The rows whose user has rated the item on a row before, and the last such row of each; both (repeats,) int64."""
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
    """Test and validation rows whose pair is also learned from, or, of test rows, tuned on."""
    held_out = int(((rows.role == VAL) | (rows.role == TEST)).sum())
    # Repeats come as chains of rows of one pair; the sides that a chain touches are looked at as a whole.
    some = np.union1d(again, before)
    pair = rows.user[some] * (int(rows.item.max(initial=0)) + 1) + rows.item[some]
    number = np.unique(pair, return_inverse=True)[1]
    role = rows.role[some]
    learned, tuned = (np.bincount(number, on) > 0 for on in (role <= TRAIN, role == VAL))
    hit = ((role == TEST) & (learned | tuned)[number]) | ((role == VAL) & learned[number])
    yield rows.finding(
        *("pair-on-both-sides", "fatal", some[hit], held_out, "held-out rows"),
        told="users are asked about items that they have rated on the other side of the split too: "
        "the answer has been learned",
        clean="no user and item are on both sides of the split",
    )


def _shown(rows: TimelineRows, again: Longs, before: Longs) -> Finding:
    """Samples whose history shows the item that is asked about."""
    position = rows.samples.position
    shown = np.zeros(rows.role.size, np.int64)
    shown[position] = rows.samples.histories
    hit = again - before <= shown[again]
    return rows.finding(
        *("candidate-in-history", "fatal", again[hit], position.size, "samples"),
        told="samples show the item that they ask about in their history, and how it was rated",
        clean="no history shows the item that is asked about",
        other=rows.time[before[hit]],
    )


def _duplicates(rows: TimelineRows, again: Longs, before: Longs) -> Finding:
    """Rows of a user, an item and a time that another row has."""
    return rows.finding(
        *("duplicate-rows", "stated", again[rows.time[again] == rows.time[before]], rows.role.size, "rows"),
        told="rows have user, item and time of another row: they count twice in all that is learned and measured",
        clean="no row is there twice",
    )


def _unseen(rows: TimelineRows) -> Iterator[Finding]:
    """Test rows of users without a training row, and of items without a rating that is learned from."""
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
            told=f"{share(new.size, test.size)} of the test rows are of {np.unique(ids[new]).size:,} {name}s without a "
            f"{known}",
            clean=f"every {name} of a test row has a {known}",
        )
