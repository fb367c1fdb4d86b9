"""`Engine`: answers of a run's models about any person, whether a user of the log or a stranger with a history."""

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate.baselines.people import about
from palate.baselines.platt import State
from palate.baselines.registry import Baseline
from palate.baselines.retriever import ItemKNN, Past, Popularity, Retriever
from palate.baselines.statistics import BaselineData
from palate.errors import WorkError
from palate.measure.calibration import sigmoid
from palate.measure.offset import Offset, log_odds
from palate.recommend.lookup import shortened
from palate.samples.people import Longs, NewRating, Person
from palate.samples.queries import Queries
from palate.serve.combiner import Combiner
from palate.serve.filters import Filters
from palate.serve.language import LanguageModel, Part
from palate.serve.language import Token as TokenOf

__all__ = ["Effect", "Engine", "Model", "NewRating", "Part", "Person", "TokenOf", "UnknownUserError"]

Floats = NDArray[np.float64]
Kind = Literal["baseline", "language model", "sum"]
Retrieving = Literal["classical", "item-knn", "popularity", "all"]
Cancelled = Callable[[], bool]

FINE_TUNED, ALONE, BASE = "fine-tuned", "fine-tuned-alone", "base"
"""Keys of language models: the run's model, added to the baseline that it corrects if any; it alone, of such a sum;
and the model that was fine-tuned."""
POOL = 2_000
"""Most items that the first stage `classical` scores; item-kNN finds them in a larger catalogue."""
CHUNK = 2_048
"""Candidates that a baseline scores at a time."""
SHORT = 128
"""Candidates of a question that a baseline may answer together with others."""
TOGETHER = 16
"""Such questions that it answers at a time."""
EXPLAINED = 30
"""The last ratings whose effect on a baseline's score is computed; a language model reads fewer."""


class UnknownUserError(Exception):
    """Neither the log nor the store has a rating of this user."""


@dataclass(frozen=True)
class Model:
    """A model that can be asked."""

    key: str
    label: str
    kind: Kind
    calibrated: bool
    auc: float | None
    rows: int | None = None
    """Number of test rows of the AUC."""


@dataclass(frozen=True)
class Effect:
    """What a rating of the history does to a score; see `schemas.Effect`."""

    item: int
    rating: float
    effect: float
    p_without: float


