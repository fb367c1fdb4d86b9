"""What a model sees of the user in the examples of a published set, as data of Palate's baselines.

    the prompt             the last ten ratings
    liked titles           the last ten liked items
    training part          the user's ratings in the training part
    every earlier rating   all of the user's earlier ratings of any part, their times, and all columns of the items

The items' statistics and similarities always come from the training part alone.
"""

from dataclasses import replace

import numpy as np
import polars as pl

from palate.baselines.statistics import FOLDS, BaselineData
from palate.config import PrepareConfig
from palate.samples.build import ROLES, samples_of
from palate.samples.queries import RowNumbers
from palate.text.vectors import Vectors
from published_sets import WINDOW, PublishedLog
from text import vectors_from

SEED = 13
MOST = 200
"""Ratings of the training part that an example shows, the last ones; few users have more."""
PROMPT, LIKED, TRAINING, EARLIER = "the prompt", "liked titles", "training part", "every earlier rating"


def vectors_of(log: PublishedLog, encoder: str) -> Vectors:
    """Vectors of the items' titles, by an encoder."""
    options = PrepareConfig(split="given", rating_threshold=0.5)
    titles = log.items.select("item_id", "title")
    return vectors_from(samples_of(timeline_of(log), titles, options), encoder)[0]


def only(log: PublishedLog, drawn: RowNumbers) -> PublishedLog:
    """The log with some training examples; training knows what their prompts show, and the answers."""
    split = log.frame["split"].to_numpy().copy()
    kept = np.zeros(split.size, bool)
    kept[drawn] = True
    split[(split == "train") & ~kept] = ""
    user = log.frame["user"].to_numpy()
    known = kept.copy()
    for back in range(1, WINDOW + 1):
        rows = drawn[drawn >= back]
        known[rows[user[rows - back] == user[rows]] - back] = True
    return replace(log, frame=log.frame.with_columns(split=pl.Series(split, dtype=pl.String), known=pl.Series(known)))


def data_of(log: PublishedLog, sees: str, vectors: Vectors) -> BaselineData:
    """The data of baselines in which each example shows only what its model may see.

    `EARLIER` is the log itself, with its times and all columns of its items. Otherwise each example has a timeline of
    its own, without times: what it shows, then the question. The training ratings are users beside them, from which
    item statistics and similarities come; an example takes them out of the fold of its own user.
    """
    options = PrepareConfig(split="given", rating_threshold=0.5, history_len=WINDOW)
    if sees == EARLIER:
        return BaselineData.of(samples_of(timeline_of(log), log.items, options), SEED, vectors=vectors)
    user = log.frame["user"].to_numpy()
    shown, counts = shown_rows(log, sees)
    examples = log.examples
    own = int(user.max()) + 1 + np.arange(examples.size)
    known = np.flatnonzero(log.frame["known"].to_numpy())
    rows = np.concatenate([known, shown, examples])
    split = log.frame["split"].gather(examples)
    role = pl.concat([pl.repeat("warmup", known.size, eager=True), pl.repeat("unused", shown.size, eager=True), split])
    timeline = (
        log.frame[rows]
        .select("item_id", "rating")
        .with_columns(user_id=np.concatenate([user[known], np.repeat(own, counts), own]), split=role.cast(ROLES))
    )
    timeline = timeline.sort("user_id", maintain_order=True).with_columns(
        timestamp=pl.int_range(pl.len()).over("user_id")
    )
    samples = samples_of(timeline, log.items.select("item_id", "title"), options)
    data = BaselineData.of(samples, SEED, vectors=vectors)
    owner = np.concatenate([np.arange(own[0]), user[examples]])[timeline["user_id"].to_numpy()]
    fold = np.random.default_rng(SEED).permutation(int(own[0])) % FOLDS
    allowed = (timeline["split"] == "warmup").to_numpy()  # the questions of training repeat known ratings
    return replace(data, fold=fold[owner], allowed=allowed)


def shown_rows(log: PublishedLog, sees: str) -> tuple[RowNumbers, RowNumbers]:
    """The rows that the examples show, oldest first, one example after another; and how many each shows."""
    user = log.frame["user"].to_numpy()
    first = np.flatnonzero(np.diff(user, prepend=-1))[user][log.examples]
    liked, trained = log.frame["rating"].to_numpy() == 1, (log.frame["split"] == "train").to_numpy()
    may = {PROMPT: np.ones(user.size, bool), LIKED: liked, TRAINING: trained}[sees]
    among = np.flatnonzero(may)
    end = np.searchsorted(among, log.examples)
    begin = np.maximum(np.searchsorted(among, first), end - (MOST if sees == TRAINING else WINDOW))
    counts = end - begin
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return among[np.repeat(begin, counts) + within], counts


def timeline_of(log: PublishedLog) -> pl.DataFrame:
    """The log as a timeline of samples."""
    other = pl.when("known").then(pl.lit("warmup")).otherwise(pl.lit("unused"))
    role = pl.when(pl.col("split") == "").then(other).otherwise(pl.col("split")).cast(ROLES)
    return log.frame.select(pl.col("user").alias("user_id"), "item_id", "rating", "timestamp", split=role)
