"""From a request's body to its answer, by one engine and the store: blocking work, for a thread."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from palate.baselines.registry import BASELINES
from palate.errors import InputError, did_you_mean
from palate.recommend.lookup import shortened
from palate.samples.people import Longs
from palate.serve import schemas
from palate.serve.admission import Emit, Stopped
from palate.serve.engine import ALONE, BASE, FINE_TUNED, Engine, Model, NewRating, Part, Person, UnknownUserError
from palate.serve.problems import ProblemError
from palate.serve.source import Serving
from palate.serve.store import Store

Scored = list[schemas.Scored]
Row = TypeVar("Row", schemas.NewRating, schemas.NewEvent)


@dataclass(frozen=True)
class Answers:
    """Answers requests with one engine; `retrieve` is the number of candidates if a request names none.

    Methods raise `InputError` for unknown items, models and columns, `UnknownUserError`, and `ProblemError`. `stopped`
    ends the scoring early; what they return then is for nobody.
    """

    serving: Serving
    store: Store
    retrieve: int
    count: Callable[[int], None]
    """Called with the number of candidates that a model scored."""

    @property
    def engine(self) -> Engine:
        """The engine that answers."""
        return self.serving.engine

    def score(self, request: schemas.ScoreRequest, stopped: Stopped) -> schemas.ScoreAnswer:
        """Score candidates in their order."""
        model, person = self._model(request.model), self._person(request)
        rows = self._rows(request.candidates, "candidates")
        beside = self._beside(request)
        part = self._whole(model.key, person, rows, stopped)
        scores = self._scored(rows, part, self._p_beside(beside, person, rows, stopped))
        return schemas.ScoreAnswer(**_answered(model, person), scores=scores)

    def recommend(
        self, request: schemas.RecommendRequest, stopped: Stopped, emit: Emit | None = None
    ) -> schemas.RecommendAnswer:
        """The best of the candidates; `emit` gets `start`, a `scored` for each part, and `end`."""
        model, person = self._model(request.model), self._person(request)
        beside = self._beside(request)
        rows, left_out, retriever = self._candidates(request, model, person)
        known = {"candidates": int(rows.size), "retriever": retriever, "left_out": left_out}
        if emit is not None:
            emit("start", schemas.Started(model=model.key, **known).model_dump_json())
        quick = [key for key in beside if self.engine.models[key].kind == "baseline"]
        best, done = _empty(), 0
        for part in self._parts(model.key, person, rows, stopped):
            done += part.position.size
            best = _best(best, part, request.top_k)
            if emit is not None:
                new = best.take(np.flatnonzero(np.isin(best.position, part.position)))
                others = self._p_beside(quick, person, rows[new.position], stopped)
                told = schemas.ScoredPart(items=self._scored(rows, new, others), done=done, of=int(rows.size))
                emit("scored", told.model_dump_json())
        chosen = rows[best.position]
        scores = self._scored(rows, best, self._p_beside(beside, person, chosen, stopped))
        answer = schemas.RecommendAnswer(**_answered(model, person), recommendations=scores, **known)
        if emit is not None and not stopped():
            emit("end", answer.model_dump_json())
        return answer

    def explain(self, request: schemas.ExplainRequest, stopped: Stopped) -> schemas.ExplainAnswer:
        """The score of one candidate, and what each rating does to it."""
        model, person = self._model(request.model), self._person(request)
        row = self.serving.catalogue.row(request.candidate, "candidate")
        beside = self._beside(request)
        part, effects = self.engine.explain(model.key, person, row)
        rows = np.array([row])
        (score,) = self._scored(rows, _Best.of(part), self._p_beside(beside, person, rows, stopped))
        ids, names = self.serving.catalogue.ids, self.serving.catalogue.names
        shown = []
        for each in effects:
            known = {"rating": each.rating, "effect": each.effect, "p_without": each.p_without}
            shown.append(schemas.Effect(item_id=ids[each.item], title=names[each.item], **known))
        return schemas.ExplainAnswer(**_answered(model, person), score=score, effects=shown)

    def prompt(self, request: schemas.PromptRequest) -> schemas.PromptAnswer:
        """What the language model reads."""
        person = self._person(request)
        row = self.serving.catalogue.row(request.candidate, "candidate")
        try:
            tokens, yes, no = self.engine.prompt(person, row)
        except LookupError:
            raise ProblemError(
                409, "this run has no language model, which alone reads a prompt; `palate train` makes one"
            ) from None
        shown = [schemas.Token(id=token.id, text=token.text, part=token.part) for token in tokens]
        return schemas.PromptAnswer(tokens=shown, yes=yes, no=no)

    def user(self, user_id: str) -> schemas.UserAnswer:
        """A user's ratings, those of the store included."""
        past = self.engine.past(self._person(schemas.Person(user_id=user_id)))
        ids, names = self.serving.catalogue.ids, self.serving.catalogue.names
        ratings = [
            schemas.UserRating(item_id=ids[row], title=names[row], rating=rating, timestamp=at, stored=stored)
            for row, rating, at, stored in past.select("item", "rating", "timestamp", "stored").iter_rows()
        ]
        own = user_id if self.engine.has_text_ids else canonical(user_id)
        return schemas.UserAnswer(user_id=own, ratings=ratings)

    def store_ratings(self, request: schemas.RatingsRequest) -> schemas.Stored:
        """Store ratings of known items, on the scale; they are durable when this returns."""
        for n, each in enumerate(request.ratings):
            self._on_scale(each.rating, f"ratings[{n}]")
        return self.store.add_ratings(self._named_alike(request.ratings, "ratings"), request.key)

    def store_events(self, request: schemas.EventsRequest) -> schemas.Stored:
        """Store events of known items and models, for the calibration is by model.

        A page that was opened before a refresh may name a model that the service no longer has.
        """
        for n, each in enumerate(request.events):
            if each.model is not None and each.model not in (*BASELINES, FINE_TUNED, ALONE, BASE):
                self._model(each.model, f"events[{n}].model")
        return self.store.add_events(self._named_alike(request.events, "events"), request.key)

    def _named_alike(self, rows: Sequence[Row], place: str) -> list[Row]:
        """Rows with ids as the log has them, for a client may write 42 or "42"; raises `InputError`."""
        named = []
        for n, each in enumerate(rows):
            item = self.serving.catalogue.row(schemas.Item(item_id=each.item_id), f"{place}[{n}]")
            ids = {"user_id": canonical(each.user_id), "item_id": self.serving.catalogue.ids[item]}
            named.append(each.model_copy(update=ids))
        return named

    def _person(self, asked: schemas.Person) -> Person:
        if asked.history is None:
            assert asked.user_id is not None
            user_id = canonical(asked.user_id)
            return self.engine.person(user_id, None, self._newer(user_id))
        history: list[NewRating] = []
        earlier: dict[int, dict[int | None, int]] = defaultdict(dict)
        for n, each in enumerate(asked.history):
            place = f"history[{n}]"
            row = self.serving.catalogue.row(each, place)
            self._on_scale(each.rating, place)
            times = earlier[row]  # a log may have an item again, at another time
            if times and (each.timestamp in times or None in (each.timestamp, *times)):
                title, first = self.serving.catalogue.names[row], next(iter(times.values()))
                expected = "expected each item once, or with different timestamps"
                raise InputError(f"repeats {shortened(repr(title))} of history[{first}], {expected}", place)
            times[each.timestamp] = n
            history.append(NewRating(row, each.rating, each.timestamp))
        return self.engine.person(None, history)

    def _newer(self, user_id: int | str) -> list[NewRating]:
        """A user's stored ratings that the log lacks: `palate refresh` builds releases whose logs have them."""
        known = self.serving.catalogue.known
        stored = [(known(each.item_id), each.rating, each.timestamp) for each in self.store.ratings_of(user_id)]
        newer = [NewRating(item, rating, at) for item, rating, at in stored if item is not None]
        if not newer:
            return []
        try:
            past = self.engine.past(self.engine.person(user_id, None))
        except UnknownUserError:
            return newer
        logged = dict(past.select("item", "timestamp").rows())
        return [each for each in newer if each.item not in logged or (each.time or 0) > logged[each.item]]

    def _on_scale(self, rating: float, place: str) -> None:
        low, high = self.engine.scale
        if not low <= rating <= high:
            raise InputError(f"rating {rating:g}, expected one from {low:g} to {high:g}", place)

    def _model(self, key: str | None, place: str = "model") -> Model:
        found = self.engine.models.get(key or self.engine.default)
        if found is None:
            models = self.engine.models
            near = did_you_mean(str(key), models)
            raise InputError(f"is {shortened(repr(key))}, expected one of {', '.join(models)}{near}", place)
        return found

    def _beside(self, request: schemas.Asked) -> list[str]:
        return [self._model(key, f"beside[{n}]").key for n, key in enumerate(request.beside)]

    def _rows(self, items: Sequence[schemas.Item], place: str) -> Longs:
        row = self.serving.catalogue.row
        return np.array([row(each, f"{place}[{n}]") for n, each in enumerate(items)], np.int64)

    def _candidates(
        self, request: schemas.RecommendRequest, model: Model, person: Person
    ) -> tuple[Longs, int, str | None]:
        """Rows to score, the number of rated items that were left out, and what found the rows."""
        among, how = None, request.retriever
        if request.candidates is not None:
            among, how = np.unique(self._rows(request.candidates, "candidates")), "all"
        if request.filters:
            kept = self.engine.filters.rows(request.filters)
            among = kept if among is None else among[np.isin(among, kept)]
        if request.user_id is not None and request.history is None and not request.include_seen:
            known = map(self.serving.catalogue.known, self.store.dismissed(canonical(request.user_id)))
            among = np.setdiff1d(
                np.arange(self.engine.items.height) if among is None else among,
                np.array([row for row in known if row is not None], np.int64),
            )
        every = model.kind == "baseline" and how == "classical"
        number = max(request.retrieve or (schemas.CANDIDATES if every else self.retrieve), request.top_k)
        rows, left_out = self.engine.candidates(person, among, how, number, include_seen=request.include_seen)
        if model.kind != "baseline" and rows.size > schemas.CANDIDATES:
            what = f"is 'all', which gives {rows.size:,} items to a language model"
            raise InputError(f"{what}, expected filters that leave {schemas.CANDIDATES:,}", "retriever")
        return rows, left_out, None if request.candidates is not None else how

    def _parts(self, model: str, person: Person, rows: Longs, stopped: Stopped) -> Iterator["_Best"]:
        for part in self.engine.score(model, person, rows, stopped) if rows.size else ():
            self.count(part.position.size)
            yield _Best.of(part)

    def _whole(self, model: str, person: Person, rows: Longs, stopped: Stopped) -> "_Best":
        """Scores in the order of the candidates."""
        found = _joined([_empty(), *self._parts(model, person, rows, stopped)])
        if found.position.size != rows.size:
            raise ProblemError(503, "the scoring was stopped")
        return found.take(np.argsort(found.position, kind="stable"))

    def _p_beside(self, keys: list[str], person: Person, rows: Longs, stopped: Stopped) -> dict[str, list[float]]:
        return {key: self._whole(key, person, rows, stopped).p.tolist() for key in keys}

    def _scored(self, rows: Longs, found: "_Best", beside: Mapping[str, list[float]]) -> Scored:
        ids, names = self.serving.catalogue.ids, self.serving.catalogue.names
        numbers = (found.position.tolist(), found.p.tolist(), found.logit.tolist(), found.mass.tolist())
        scored = []
        for n, (position, p, logit, mass) in enumerate(zip(*numbers, strict=True)):
            row = int(rows[position])
            others = {key: values[n] for key, values in beside.items()}
            own = None if np.isnan(mass) else mass
            scored.append(schemas.Scored(item_id=ids[row], title=names[row], p=p, logit=logit, mass=own, beside=others))
        return scored


