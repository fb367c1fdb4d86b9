"""A model corrected by its own errors about the user's earlier ratings.

    logit = z₀ + f,   f the mean of a Gaussian process on the errors y − σ(z₀) of the user's past

z₀ is the model's logit. What its features miss about a user is left in its errors, and some of it lasts: a mood, a
decade, a kind of film. The covariance of two errors is a sum: similar text, if there are vectors; common genres; close
years; few ratings between them; and the product of both z₀, a slope. `palate.baselines.error_scans` has its constants,
which were chosen by the log loss of training and validation rows of ml-latest-small.

The error of a training sample is that of a fit on other users: a fit's own samples look better explained than they are.
All other errors are those of the fit itself, computed when a user is first asked about.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from palate.baselines.platt import Fit, State, Statistic, fit_scale
from palate.baselines.statistics import PARTS, BaselineData, Floats
from palate.baselines.strongest import in_halves
from palate.samples.queries import Queries

APART = "apart"
"""The state's name of the training samples' logits by fits on other users."""
FIRST = "first scale"
"""The state's name of the scale of z₀."""


def corrected(fit: Fit, score: Statistic) -> tuple[Fit, Statistic]:
    """A model, corrected by its own errors; `fit` and `score` are those of the model alone."""

    def fit_both(data: BaselineData) -> State | None:
        state = _scaled_fit(fit, score, data)
        if state is None:
            return None
        if data.without is not None:  # a fit on other users already: what it learned only sets the scale
            return state | {APART: _logits(score, data, state)(data.fitted_queries).astype(np.float32)}
        return state | {APART: _cross_fitted(fit, score, data, state)}

    def score_both(data: BaselineData, state: State) -> Callable[[Queries], Floats]:
        corrector = Corrector(data, _logits(score, data, state))
        learned = data.fitted_queries
        rows = np.arange(len(data.rating)) if data.log_row is None else data.log_row
        at = np.minimum(np.searchsorted(learned.anchor, rows), len(learned) - 1)  # a like precedes its negatives
        corrector.known[:] = (learned.anchor[at] == rows) & (learned.item[at] == data.item)
        corrector.logit[corrector.known] = state[APART][at[corrector.known]]
        return corrector.score

    return fit_both, score_both


@dataclass
class Corrector:
    """Corrects the logits of `model`, and keeps those of the users' past ratings once they are computed."""

    data: BaselineData
    model: Callable[[Queries], Floats]
    logit: NDArray[np.float32] = field(init=False)
    """(rows,): z₀ of each rating of the timeline, where it is `known`."""
    known: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        self.logit = np.zeros(len(self.data.rating), np.float32)
        self.known = np.zeros(len(self.data.rating), bool)

    def score(self, queries: Queries) -> Floats:
        """The corrected logits of n queries, (n,)."""
        data = self.data
        own = self.known[queries.anchor] & (data.item[queries.anchor] == queries.item)
        z = np.where(own, self.logit[queries.anchor], np.float32(0))
        z[~own] = self.model(queries.take(np.flatnonzero(~own)))  # rounded, as those that are kept
        self._look_back(queries.anchor)
        return z + self._errors(queries, z)

    def _look_back(self, anchor: NDArray[np.int64]) -> None:
        """Compute the logits of all ratings before the anchors that are not known."""
        ends = np.unique(anchor)
        asked = np.zeros(len(self.known), np.int64)
        np.add.at(asked, self.data.first[ends], 1)
        np.add.at(asked, ends, -1)
        rows = np.flatnonzero((np.cumsum(asked) > 0) & ~self.known)
        if rows.size:
            self.logit[rows] = self.model(Queries(rows, self.data.item[rows]))
            self.known[rows] = True

    def _errors(self, queries: Queries, z: NDArray[np.float32]) -> Floats:
        from palate.baselines.error_scans import MOST, ErrorLog, ErrorQueries, ItemContent, expected_errors

        data, content = self.data, self.data.content
        items = len(data.samples.items)
        year = np.full(items, np.nan) if content.year is None else content.year
        vectors = np.empty((items, 0), np.float32) if data.vectors is None else data.vectors.centred
        about = ItemContent(vectors, content.genres, year.astype(np.float32))
        log = ErrorLog(data.first, data.item, data.liked, np.clip(self.logit, -MOST, MOST))
        logit = np.clip(z, -MOST, MOST)

        def part(order: NDArray[np.int64]) -> Floats:
            found: Floats = expected_errors(ErrorQueries(queries.anchor, queries.item, logit, order), log, about)
            return found

        return in_halves(queries, part)


def _scaled_fit(fit: Fit, score: Statistic, data: BaselineData) -> State | None:
    """The model's state with the scale of its logit."""
    state = fit(data)
    if state is None:
        return None
    found = fit_scale(data, score(data, state))
    return state | {FIRST: found["scale"]} if "scale" in found else None


def _logits(score: Statistic, data: BaselineData, state: State) -> Callable[[Queries], Floats]:
    statistic, (slope, intercept) = score(data, state), state[FIRST]
    return lambda queries: slope * statistic(queries) + intercept if len(queries) else np.empty(0)


def _cross_fitted(fit: Fit, score: Statistic, data: BaselineData, whole: State) -> NDArray[np.float32]:
    """Logits of the training samples by fits on other users, in `PARTS` parts, float32 (n,).

    A single fit replaces the mean of several: its noise is far below that of an answer.
    """
    queries, _ = data.drawn("train")
    logit = np.empty(len(queries), np.float32)
    for part in range(PARTS):
        others = replace(data.leaving_out(part, apart=False), fits=1)
        rows = np.setdiff1d(np.arange(len(queries)), others.learned(queries))
        if rows.size:
            state = _scaled_fit(fit, score, others)
            used = (data, whole) if state is None else (others, state)  # the other users may have one class only
            logit[rows] = _logits(score, *used)(queries.take(rows))
    return logit
