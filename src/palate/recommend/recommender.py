"""`Recommender`: choose candidates for a person, score them with a language model or a baseline, and sort them."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate.baselines.means import Means
from palate.baselines.platt import Predict
from palate.baselines.retriever import Past, Retriever
from palate.measure.calibration import sigmoid
from palate.measure.metrics import logit
from palate.samples.build import ROLES, Samples
from palate.samples.queries import Queries
from palate.score.backend import AnswerScores, OnBatch
from palate.score.prompt_writer import PromptWriter
from palate.score.scorer import Scorer

Floats = NDArray[np.float64]

CHUNK = 4096
"""Number of candidates whose prompts are in memory at once."""


@dataclass(frozen=True)
class Asker:
    """A person who wants recommendations; the timeline rows `begin` to `end` are all their ratings."""

    name: str
    begin: int
    end: int


Score = Callable[[Asker, NDArray[np.int64], OnBatch], AnswerScores]
"""Scores an asker's candidates (rows of the item table)."""


@dataclass(frozen=True)
class Candidates:
    """The choice of candidates: `number` items of a `retriever`, else the `listed` items (rows), else all items.

    It excludes items that the asker has rated unless `include_seen`.
    """

    retriever: Retriever | None = None
    number: int = 0
    listed: NDArray[np.int64] | None = None
    include_seen: bool = False

    def of(self, past: Past, items: int) -> tuple[NDArray[np.int64], int]:
        """Candidates (rows of the item table) in the order that breaks ties of scores, and the number excluded."""
        seen = np.unique(past.item[:0] if self.include_seen else past.item)
        if self.retriever is not None:
            return self.retriever.top(past, self.number, seen), seen.size
        among = np.arange(items) if self.listed is None else self.listed
        kept = among[~np.isin(among, seen)]
        return kept, among.size - kept.size


@dataclass(frozen=True)
class Recommender:
    """Ranks candidates.

    `samples` has the log, then the ratings of a guest, if any; `item` (rows,) int64 gives the item table's row for each
    row of its timeline. `score` scores candidates, and `to_p` turns logits into P(like).
    """

    score: Score
    samples: Samples
    item: NDArray[np.int64]
    means: Means
    candidates: Candidates
    to_p: Callable[[Floats], Floats]

    def past(self, asker: Asker) -> Past:
        """The ratings of an asker."""
        rows = slice(asker.begin, asker.end)
        return Past(self.item[rows], self.samples.timeline["rating"][rows].to_numpy(), self.samples.liked[rows])

    def shown(self, asker: Asker) -> int:
        """Number of ratings in the asker's prompt."""
        return min(self.samples.history_len, asker.end - asker.begin)

    def candidates_for(self, asker: Asker) -> tuple[NDArray[np.int64], int]:
        """The candidates for an asker, and the number excluded."""
        return self.candidates.of(self.past(asker), self.samples.items.height)

    def rank(
        self, asker: Asker, item: NDArray[np.int64], top_k: int, on_batch: OnBatch = lambda n: None
    ) -> pl.DataFrame:
        """The `top_k` of the candidates `item` (rows of the item table), the highest P(like) first.

        Columns: `rank` (Int32, from 1), `item_id`, `title`, `p` (as `to_p` gives it), `logit`, `mass` (Float32, see
        `AnswerScores`), `item_mean` (Float32), `item_count` (Int32), `user_item` (Float32; see `Means`). Calls
        `on_batch` with the number of candidates in each finished batch.
        """
        scores = self.score(asker, item, on_batch)
        best = np.argsort(-scores.logit, kind="stable")[:top_k]
        row, items = item[best], self.samples.items
        return pl.DataFrame(
            {
                "rank": np.arange(1, best.size + 1, dtype=np.int32),
                "item_id": items["item_id"].gather(row),
                "title": items["title"].gather(row),
                "p": self.to_p(scores.logit[best].astype(np.float64)).astype(np.float32),
                "logit": scores.logit[best].astype(np.float32),
                "mass": scores.mass[best],
                "item_mean": self.means.item_mean[row].astype(np.float32),
                "item_count": self.means.item_count[row].astype(np.int32),
                "user_item": self.means.user_item(self.past(asker))[row].astype(np.float32),
            }
        )


