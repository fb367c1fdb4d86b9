"""Rank whole catalogues: always with the baselines, and with the model for `evaluate.rank_users` users."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate import console
from palate.baselines.registry import BASELINES
from palate.baselines.retriever import ItemKNN, Past, Retriever
from palate.baselines.statistics import BaselineData
from palate.commands.correction import Correction
from palate.commands.prepare import kept_baselines, token_options
from palate.commands.score import load_scorer
from palate.commands.scores import Model
from palate.commands.signals import signals_then
from palate.config import Config
from palate.measure.candidates import CandidateSets, candidate_sets
from palate.measure.lists import Catalogue
from palate.measure.ranking import Predict, rank
from palate.measure.ranking_table import RankingTable, ranking_table
from palate.progress import Meter
from palate.samples import Prepared
from palate.samples.lines import renderer
from palate.samples.queries import Queries
from palate.samples.questions import asked_then
from palate.score.prompt_writer import PromptWriter
from palate.store.artifacts import DAMAGED, atomic_file, sha256_of
from palate.store.resume import LongWork

POPULARITY = "popularity"
FIRST_STAGE = "first-stage"
QUICK = ("constant", "item-mean", "online", "factors")
"""Baselines that rank a catalogue in a second. The other means order a user's items as the constant does or as the item
mean does, so they rank nothing of their own."""
SAME_ORDER = ("user-mean", "user-item", "history-mean")
PAIRS = 2_000_000
"""Pairs of user and item that the quick baselines rank at most: a few seconds."""
CHUNK = 4096
"""Candidates whose prompts are in memory at a time."""


@dataclass(frozen=True)
class RankedModel:
    """A model that is to rank, and what its other scores depend on."""

    model: Model
    label: str
    key: Mapping[str, object]
    corrected: Correction | None = None
    """The baseline that the model corrects: the sum ranks."""


def rankings(
    config: Config,
    data: Prepared,
    known: BaselineData,
    fitted: Mapping[str, Predict],
    scored: RankedModel,
    folder: Path,
) -> list[RankingTable]:
    """The tables: quick baselines for many users, then the model beside all baselines for `evaluate.rank_users`.

    Nothing is ranked for training samples, whose items the baselines were fitted on.
    """
    split, evaluation = config.evaluate.split, config.evaluate
    users = data.samples.timeline["user_id"].gather(data.samples.position[data.samples.of(split)]).unique().sort()
    if split == "train" or not len(users):
        return []
    retriever = ItemKNN.fit(known.training)
    free: dict[str, Predict] = {
        POPULARITY: lambda queries: retriever.popular.likes[queries.item].astype(np.float64),
        FIRST_STAGE: first_stage(known, retriever),
        **fitted,
    }
    labels = BASELINES | {POPULARITY: "popularity", FIRST_STAGE: "item-kNN over the user's likes"}
    labels[scored.model.key] = scored.label
    labels["constant"] = "chance"
    quick = {key: predict for key, predict in free.items() if key in (POPULARITY, FIRST_STAGE, *QUICK)}
    tables, catalogue = [], Catalogue.of(known)
    for count, predictors in (
        (max(1, PAIRS // max(1, data.samples.items.height)), quick),
        (evaluation.rank_users, {key: predict for key, predict in free.items() if key not in SAME_ORDER}),
    ):
        if not count:
            continue
        sets = _sets(config, data, users, count)
        if not len(sets):
            continue
        ranked = {key: rank(sets, predict, catalogue=catalogue) for key, predict in predictors.items()}
        if predictors is not quick:
            logits = model_logits(config, data, scored, sets, folder)
            ranked[scored.model.key] = rank(sets, _in_turn(logits, scored.corrected, known), catalogue=catalogue)
        tables.append(
            ranking_table(
                ranked, baselines=list(predictors), labels=labels, resamples=evaluation.bootstrap, seed=config.seed
            )
        )
    return tables


def first_stage(known: BaselineData, retriever: Retriever) -> Predict:
    """Ranks items as a first stage of `palate recommend` does, by what the user rated before."""
    items = known.samples.items.height

    def predict(queries: Queries) -> NDArray[np.float64]:
        score = np.empty(len(queries))
        anchors, of = np.unique(queries.anchor, return_inverse=True)
        for n, anchor in enumerate(anchors.tolist()):
            past = slice(known.first[anchor], anchor)
            order = retriever.top(
                Past(known.item[past], known.rating[past], known.liked[past]), items, np.empty(0, np.int64)
            )
            own = of == n
            score[own] = -np.argsort(order)[queries.item[own]]
        return score

    return predict


def model_logits(
    config: Config, data: Prepared, scored: RankedModel, sets: CandidateSets, folder: Path
) -> NDArray[np.float32]:
    """The model's logit of every candidate of every user, in the order of `sets.chunks()`.

    The function keeps them in `scores/ranking-KEY.npz` of the folder, with a part for each user while it works, so that
    the next call resumes an interrupted ranking.
    """
    pairs = [queries for _, _, queries, _ in sets.chunks()]
    anchor = np.concatenate([queries.anchor for queries in pairs])
    item = np.concatenate([queries.item for queries in pairs])
    out = folder / "scores" / f"ranking-{scored.model.key}.npz"
    key = {**scored.key, "ranked": sha256_of([anchor.tolist(), item.tolist()])}
    work = LongWork(f"ranking with {scored.model.key}", out, key, anchor.size, "candidates")

    def ask(done: int) -> NDArray[np.float32]:
        questions = asked_then(data.samples, anchor, item)
        scorer = load_scorer(config, scored.model.adapter)
        render = renderer(
            questions.samples, config.prompt, signals_then(config, data.samples, kept_baselines(config, data))
        )
        prompts = PromptWriter(render, scorer.chat, token_options(config))
        # Users follow one another, each with the anchor of their own.
        ends = [*(np.flatnonzero(np.diff(anchor)) + 1).tolist(), anchor.size]
        with Meter(work.what, anchor.size, work.unit, done=done, console=console.err) as meter:

            def ranked(user: tuple[int, int]) -> NDArray[np.float32]:
                logit = []
                for start in range(*user, CHUNK):
                    part = slice(start, min(start + CHUNK, user[1]))
                    ids = prompts.ids(anchor[part], questions.target[part], data.samples.history_len)
                    logit.append(scorer.rank_ids(ids, config.evaluate.batch_size, meter.advance).logit)
                return np.concatenate(logit)

            users = [(begin, end) for begin, end in zip([0, *ends[:-1]], ends, strict=True) if begin >= done]
            for (begin, end), logit in zip(users, scorer.in_order(ranked, users), strict=True):
                with work.part(begin, end) as written:
                    np.save(written, logit)
        logits = np.concatenate([np.load(path) for path in work.parts()])
        with atomic_file(out) as written:
            np.savez(written, key=np.array(sha256_of(key)), logit=logits)
        return logits

    return work.result(lambda: _kept(out, key), ask)


def _sets(config: Config, data: Prepared, users: pl.Series, count: int) -> CandidateSets:
    """The candidates of `count` users, drawn with the seed; a larger draw contains a smaller one."""
    chosen = np.sort(np.random.default_rng(config.seed).permutation(len(users))[:count])
    candidates = config.evaluate.candidates
    return candidate_sets(
        data.samples,
        split=config.evaluate.split,
        users=users.gather(chosen),
        negatives=None if candidates == "all" else candidates,
        seed=config.seed,
    )


def _in_turn(logits: NDArray[np.float32], corrected: Correction | None, known: BaselineData) -> Predict:
    """A predictor that returns scores computed before, in the order of its calls, added to the baseline's if any."""
    given = 0

    def predict(queries: Queries) -> NDArray[np.float64]:
        nonlocal given
        given += len(queries)
        z = logits[given - len(queries) : given].astype(np.float64)
        return z if corrected is None else corrected.logit(known, queries, z)

    return predict


def _kept(out: Path, key: Mapping[str, object]) -> NDArray[np.float32] | None:
    """The logits in a file of the same key."""
    try:
        with np.load(out) as file:
            return np.asarray(file["logit"], np.float32) if str(file["key"]) == sha256_of(key) else None
    except DAMAGED:
        return None
