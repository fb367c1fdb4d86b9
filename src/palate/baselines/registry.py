"""The registry of baselines: each is fitted once and predicts any `Queries`.

The quick ones are means: a model that does not beat them has learned nothing. The others take seconds to minutes.
`palate.baselines.statistics` defines the ratings that each may use. Baselines fit on training samples; early stopping
and Platt scaling use validation. docs/baselines.md has their equations.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Literal

import numpy as np
import polars as pl

from palate.baselines import means
from palate.baselines.errors import corrected
from palate.baselines.factors import factorization, fit_factors
from palate.baselines.kept import Kept
from palate.baselines.learned import (
    SMALL_TREES,
    boosted_trees,
    item_neighbours,
    item_neighbours_then,
    liked_neighbours,
    logistic_regression,
    online_means,
    online_means_then,
    weighted,
)
from palate.baselines.platt import Fit, Predict, State, Statistic, base_rate, fit_scale, scaled
from palate.baselines.statistics import PARTS, BaselineData
from palate.progress import Meter
from palate.ratings.likes import Likes
from palate.samples import Samples
from palate.samples.queries import Queries, Scores
from palate.text.vectors import Vectors

log = logging.getLogger(__name__)

Choice = Literal["all", "quick"]

CHUNK = 200_000
"""Queries per chunk of predictions; affects memory, not results."""


@dataclass(frozen=True)
class Baseline:
    """A baseline: its key in files, its name in tables, and the functions that fit it and score queries."""

    key: str
    label: str
    fit: Fit | None = None
    """Without its scale to a probability."""
    score: Statistic | None = None
    """None for the base rate."""
    needs: str | None = None
    """The optional package that it needs."""
    quick: bool = False
    """Whether it takes less than a second."""
    reads_text: bool = False
    """Whether it needs vectors of the items' text."""
    crossed: bool = False
    """Whether its prediction of a training sample starts from a fit on other users, whatever it was fitted on."""

    @property
    def lacks_package(self) -> bool:
        """Whether the package that it needs is not installed."""
        return self.needs is not None and find_spec(self.needs) is None

    def fitted(self, data: BaselineData) -> State:
        """What a fit finds, the scale to a probability included."""
        state = None if self.fit is None else self.fit(data)
        if state is None or self.score is None:
            return base_rate(data)
        # Popular negatives would turn the order by popularity around, and `palate recommend` with it.
        rises = self.key == "popularity" and data.samples.likes is not None
        return state | fit_scale(data, self.score(data, state), rises=rises)

    def predictor(self, data: BaselineData, state: State) -> Predict:
        """P(like) of queries of `data`, as the fit says it, computed in chunks of queries."""
        if "rate" in state or self.score is None:
            return lambda queries: np.full(len(queries), float(state["rate"]))
        return in_chunks(scaled(state["scale"], self.score(data, state)))


PROMPT = ("prompt",)
WITH_ITEMS = ("prompt", "past", "item", "past-item")
AS_OF_THEN = ("prompt", "past", "then")
EVERYTHING = ("prompt", "past", "item", "past-item", "near", "far")
STRONGEST = (*WITH_ITEMS, "moment", "alike", "spread")
STRONGEST_THEN = (*AS_OF_THEN, "moment", "alike-then", "spread-then")
TEXT = ("text",)
TEXT_ALONE = ("past", *TEXT)

