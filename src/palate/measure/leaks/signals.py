"""Signals: whether a candidate's fields change with the answers that they must not know."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import polars as pl

from palate.baselines.registry import RANKERS
from palate.baselines.signals import SignalSource, estimate_state, source_of
from palate.baselines.statistics import BaselineData
from palate.measure.leaks.findings import Finding
from palate.measure.leaks.rows import TEST, Flags, Longs, TimelineRows
from palate.prompt.spec import PromptSpec
from palate.samples.build import Samples
from palate.samples.queries import Queries, candidate_rows

FOLD = 0
"""The fold of users whose answers the check changes; fits for training rows leave out its part."""


def own_answers(rows: TimelineRows, prompt: PromptSpec, known: Callable[[Samples], BaselineData]) -> Finding:
    """Whether the signals of some rows change if the user's answers from that row on are changed.

    Of each user of a tenth the check takes one random training sample and the first test sample. It replaces each
    rating of the user from that row on by the opposite one, and computes the signals again: for the training rows all
    later ratings, for the test rows those of the split.
    """
    samples = rows.samples
    mine = known(samples).fold == FOLD
    wrong, looked = [], 0
    for split in ("train", "test"):
        index = samples.of(split)
        index = index[mine[samples.position[index]]]
        if split == "train":
            index = np.random.default_rng(0).permutation(index)
        index = np.sort(index[np.unique(rows.user[samples.position[index]], return_index=True)[1]])
        position = samples.position[index]
        cut = np.full(rows.users, rows.role.size)
        cut[rows.user[position]] = position
        changed = np.arange(rows.role.size) >= cut[rows.user]
        if split == "test":
            changed &= rows.role == TEST
        data, item = known(_opposite(samples, changed)), candidate_rows(samples, index)
        again = _computed(data, prompt, position, item, training=split == "train")
        wrong.append(position[_differ(again, samples.signals, index)])
        looked += index.size
    fields = " and ".join(f"{{{name}}}" for name in prompt.signal_fields)
    return rows.finding(
        *("candidate-signals", "fatal", np.concatenate(wrong), looked, "rows looked at"),
        text=f"{fields} change with the user's own or later answers, or are not those of the data",
        clean=f"{fields} do not change with the user's own or later answers",
    )


def _opposite(samples: Samples, where: Flags) -> Samples:
    """The samples with ratings mirrored in the middle of the scale in some rows; the opposite of a like is 0."""
    rating = samples.timeline["rating"].to_numpy()
    low = rating.min() if samples.likes is None else 0.0
    mirrored = pl.Series("rating", np.where(where, low + rating.max() - rating, rating))
    return replace(samples, timeline=samples.timeline.with_columns(mirrored), context=None, signals=None)


def _computed(data: BaselineData, prompt: PromptSpec, position: Longs, item: Longs, *, training: bool) -> pl.DataFrame:
    """The signals of items at timeline rows of users of `FOLD`, as `signals_of` computes those of samples."""
    queries = Queries(position, item)
    if not training or "estimate" not in prompt.signals:
        state = None if training else estimate_state(data, prompt)
        return source_of(data, prompt, state).of(queries)
    baseline, others = RANKERS[prompt.estimate], data.leaving_out(FOLD, apart=True)
    return SignalSource(data, prompt.signals, baseline.predictor(others, baseline.fitted(others))).of(queries)


def _differ(again: pl.DataFrame, kept: pl.DataFrame | None, index: Longs) -> Flags:
    """Whether any signal of each sample differs, (n,)."""
    found = np.zeros(index.size, bool)
    if kept is not None:
        for name in again.columns:
            found |= again[name].to_numpy() != kept[name].to_numpy()[index]
    return found
