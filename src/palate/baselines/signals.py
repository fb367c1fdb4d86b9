"""Compute the signals of `palate.samples.signals`: the fields of a prompt that depend on user, candidate and time.

    estimate        P(like) by a baseline (`prompt.estimate`)
    neighbour       the item of the greatest positive similarity (`scans.similar_items`) that the user liked before
    neighbour_mean  (s + 5 m) / (n + 5): n and s are the number and the sum of the candidate's ratings by users who
                    liked that item (0 without one), m is the candidate's mean
    user_deviation  Σ (rating − item mean) / (n + 2) over the user's n earlier ratings
    item_deviation  the candidate's mean less the mean of all ratings
    user            the user's row in the table of users

A plain fit would leak: the answer of a training sample is one of the ratings that its own statistics are made of, and
one of the samples that its baseline learned by heart; the answer of a test sample is neither. A model trained on
such a field would trust it more than it deserves. So all statistics here are of the training ratings of users outside
the fold of the query's user, for training and test rows alike, and `estimate` of a training row comes from a fit that
reads nothing of its user's part (`cross_fitted` with `apart`). Of the query's own user all read the ratings before the
query alone. For validation and test rows, and for questions, `estimate` comes from the fit on all training samples.
Two numbers of it (the Platt scale) and the number of LightGBM's trees are chosen on validation, so a validation row's
answer is one of many that decide these; a test row's answer is part of nothing.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate.baselines.features import item_mean, past_residual
from palate.baselines.kept import Kept
from palate.baselines.platt import Predict, State
from palate.baselines.registry import RANKERS, TEACHERS, cross_fitted, fit_one
from palate.baselines.statistics import BaselineData, Floats
from palate.errors import InputError
from palate.prompt.spec import PromptSpec
from palate.samples.context import WEIGHT, shrunk
from palate.samples.queries import Queries, RowNumbers, candidate_rows
from palate.samples.split import TRAIN

CHUNK = 200_000
"""Queries per chunk; affects memory, not results."""


@dataclass(frozen=True)
class SignalSource:
    """Computes the signals that a prompt names, of any queries of `data`.

    `estimate` predicts P(like); None if the prompt does not name it.
    """

    data: BaselineData
    fields: tuple[str, ...]
    estimate: Predict | None = None

    def of(self, queries: Queries, p: Floats | None = None) -> pl.DataFrame:
        """The signals of n queries; `p` (n,) replaces P(like) of `estimate`."""
        if p is None and self.estimate is not None:
            p = self.estimate(queries)
        chunks = []
        for begin in range(0, max(len(queries), 1), CHUNK):
            window = slice(begin, begin + CHUNK)
            chunks.append(self._columns(queries.take(window), None if p is None else p[window]))
        return pl.DataFrame({name: np.concatenate([chunk[name] for chunk in chunks]) for name in self.fields})

    def _columns(self, queries: Queries, p: Floats | None) -> dict[str, NDArray[np.float64] | RowNumbers]:
        data, columns = self.data, dict[str, NDArray[np.float64] | RowNumbers]()
        if p is not None:
            columns["estimate"] = _rounded(p, 100)
        if {"neighbour", "neighbour_mean"} & set(self.fields):
            columns["neighbour"] = nearest = _nearest_liked(data, queries)
            columns["neighbour_mean"] = _rounded(self._mean_among(queries, nearest), 10)
        if "user_deviation" in self.fields:
            columns["user_deviation"] = _rounded(past_residual(data, queries), 10)
        if "item_deviation" in self.fields:
            overall = _overall_mean(data)[data.fold[queries.anchor]]
            columns["item_deviation"] = _rounded(item_mean(data, queries) - overall, 10)
        if "user" in self.fields:
            columns["user"] = data.user_rows[np.minimum(data.user[queries.anchor], data.user_rows.size - 1)]
        return columns

    def _mean_among(self, queries: Queries, nearest: RowNumbers) -> Floats:
        """The mean rating of the candidates by users who liked the items `nearest`, shrunk to the candidates' means."""
        from palate.baselines.scans import ratings_among

        data, found = self.data, np.flatnonzero(nearest >= 0)
        count, total = np.zeros((2, len(queries)))
        of = np.column_stack([data.fold[queries.anchor[found]], nearest[found], queries.item[found]])
        distinct, place = np.unique(of, axis=0, return_inverse=True)
        count[found], total[found] = ratings_among(*distinct.T.copy(), *data.ratings_by_item)[place.reshape(-1)].T
        return shrunk(total, count, item_mean(data, queries))


