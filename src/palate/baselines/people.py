"""`BaselineData` of a few users: their rows alone, with the statistics of the whole log.

A baseline's features of a query read the statistics, and the rows of the query's user. So data of these rows give the
same predictions as data of the whole log that these users' ratings were appended to, in the time that a few rows take.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from palate.baselines.statistics import BaselineData
from palate.samples.build import Samples
from palate.samples.people import Longs, Person


def about(log: BaselineData, people: Sequence[Person]) -> tuple[BaselineData, Longs]:
    """The data of these users, and the anchor of each one's questions: the row after their last rating, (people,).

    A question is asked after all ratings of the log and of the person. `log` computes its statistics at the first call
    that needs them.
    """
    time_of_log = log.samples.timeline["timestamp"].to_numpy()
    end = log.latest + 1
    strangers = int(log.user[-1]) + 1
    sizes = np.array([len(person) for person in people])
    last = np.cumsum(sizes + 1) - 1
    rows = np.full(int(last[-1]) + 1, -1)
    item, rating, time = np.zeros(rows.size, np.int64), np.zeros(rows.size), np.full(rows.size, end)
    user, fold = np.full(rows.size, strangers), np.zeros(rows.size, np.int64)
    first = np.repeat(last - sizes, sizes + 1)
    for begin, person in zip((last - sizes).tolist(), people, strict=True):
        places = person.places
        rows[begin : begin + len(person)] = np.maximum(places, -1)
        own = slice(begin, begin + len(person) + 1)
        if person.rows.size:
            user[own], fold[own] = log.user[person.rows[0]], log.fold[person.rows[0]]
        for at in (begin + np.flatnonzero(places < 0)).tolist():
            new = person.newer[-1 - int(places[at - begin])]
            item[at], rating[at], time[at] = new.item, new.rating, end if new.time is None else new.time
        time[own.stop - 1] = max(end, int(time[own].max()))
    old = np.flatnonzero(rows >= 0)
    of = rows[old]
    item[old], rating[old], time[old] = log.item[of], log.rating[of], time_of_log[of]
    allowed, unused = np.zeros(rows.size, bool), np.ones(rows.size, bool)
    allowed[old], unused[old] = log.allowed[of], log.unused[of]
    rating[last] = log.rating[0]  # of no meaning, as those of other questions
    none = np.empty(0, np.int64)
    samples = Samples(
        pl.DataFrame({"timestamp": time}), log.samples.items, none, none.astype(np.uint8), log.samples.threshold,
        log.samples.history_len,
    )  # fmt: skip
    small = replace(
        log, samples=samples, user=user, first=first, item=item, rating=rating, liked=rating >= samples.threshold,
        allowed=allowed, unused=unused, fold=fold, log=log, log_row=rows, features={}, linear={}, views={}, sums={},
    )  # fmt: skip
    return small, last
