"""`Recommender`: choose candidates for a person, score them with the model, and sort them."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate.baselines.means import Means
from palate.baselines.retriever import Past, Retriever
from palate.measure.calibration import Calibration, sigmoid
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

    `prompts` renders a timeline whose row `first` + i has row i of the item table as its target. `item` (rows,) int64
    gives the item table's row for each row of the timeline.
    """

    scorer: Scorer
    prompts: PromptWriter
    item: NDArray[np.int64]
    first: int
    means: Means
    candidates: Candidates
    calibration: Calibration | None
    batch_size: int

    def past(self, asker: Asker) -> Past:
        """The ratings of an asker."""
        samples, rows = self.prompts.render.samples, slice(asker.begin, asker.end)
        return Past(self.item[rows], samples.timeline["rating"][rows].to_numpy(), samples.liked[rows])

    def shown(self, asker: Asker) -> int:
        """Number of ratings in the asker's prompt."""
        return min(self.prompts.render.samples.history_len, asker.end - asker.begin)

    def candidates_for(self, asker: Asker) -> tuple[NDArray[np.int64], int]:
        """The candidates for an asker, and the number excluded."""
        return self.candidates.of(self.past(asker), self.prompts.render.samples.items.height)

    def rank(
        self, asker: Asker, item: NDArray[np.int64], top_k: int, on_batch: OnBatch = lambda n: None
    ) -> pl.DataFrame:
        """The `top_k` of the candidates `item` (rows of the item table), the highest P(like) first.

        Columns: `rank` (Int32, from 1), `item_id`, `title`, `p`, `logit`, `mass` (Float32, see `AnswerScores`; with a
        `calibration`, `p` is calibrated), `item_mean` (Float32), `item_count` (Int32), `user_item` (Float32; see
        `Means`). Calls `on_batch` with the number of candidates in each finished batch.
        """
        scores = self._score(asker, item, on_batch)
        best = np.argsort(-scores.logit, kind="stable")[:top_k]
        logit = scores.logit[best].astype(np.float64)
        p = sigmoid(logit) if self.calibration is None else self.calibration.p(logit)
        row = item[best]
        items = self.prompts.render.samples.items
        return pl.DataFrame(
            {
                "rank": np.arange(1, best.size + 1, dtype=np.int32),
                "item_id": items["item_id"].gather(row),
                "title": items["title"].gather(row),
                "p": p.astype(np.float32),
                "logit": scores.logit[best],
                "mass": scores.mass[best],
                "item_mean": self.means.item_mean[row].astype(np.float32),
                "item_count": self.means.item_count[row].astype(np.int32),
                "user_item": self.means.user_item(self.past(asker))[row].astype(np.float32),
            }
        )

    def _score(self, asker: Asker, item: NDArray[np.int64], on_batch: OnBatch) -> AnswerScores:
        """Score candidates in chunks."""
        found = [AnswerScores(*np.empty((3, 0), np.float32))]
        for start in range(0, item.size, CHUNK):
            target = self.first + item[start : start + CHUNK]
            prompts = self.prompts.ids(np.full(target.size, asker.end), target, self.shown(asker))
            found.append(self.scorer.rank_ids(prompts, self.batch_size, on_batch))
        return AnswerScores(*map(np.concatenate, zip(*found, strict=True)))