def signals_of(data: BaselineData, prompt: PromptSpec) -> pl.DataFrame:
    """The signals that a prompt names, of every sample, in order.

    The format is that of `palate.samples.signals.FILE`. Raises `InputError` as `estimate_state` does.
    """
    source = source_of(data, prompt, estimate_state(data, prompt))
    samples = data.samples
    queries = Queries(samples.position, candidate_rows(samples))
    if source.estimate is None:
        return source.of(queries)
    p = np.empty(len(queries))
    training = samples.split == TRAIN
    p[training] = cross_fitted(RANKERS[prompt.estimate], data, apart=True)
    p[~training] = source.estimate(queries.take(np.flatnonzero(~training)))
    return source.of(queries, p)


def signals_in_training(data: BaselineData, prompt: PromptSpec, queries: Queries) -> pl.DataFrame:
    """The signals of queries at the rows of training samples, as these have them; format and errors of `signals_of`."""
    p = None
    if "estimate" in prompt.signals:
        p = cross_fitted(RANKERS[_checked(data, prompt.estimate)], data, apart=True, queries=queries)
    return SignalSource(data, prompt.signals).of(queries, p)


def estimate_state(data: BaselineData, prompt: PromptSpec, kept: Kept | None = None) -> State | None:
    """The fit of the baseline of `estimate` on all training samples, from `kept` if it has it; None if none is named.

    Raises `InputError` for an unknown baseline, one that needs vectors of the items' text, and one whose package is not
    installed.
    """
    if "estimate" not in prompt.signals:
        return None
    return fit_one(RANKERS[_checked(data, prompt.estimate)], data, kept)


def source_of(data: BaselineData, prompt: PromptSpec, state: State | None) -> SignalSource:
    """Computes the signals that a prompt names, with the fit of `estimate_state`."""
    estimate = None if state is None else RANKERS[prompt.estimate].predictor(data, state)
    return SignalSource(data, prompt.signals, estimate)


def _checked(data: BaselineData, key: str) -> str:
    """The key of a baseline that can estimate; raises `InputError` for others."""
    if key not in TEACHERS:
        raise InputError(f"{key!r}, expected one of {', '.join(TEACHERS)}", "prompt.estimate")
    baseline = RANKERS[key]
    if baseline.lacks_package:
        raise InputError(f"{key} needs {baseline.needs}: pip install 'palate[train]'", "prompt.estimate")
    if baseline.reads_text and data.vectors is None:
        raise InputError(f"{key} reads the items' text, expected text.encoder, such as minilm", "prompt.estimate")
    return key


def _nearest_liked(data: BaselineData, queries: Queries) -> RowNumbers:
    from palate.baselines.scans import nearest_liked

    order = np.argsort(queries.anchor, kind="stable")
    found: RowNumbers = nearest_liked(
        queries.anchor, queries.item, order, data.fold[queries.anchor], data.first, data.item, data.liked,
        *data.neighbours,
    )  # fmt: skip
    return found


def _overall_mean(data: BaselineData) -> Floats:
    """The mean training rating of the users outside each fold, (folds,): that to which the items' means are shrunk.

    It solves Σ (n + 5) · mean = Σ s + 5 · items · overall over the items, with Σ s = overall · Σ n.
    """
    count, mean = data.items.ratings, data.items.mean
    overall: Floats = ((count + WEIGHT) * mean).sum(axis=1) / (count + WEIGHT).sum(axis=1)
    return overall


def _rounded(values: Floats, parts: int) -> Floats:
    """Values rounded to fractions of one, without a negative zero."""
    rounded: Floats = np.rint(values * parts) / parts + 0.0
    return rounded