REGISTRY = (
    Baseline("constant", "constant (training base rate)", quick=True),
    Baseline("user-mean", "user mean", means.fit_user_mean, means.user_mean, quick=True),
    Baseline("item-mean", "item mean", means.fit_item_mean, means.item_mean, quick=True),
    Baseline("user-item", "user + item", means.fit_user_item, means.user_item, quick=True),
    Baseline("history-mean", "mean of the history's ratings", means.fit_history_mean, means.history_mean, quick=True),
    Baseline("online", "online user mean + item", *weighted(online_means)),
    Baseline("online-then", "online user mean + item (as-of)", *weighted(online_means_then)),
    Baseline("factors", "matrix factorization", fit_factors, factorization, "surprise"),
    Baseline("item-knn", "item-kNN over the user's past", *weighted(item_neighbours)),
    Baseline("item-knn-then", "item-kNN (as-of)", *weighted(item_neighbours_then)),
    Baseline("logistic", "logistic regression", *logistic_regression(WITH_ITEMS)),
    Baseline("logistic-knn", "logistic regression + kNN", *logistic_regression(EVERYTHING)),
    Baseline("logistic-then", "logistic regression (as-of)", *logistic_regression(AS_OF_THEN)),
    Baseline("logistic-knn-then", "logistic + kNN (as-of)", *logistic_regression((*AS_OF_THEN, "alike-then"))),
    Baseline("lightgbm-prompt", "LightGBM on the prompt", *boosted_trees(PROMPT), "lightgbm"),
    Baseline(
        "lightgbm-item", "LightGBM + items + kNN (prompt)", *boosted_trees(("prompt", "item", "near")), "lightgbm"
    ),
    Baseline("lightgbm-then", "LightGBM (as-of)", *boosted_trees(AS_OF_THEN), "lightgbm"),
    Baseline("lightgbm", "LightGBM (all features)", *boosted_trees(EVERYTHING), "lightgbm"),
    Baseline(
        "strongest-then", "LightGBM (strongest, as-of)", *boosted_trees(STRONGEST_THEN, **SMALL_TREES), "lightgbm"
    ),
    Baseline("strongest", "LightGBM (strongest)", *boosted_trees(STRONGEST, **SMALL_TREES), "lightgbm"),
    Baseline(
        "corrected",
        "corrected LightGBM",
        *corrected(*boosted_trees(STRONGEST, **SMALL_TREES)),
        "lightgbm",
        crossed=True,
    ),
    Baseline("text", "text alone", *logistic_regression(TEXT_ALONE), reads_text=True),
    Baseline(
        "logistic-text", "logistic regression + kNN + text", *logistic_regression(EVERYTHING + TEXT), reads_text=True
    ),
    Baseline(
        "strongest-text",
        "LightGBM (strongest) + text",
        *boosted_trees(STRONGEST + TEXT, **SMALL_TREES),
        "lightgbm",
        reads_text=True,
    ),
    Baseline(
        "corrected-text",
        "corrected LightGBM + text",
        *corrected(*boosted_trees(STRONGEST + TEXT, **SMALL_TREES)),
        "lightgbm",
        reads_text=True,
        crossed=True,
    ),
)
POPULARITY = Baseline("popularity", "popularity (number of likes)", means.fit_popularity, means.item_mean, quick=True)
LIKED_KNN = Baseline("liked-knn", "item-kNN over the last likes", *weighted(liked_neighbours))
RANKERS = {baseline.key: baseline for baseline in (*REGISTRY, POPULARITY, LIKED_KNN)}
"""The baselines that `palate recommend --model` takes, by key."""
OF_LIKES = (
    "constant", "popularity", "liked-knn", "logistic-knn", "lightgbm-then", "lightgbm", "text", "logistic-text"
)  # fmt: skip
"""Keys of the baselines that have something to learn from a log of likes, in table order: the others learn from the
differences of ratings."""
BASELINES = {baseline.key: baseline.label for baseline in RANKERS.values()}
"""The baselines' keys and their names in tables, in table order."""
LADDER = ("user-item", "logistic-knn", "strongest", "strongest-text", "corrected-text")
"""Keys of the baselines that `palate advise` tries, in order of cost; `ladder_of` has those of a log of likes."""
TEACHERS = [baseline.key for baseline in REGISTRY if not baseline.quick and baseline.key != "factors"]
"""The baselines that learn from samples whose features are out of folds: `train.teacher` takes these."""


def ladder_of(likes: Likes | None) -> tuple[str, ...]:
    """The keys of `LADDER`, or those for a log of likes."""
    return LADDER if likes is None else ("popularity", "liked-knn", "logistic-knn", "lightgbm", "logistic-text")


def chosen_baselines(choice: Choice, *, text: bool = False, likes: bool = False) -> list[Baseline]:
    """The baselines of a choice whose packages are installed; logs the others.

    `text` says whether there are vectors of the items' text, which some baselines need, `likes` whether the log has
    likes alone.
    """
    chosen = []
    for baseline in [RANKERS[key] for key in OF_LIKES] if likes else REGISTRY:
        if choice == "quick" and not baseline.quick:
            continue
        if baseline.reads_text and not text:
            log.debug("skipping the baseline %r: text.encoder is null, so items have no vectors", baseline.label)
            continue
        if baseline.lacks_package:
            log.warning("skipping the baseline %r: %s is not installed", baseline.label, baseline.needs)
            continue
        chosen.append(baseline)
    return chosen