@dataclass(frozen=True)
class _Best:
    """Scored candidates: positions in the request, and answers; a mass that a model lacks is NaN."""

    position: Longs
    p: Any
    logit: Any
    mass: Any

    @classmethod
    def of(cls, part: Part) -> "_Best":
        mass = np.full(part.p.size, np.nan) if part.mass is None else np.asarray(part.mass, np.float64)
        return cls(part.position, np.asarray(part.p, np.float64), np.asarray(part.logit, np.float64), mass)

    def take(self, at: Longs) -> "_Best":
        return _Best(self.position[at], self.p[at], self.logit[at], self.mass[at])


def _empty() -> _Best:
    return _Best(np.empty(0, np.int64), *np.empty((3, 0)))


def _joined(parts: Sequence[_Best]) -> _Best:
    return _Best(*(np.concatenate([getattr(p, n) for p in parts]) for n in ("position", "p", "logit", "mass")))


def _best(one: _Best, two: _Best, number: int) -> _Best:
    """The best of both, the highest logit first, then the first of the request."""
    both = _joined([one, two])
    return both.take(np.lexsort((both.position, -both.logit))[:number])


def _answered(model: Model, person: Person) -> dict[str, Any]:
    return {"model": model.key, "label": model.label, "calibrated": model.calibrated, "ratings": len(person)}


def canonical(user_id: int | str) -> int | str:
    """A user's id: a number if its text is one, so that the id in a path is that in a body."""
    text = str(user_id)
    return int(text) if re.fullmatch(r"0|[1-9][0-9]{0,17}", text) else text
