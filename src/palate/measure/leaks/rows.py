"""`TimelineRows`: the columns of a timeline that the checks of the audit read."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate.measure.leaks.findings import Finding, FindingRow, Severity
from palate.samples.build import Samples

Flags = NDArray[np.bool_]
Longs = NDArray[np.int64]

WARMUP, TRAIN, VAL, TEST, UNUSED = range(5)
"""The roles of `palate.samples.build.ROLES`, as their numbers."""


@dataclass(frozen=True)
class TimelineRows:
    """The rows of samples' timeline; `rows_of` creates it.

    `user` and `item` (rows,) int64 are numbers from 0 in the order of the ids; `time` (rows,) int64, `role` (rows,)
    uint8. `new` (rows,) is True at the first row of each user.
    """

    samples: Samples
    user: Longs
    item: Longs
    time: Longs
    role: NDArray[np.uint8]
    new: Flags

    @cached_property
    def users(self) -> int:
        """Number of users."""
        return int(self.user.max(initial=-1)) + 1

    @cached_property
    def tied(self) -> Flags:
        """(rows,): whether a row has the user and time of the row before."""
        tied = np.zeros(self.time.size, bool)
        np.equal(self.time[1:], self.time[:-1], out=tied[1:])
        return tied & ~self.new

    def first_of(self, role: int) -> Longs:
        """Each user's first row of a role, in timeline order."""
        rows = np.flatnonzero(self.role == role)
        return rows[np.unique(self.samples.first[rows], return_index=True)[1]]

    def finding(
        self,
        check: str,
        severity: Severity,
        hits: Longs,
        of: int,
        unit: str,
        *,
        text: str,
        clean: str,
        other: Longs | None = None,
    ) -> Finding:
        """The finding of a check: rows `hits` out of `of`, with the sentence `text` if there are hits, else `clean`.

        The example is the earliest hit; `other` (hits,) is a second relevant time of each hit.
        """
        if not hits.size:
            return Finding(check, "clean", 0, of, unit, clean)
        at = int(np.argmin(self.time[hits]))
        user, item, time = self.samples.timeline.select("user_id", "item_id", "timestamp").row(int(hits[at]))
        times = (time,) if other is None else (time, int(other[at]))
        return Finding(check, severity, hits.size, of, unit, text, FindingRow(user, item, times))


def rows_of(samples: Samples) -> TimelineRows:
    """The columns of the samples' timeline."""
    timeline = samples.timeline
    user = _numbers(timeline["user_id"])
    new = samples.first == np.arange(user.size)
    role = timeline["split"].to_physical().to_numpy()
    return TimelineRows(
        samples, user, _numbers(timeline["item_id"]), timeline["timestamp"].to_numpy(), role.astype(np.uint8), new
    )


def _numbers(ids: pl.Series) -> NDArray[Any]:
    """Ids as numbers from 0, in the ids' order, (rows,) int64."""
    return ids.rank("dense").to_numpy().astype(np.int64) - 1