def fit_baselines(data: BaselineData, choice: Choice = "all", kept: Kept | None = None) -> dict[str, Predict]:
    """The chosen baselines, in table order; each result predicts P(like) of any `Queries`, float64 (n,).

    Those that `kept` has are not fitted again, and it keeps the others.
    """
    chosen = chosen_baselines(choice, text=data.vectors is not None, likes=data.samples.likes is not None)
    states = {baseline.key: stored(baseline, kept, data.vectors) for baseline in chosen}
    missing = [baseline for baseline in chosen if states[baseline.key] is None]
    with Meter("baselines", len(missing), "fitted") as meter:
        for baseline in missing:
            meter.advance(0, baseline.label)
            states[baseline.key] = fit_one(baseline, data, kept)
            meter.advance(1)
    return {b.key: b.predictor(data, state) for b in chosen if (state := states[b.key]) is not None}


def fit_one(baseline: Baseline, data: BaselineData, kept: Kept | None = None) -> State:
    """The state of one baseline, from `kept` if it has it."""
    state = stored(baseline, kept, data.vectors)
    if state is None:
        state = baseline.fitted(data)
        if kept is not None:
            _of_vectors(baseline, kept, data.vectors).write(baseline.key, state)
    return state


def stored(baseline: Baseline, kept: Kept | None, vectors: Vectors | None) -> State | None:
    """The state of one baseline that `kept` has; of one that reads text only if it was fitted on these vectors."""
    return None if kept is None else _of_vectors(baseline, kept, vectors).read(baseline.key)


def _of_vectors(baseline: Baseline, kept: Kept, vectors: Vectors | None) -> Kept:
    """The folder, in which states of a baseline that reads text are valid for the identity of the vectors."""
    if not baseline.reads_text or vectors is None:
        return kept
    return replace(kept, made_from={**kept.made_from, "text": vectors.identity})


def cross_fitted(
    baseline: Baseline,
    data: BaselineData,
    kept: Kept | None = None,
    *,
    apart: bool = False,
    queries: Queries | None = None,
) -> Scores:
    """P(like) of every training sample, float64 (n,), each by a fit on the samples of other users.

    The users form `PARTS` parts. So no label is part of its own sample's prediction, even if the baseline can learn its
    samples by heart. The baseline is one of `TEACHERS`: the statistics of the others contain the sample's own rating.
    With `apart` a fit reads nothing at all of the users whose samples it predicts; see `BaselineData.leaving_out`.
    `queries` are predicted instead of the training samples: any items at the rows of these.
    """
    name = f"{baseline.key}-{'apart' if apart else 'cross-fitted'}"
    kept = None if kept is None else _of_vectors(baseline, kept, data.vectors)
    if kept is not None and queries is not None:
        name += "-unrated"
        kept = replace(kept, made_from={**kept.made_from, "queries": queries.identity})
    if kept is not None and (state := kept.read(name)) is not None:
        return state["p"]
    if baseline.crossed and not apart and queries is None:  # for other queries its fit has learned of their users
        return baseline.predictor(data, fit_one(baseline, data, kept))(data.of_split("train")[0])
    queries = data.of_split("train")[0] if queries is None else queries
    p = np.empty(len(queries))
    with Meter(f"{baseline.label} on other users", PARTS, "fitted") as meter:
        for part in range(PARTS):
            others = data.leaving_out(part, apart=apart)
            rows = np.setdiff1d(np.arange(len(queries)), others.learned(queries))
            p[rows] = baseline.predictor(others, baseline.fitted(others))(queries.take(rows))
            meter.advance(1)
    if kept is not None:
        kept.write(name, {"p": p})
    return p


def in_chunks(predict: Predict) -> Predict:
    """The same predictions, computed in chunks of queries."""

    def predicted(queries: Queries) -> Scores:
        p = np.empty(len(queries))
        for begin in range(0, len(queries), CHUNK):
            window = slice(begin, begin + CHUNK)
            p[window] = predict(queries.take(window))
        return p

    return predicted


def baseline_scores(samples: Samples, *, choice: Choice = "all", split: str = "test", seed: int = 13) -> pl.DataFrame:
    """P(like) of the chosen baselines for every sample of a split, in the order of the timeline.

    The result has `row` (UInt32, the index within the split) and a Float64 column for each baseline's key. Raises
    `InputError` if there is no training sample.
    """
    data = BaselineData.of(samples, seed)
    return scores_of(data, fit_baselines(data, choice), split)


def scores_of(data: BaselineData, fitted: Mapping[str, Predict], split: str) -> pl.DataFrame:
    """P(like) of fitted baselines for every sample of a split, in the format of `baseline_scores`."""
    queries, _ = data.of_split(split)
    return pl.DataFrame({key: predict(queries) for key, predict in fitted.items()}).with_row_index("row")