@dataclass
class Engine:
    """Answers questions about persons and items; all methods may be called from several threads at once."""

    log: BaselineData
    """The ratings that the models were fitted on, with vectors of the items' text if a baseline reads it."""
    items: pl.DataFrame
    """`item_id`, `title`, and the item table's other columns, as prompts show them."""
    models: Mapping[str, Model]
    default: str
    about: Mapping[str, Any]
    """The fields of `schemas.ModelAnswer`."""
    scale: tuple[float, float]
    baselines: Mapping[str, tuple[Baseline, State]] = field(repr=False)
    language: LanguageModel | None = None
    corrected: Offset | None = None
    """The sum of a baseline, by its key among `baselines`, and the language model; None: the model stands alone."""
    _long: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(os.cpu_count() or 1), repr=False)
    """A long question takes a core, and memory; more at once would only take turns."""

    def person(
        self, user_id: int | str | None, history: Sequence[NewRating] | None, newer: Sequence[NewRating] = ()
    ) -> Person:
        """Who asks: `history` if there is one, else the user's ratings in the log and the `newer` ones of the store.

        They are in the order of their times, those without a time last; of one time the log's come first. Of an item in
        both the newer rating counts, as in the log of the next release. Raises `UnknownUserError` for a user without
        any.
        """
        if history is not None:
            return Person("a stranger", np.empty(0, np.int64), tuple(history))
        begin, end = self._users.get(str(user_id), (0, 0))
        if begin == end and not newer:
            shown = shortened(repr(user_id))
            raise UnknownUserError(f"there is no user {shown}, expected one with ratings in the log or in the store")
        rows = np.arange(begin, end)
        rows = rows[~np.isin(self.log.item[rows], [each.item for each in newer])]
        newer = sorted(newer, key=lambda each: np.inf if each.time is None else each.time)
        times = self.log.samples.timeline["timestamp"][rows].to_numpy()
        before = [rows.size if each.time is None else np.searchsorted(times, each.time, "right") for each in newer]
        return Person(f"user {user_id}", rows, tuple(newer), np.array(before, np.int64))

    def past(self, person: Person) -> pl.DataFrame:
        """The person's ratings, oldest first: `item` (rows of the item table), `rating`, `timestamp`, `stored`."""
        small, (end,) = about(self.log, [person])
        assert small.log_row is not None
        time = small.samples.timeline["timestamp"].to_numpy()
        return pl.DataFrame(
            {"item": small.item[:end], "rating": small.rating[:end], "timestamp": time[:end],
             "stored": small.log_row[:end] < 0}
        )  # fmt: skip

    def candidates(
        self, person: Person, among: Longs | None, retriever: Retrieving, number: int, *, include_seen: bool
    ) -> tuple[Longs, int]:
        """Rows of the item table to score, the likeliest first, and the number of rated items that were left out.

        `among` (rows) restricts them, as filters and lists of a request do; None: all items. `retriever` finds `number`
        of them; "all" takes all. "classical" takes those that the best classical model ranks first: of all items, or of
        `POOL` that item-kNN finds.
        """
        small, (end,) = about(self.log, [person])
        past = Past(small.item[:end], small.rating[:end], small.liked[:end])
        allowed = np.ones(self.items.height, bool) if among is None else np.isin(np.arange(self.items.height), among)
        rated = np.zeros(self.items.height, bool)
        if not include_seen:
            rated[past.item] = allowed[past.item]
        left = allowed & ~rated
        found = np.flatnonzero(left)
        if retriever == "classical":
            if found.size > POOL:
                found = np.sort(self._near.top(past, POOL, np.flatnonzero(~left)))
            p = self._p(self.classical, person, found) if number < found.size else np.zeros(found.size)
            found = found[np.argsort(-p, kind="stable")[:number]]
        elif retriever != "all":
            found = self._retriever(retriever).top(past, number, np.flatnonzero(~left))
        return found, int(rated.sum())

    @property
    def ratings(self) -> Longs:
        """(items,): the number of ratings of each item in the log."""
        return np.bincount(self.log.item, minlength=self.items.height)

    @property
    def has_text_ids(self) -> bool:
        """Whether the log's users have texts as ids, of which some may look like numbers."""
        return self.log.samples.timeline.schema["user_id"] == pl.String

    @cached_property
    def filters(self) -> Filters:
        """The columns of the items that filter."""
        return Filters(self.items, self.about["filters"])

    @property
    def classical(self) -> str:
        """The key of the best classical model: the default if it is one, else that of the highest AUC."""
        if self.default in self.baselines:
            return self.default
        if self.corrected is not None:
            return self.corrected.baseline
        return max(self.baselines, key=lambda key: self.models[key].auc or 0.0)

    def score(self, model: str, person: Person, item: Longs, cancelled: Cancelled = lambda: False) -> Iterator[Part]:
        """Score candidates (rows); parts come as they are ready, each candidate in one of them.

        Ends early once `cancelled` returns True.
        """
        if model in self.baselines:
            for begin in range(0, item.size, CHUNK):
                if cancelled():
                    return
                part = item[begin : begin + CHUNK]
                p = self._p(model, person, part)
                yield Part(begin + np.arange(part.size), p, log_odds(p), None)
            return
        yield from self._language(model, person, item, cancelled)

    def explain(self, model: str, person: Person, item: int) -> tuple[Part, list[Effect]]:
        """The score of one candidate, and the effect of each of the last ratings, by leaving each out."""
        most = EXPLAINED
        if model not in self.baselines and not self._is_baseline(model):
            most = min(most, self.log.samples.history_len)
        places = range(max(len(person) - most, 0), len(person))
        people = [person, *(person.without(at) for at in places)]
        logit, p, mass = self._of_each(model, people, item)
        rated = self.past(person)
        effects = [
            Effect(int(rated["item"][at]), float(rated["rating"][at]), float(logit[0] - logit[n]), float(p[n]))
            for n, at in enumerate(places, 1)
        ]
        own = None if mass is None else mass[:1]
        return Part(np.zeros(1, np.int64), p[:1], logit[:1], own), effects

    def prompt(self, person: Person, item: int) -> tuple[list[TokenOf], str, str]:
        """What the language model reads, and its two answers; raises `LookupError` without a language model."""
        language = self.language
        if language is None:
            raise LookupError("the service has no language model, so there is no prompt")
        about = self._signals_about(person)
        (ids,), _ = language.prompts(person, np.array([item]), *about)
        chat = language.chat
        tokens = language.tokens(ids, language.lines(person, item, *about))
        decision, decode = chat.decision, chat.tokenizer.decode
        answers = [TokenOf(each, decode([each]), "answer") for each in (decision.yes_id, decision.no_id)]
        return [*tokens, *answers], chat.yes, chat.no

    def gauges(self) -> dict[str, float]:
        """What the language model's worker counts."""
        return {} if self.language is None else self.language.worker.gauges()

    def close(self) -> None:
        """End the worker; requests in flight are answered first."""
        if self.language is not None:
            self.language.worker.close()

    def warm(self) -> None:
        """Compute what the first request would: statistics of the log, compiled code, a pass of the model.

        Raises `WorkError` for a model whose numbers are damaged.
        """
        person = Person("", np.arange(*next(iter(self._users.values()))))
        item, _ = self.candidates(person, None, "item-knn", 2, include_seen=True)
        for model in dict.fromkeys([self.default, *self.models]):
            for part in self.score(model, person, item):
                if not np.isfinite(part.logit).all():
                    raise WorkError(
                        f"the model {model!r} answers with numbers that are not finite; train it again, or serve "
                        "another with --model"
                    )

    @cached_property
    def _users(self) -> dict[str, tuple[int, int]]:
        """First and last row, plus one, of each user."""
        runs = self.log.samples.timeline["user_id"].rle().struct.unnest()
        ends = np.cumsum(runs["len"].to_numpy().astype(np.int64)).tolist()
        return dict(zip(map(str, runs["value"].to_list()), zip([0, *ends[:-1]], ends, strict=True), strict=True))

    def _retriever(self, kind: Retrieving) -> Retriever:
        return self._popular if kind == "popularity" else self._near

    @cached_property
    def _near(self) -> ItemKNN:
        return ItemKNN.fit(self.log.training)

    @cached_property
    def _popular(self) -> Popularity:
        return Popularity.fit(self.log.training)

    def _p(self, key: str, person: Person, item: Longs) -> Floats:
        """P(like) by a baseline; short questions of several threads are computed together."""
        if item.size > SHORT:
            with self._long:
                return self._predicted(key, [person], [item])[0]
        return self._combined[key]((person, item))

    @cached_property
    def _combined(self) -> dict[str, Combiner[tuple[Person, Longs], Floats]]:
        def combiner(key: str) -> Combiner[tuple[Person, Longs], Floats]:
            return Combiner(lambda asked: self._predicted(key, *zip(*asked, strict=True)), TOGETHER)

        return {key: combiner(key) for key in self.baselines}

    def _predicted(self, key: str, people: Sequence[Person], items: Sequence[Longs]) -> list[Floats]:
        """P(like) by a baseline of the items of each person."""
        baseline, state = self.baselines[key]
        small, last = about(self.log, people)
        sizes = [item.size for item in items]
        p = baseline.predictor(small, state)(Queries(np.repeat(last, sizes), np.concatenate(items)))
        return np.split(p, np.cumsum(sizes)[:-1])

    def _is_baseline(self, model: str) -> bool:
        """Whether a sum is its baseline: alpha is 0, so that the language model need not be asked."""
        return model == FINE_TUNED and self.corrected is not None and self.corrected.alpha == 0

    def _language(self, model: str, person: Person, item: Longs, cancelled: Cancelled) -> Iterator[Part]:
        """Scores by a language model, or by its sum with a baseline."""
        language, corrected = self.language, self.corrected if model == FINE_TUNED else None
        assert language is not None
        p = None
        if corrected is not None:
            p = self._p(corrected.baseline, person, item)
            if corrected.alpha == 0:
                z = corrected.added(p, np.zeros(item.size))
                yield Part(np.arange(item.size), sigmoid(z), z, None)
                return
        prompts, shared = language.prompts(person, item, *self._signals_about(person), cancelled)
        for part in language.answers(prompts, shared, base=model == BASE, cancelled=cancelled):
            yield part if corrected is None or p is None else _added(corrected, p[part.position], part)

    def _of_each(self, model: str, people: Sequence[Person], item: int) -> tuple[Floats, Floats, Floats | None]:
        """Logit, P(like) and mass of one item for several persons, whose prompts share what they have in common."""
        one = np.array([item])
        corrected = self.corrected if model == FINE_TUNED else None
        key = model if corrected is None else corrected.baseline
        p = np.empty(0)
        if key in self.baselines:
            p = np.concatenate(self._predicted(key, people, [one] * len(people)))
            if corrected is None:
                return log_odds(p), p, None
            if corrected.alpha == 0:
                z = corrected.added(p, np.zeros(p.size))
                return z, sigmoid(z), None
        language = self.language
        assert language is not None
        prompts = [language.prompts(each, one, *self._signals_about(each))[0][0] for each in people]
        found = np.empty((3, len(people)))
        shared = [language.shared(prompts)] * len(prompts)
        for part in language.answers(prompts, shared, base=model == BASE):
            added = part if corrected is None else _added(corrected, p[part.position], part)
            found[:, part.position] = added.logit, added.p, added.mass
        return found[0], found[1], found[2]

    def _signals_about(self, person: Person) -> tuple[BaselineData | None, int]:
        if self.language is None or self.language.signals is None:
            return None, 0
        small, (end,) = about(self.log, [person])
        return small, int(end)


def _added(corrected: Offset, p: Floats, part: Part) -> Part:
    """A language model's answers, added to the baseline's P(like) of the same candidates."""
    z = corrected.added(p, part.logit)
    return part._replace(p=sigmoid(z), logit=z)