@dataclass(frozen=True)
class PromptScores:
    """Scores candidates with a language model.

    `prompts` renders a timeline whose row `first` + i has row i of the item table as its target.
    """

    scorer: Scorer
    prompts: PromptWriter
    first: int
    batch_size: int

    def __call__(self, asker: Asker, item: NDArray[np.int64], on_batch: OnBatch) -> AnswerScores:
        """Score candidates in chunks."""
        shown = min(self.prompts.render.samples.history_len, asker.end - asker.begin)
        found = [AnswerScores(*np.empty((3, 0), np.float32))]
        for start in range(0, item.size, CHUNK):
            target = self.first + item[start : start + CHUNK]
            prompts = self.prompts.ids(np.full(target.size, asker.end), target, shown)
            found.append(self.scorer.rank_ids(prompts, self.batch_size, on_batch))
        return AnswerScores(*map(np.concatenate, zip(*found, strict=True)))


@dataclass(frozen=True)
class BaselineScores:
    """Scores candidates with a baseline; `predict` takes queries of a timeline that `with_ends` made.

    `ends` are the ends of the users in the log, ascending. A baseline has no tokens: its `mass` is 1.
    """

    predict: Predict
    ends: NDArray[np.int64]

    def p(self, asker: Asker, item: NDArray[np.int64]) -> Floats:
        """P(like) of candidates as of after the asker's last rating, (n,)."""
        anchor = asker.end + int(np.searchsorted(self.ends, asker.end))
        return self.predict(Queries(np.full(item.size, anchor), item))

    def __call__(self, asker: Asker, item: NDArray[np.int64], on_batch: OnBatch) -> AnswerScores:
        """Score candidates as of after the asker's last rating."""
        p = self.p(asker, item)
        on_batch(item.size)
        return AnswerScores(p.astype(np.float32), np.ones(item.size, np.float32), logit(p).astype(np.float32))


@dataclass(frozen=True)
class SumScores:
    """Scores candidates with the sum of a baseline's logit and a language model's, both as they score alone.

    `add` takes P(like) of the baseline and the language model's logits, (n,) float64 each, and returns the sum's
    logits. `mass` is the language model's.
    """

    prompts: PromptScores
    baseline: BaselineScores
    add: Callable[[Floats, Floats], Floats]
    alpha: float
    """The language model's weight: with 0 it is not asked, and `mass` is 1."""

    def __call__(self, asker: Asker, item: NDArray[np.int64], on_batch: OnBatch) -> AnswerScores:
        """Score candidates as of after the asker's last rating."""
        if self.alpha == 0:
            found = self.baseline(asker, item, on_batch)
            z = self.add(self.baseline.p(asker, item), np.zeros(item.size))
            return AnswerScores(sigmoid(z).astype(np.float32), found.mass, z.astype(np.float32))
        own, other = self.prompts(asker, item, on_batch), self.baseline.p(asker, item)
        logits = self.add(other, own.logit.astype(np.float64))
        return AnswerScores(sigmoid(logits).astype(np.float32), own.mass, logits.astype(np.float32))


def ends_of(samples: Samples) -> NDArray[np.int64]:
    """The row after the last one of each user."""
    return np.flatnonzero(np.diff(samples.user, append=-1)) + 1


def with_ends(samples: Samples, guest: pl.DataFrame | None = None) -> Samples:
    """Samples whose timeline has one more row after each user's, to ask about any item after all of their ratings.

    `guest` (see `asked_now`) is one more user, at the end. No baseline learns from the new rows.
    """
    timeline, ends = samples.timeline, ends_of(samples)
    now = pl.lit(int(timeline["timestamp"].to_numpy().max()) + 1, timeline.schema["timestamp"])
    new = {"timestamp": now, "split": pl.lit("unused", ROLES)}
    after = timeline[ends - 1].with_columns(**new, at=2 * pl.Series(ends) - 1)
    log = timeline.with_columns(at=2 * pl.int_range(pl.len(), dtype=pl.Int64))
    timeline = pl.concat([log, after]).sort("at").drop("at")
    if guest is not None:
        rows = np.append(guest["item"].to_numpy(), 0)
        rating = np.append(guest["rating"].to_numpy(), samples.timeline["rating"][0])
        own = pl.DataFrame({"item_id": samples.items["item_id"].gather(rows), "rating": rating}).with_columns(**new)
        own = own.cast({name: timeline.schema[name] for name in own.columns})
        timeline = pl.concat([timeline, own], how="diagonal")
    position = samples.position + samples.user[samples.position]
    return replace(samples, timeline=timeline, position=position, context=None, signals=None)
