"""`Client`: asks a service that `palate serve` runs, in Python."""

import json
import operator
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Self, TypeVar
from urllib.parse import quote, urlsplit

from pydantic import BaseModel, ValidationError

from palate.errors import PalateError, WorkError, visible
from palate.serve import schemas
from palate.validation import wrong

TRIES = 6
"""Requests in all, where the service is busy or the connection breaks off."""
LONGEST_WAIT = 60.0
"""Seconds to wait at most before the next try, also if the service asks for more."""
NEAREST = 3
"""Titles that the error about an unknown one lists."""

Named = int | str | schemas.Item
"""An item by id (int), by title (str), or as the API has it, for an id that is a text."""
Items = Sequence[Named]
History = Sequence[tuple[Named, float] | schemas.Rated]
"""Items and their ratings, the oldest first; `schemas.Rated` has a time, too."""
Retriever = Literal["classical", "item-knn", "popularity", "all"]
Filter = bool | float | str | schemas.Between | Mapping[str, float] | Sequence[float | str]
"""A value, several of which one must hold, or `{"min": 1990, "max": 1999}`."""
Streamed = schemas.Started | schemas.ScoredPart | schemas.RecommendAnswer
T = TypeVar("T", bound=BaseModel)


class ServiceError(PalateError):
    """The service answered with a problem (RFC 9457): it refuses the request, fails, stays busy, or loads its models.

    `status` is that of HTTP, `title` its name, `detail` the reason, and `retry_after` the seconds after which the
    service asks for another try; None if it asks for none. While models are loaded, `loading` is True.
    """

    def __init__(
        self, url: str, status: int, title: str, detail: str, retry_after: float | None = None, *, loading: bool = False
    ) -> None:
        self.status, self.title, self.detail, self.retry_after = status, title, detail, retry_after
        self.loading = loading
        self.exit_code = 2 if 400 <= status < 500 and status != 429 else 1
        super().__init__(visible(f"{url}: {detail}"))


class Client:
    """A client of a service; several threads may share it, and `with` closes it.

    Who asks is a `user` by id, or a `history` of rated items, which wins over the user's own ratings. `model` is a key
    of `model()`, without it the recommended one answers; P(like) by the models of `beside` stands beside its own.

    Methods raise `ValueError` for an argument that is wrong, before it is sent; `ServiceError` for what the service
    refuses, with its reason, and where it fails or stays busy for `TRIES` tries; and `WorkError` where it cannot be
    reached. Where it is busy, or loads its models, the client waits as long as the service asks for, each time twice as
    long as before at least. A request whose connection broke off is repeated: it changes nothing, or has a key under
    which it is stored once.
    """

    def __init__(self, url: str = "http://127.0.0.1:8000", key: str | None = None, *, timeout: float = 120.0) -> None:
        import httpx2

        self.url, self._failed = _address(url), httpx2.TransportError
        headers = {} if key is None else {b"authorization": b"Bearer " + key.encode()}
        self._http = httpx2.Client(base_url=self.url, headers=headers, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def score(
        self,
        candidates: Items,
        *,
        user: int | str | None = None,
        history: History | None = None,
        model: str | None = None,
        beside: Sequence[str] = (),
    ) -> schemas.ScoreAnswer:
        """P(like) of candidates, in their order: `score(["Heat (1995)"], user=42)`."""
        fields = {"candidates": _items(candidates), **_asked(user, history, model, beside)}
        return self._post("score", schemas.ScoreRequest, fields, schemas.ScoreAnswer)

    def recommend(
        self,
        *,
        user: int | str | None = None,
        history: History | None = None,
        top_k: int = 10,
        filters: Mapping[str, Filter] | None = None,
        candidates: Items | None = None,
        retriever: Retriever = "classical",
        retrieve: int | None = None,
        include_seen: bool = False,
        model: str | None = None,
        beside: Sequence[str] = (),
    ) -> schemas.RecommendAnswer:
        """The best items: `recommend(history=[("Heat (1995)", 5)], filters={"genres": "Crime"})`.

        `filters` takes the columns that `model().filters` lists. The `retriever` finds the items that a model scores,
        `retrieve` of them; `candidates` lists them instead. With `include_seen` rated items are recommended, too.
        """
        fields = _asked(user, history, model, beside)
        fields |= _choice(top_k, filters, candidates, retriever, retrieve, include_seen)
        return self._post("recommend", schemas.RecommendRequest, fields, schemas.RecommendAnswer)

    def stream(
        self,
        *,
        user: int | str | None = None,
        history: History | None = None,
        top_k: int = 10,
        filters: Mapping[str, Filter] | None = None,
        candidates: Items | None = None,
        retriever: Retriever = "classical",
        retrieve: int | None = None,
        include_seen: bool = False,
        model: str | None = None,
        beside: Sequence[str] = (),
    ) -> Iterator[Streamed]:
        """As `recommend`, while items are scored: what will be, each newly scored part, and the answer at the end.

        A stream is asked for once, also where the service is busy.
        """
        fields = _asked(user, history, model, beside)
        fields |= _choice(top_k, filters, candidates, retriever, retrieve, include_seen)
        return self._streamed(_body(schemas.RecommendRequest, {**fields, "stream": True}))

    def explain(
        self,
        candidate: Named,
        *,
        user: int | str | None = None,
        history: History | None = None,
        model: str | None = None,
        beside: Sequence[str] = (),
    ) -> schemas.ExplainAnswer:
        """Why this score: what each rating of the history does to it."""
        fields = {"candidate": _item(candidate, "candidate"), **_asked(user, history, model, beside)}
        return self._post("explain", schemas.ExplainRequest, fields, schemas.ExplainAnswer)

    def prompt(
        self, candidate: Named, *, user: int | str | None = None, history: History | None = None
    ) -> schemas.PromptAnswer:
        """What the language model reads about one candidate; `ServiceError` 409 if the run has no such model."""
        fields = {"candidate": _item(candidate, "candidate"), **_asked(user, history)}
        return self._post("prompt", schemas.PromptRequest, fields, schemas.PromptAnswer)

    def items(self, query: str, limit: int = 10) -> list[schemas.ItemAnswer]:
        """Items whose titles resemble the query, the closest first; none if no title does."""
        found = self._get("items", schemas.ItemsAnswer, {"q": query, "limit": limit})
        return found.items

    def user(self, user_id: int | str) -> schemas.UserAnswer:
        """A user's ratings."""
        return self._get(f"users/{quote(str(user_id), safe='')}", schemas.UserAnswer)

    def model(self) -> schemas.ModelAnswer:
        """What serves: models, data, calibration, metrics and verdict."""
        return self._get("model", schemas.ModelAnswer)

    def rate(self, user: int | str, ratings: History, *, key: str | None = None) -> schemas.Stored:
        """Store a user's ratings: `rate(42, [(50, 4.5), ("Heat (1995)", 5)])`; they are durable when this returns.

        A text is an exact title in any case, else an id; `ValueError` lists the nearest titles if it is neither. A call
        that is repeated with its `key` stores nothing, and one with the key and other ratings gets `ServiceError` 409.
        Without a key each call has one of its own, so that only what the client itself repeats is stored once.
        """
        rows = []
        for n, each in enumerate(_history(ratings, "ratings")):
            title = each.pop("title", None)
            item_id = each.pop("item_id", None) if title is None else self._id_of(title, f"ratings[{n}]")
            rows.append({"user_id": user, "item_id": item_id, **each})
        fields = {"key": uuid.uuid4().hex if key is None else key, "ratings": rows}
        return self._post("ratings", schemas.RatingsRequest, fields, schemas.Stored)

    def events(self, events: Sequence[schemas.NewEvent], *, key: str | None = None) -> schemas.Stored:
        """Store what happened to recommendations; `key` as for `rate`."""
        rows = [each.model_dump(exclude_unset=True) for each in _listed(events, "events", "[NewEvent(…)]")]
        fields = {"key": uuid.uuid4().hex if key is None else key, "events": rows}
        return self._post("events", schemas.EventsRequest, fields, schemas.Stored)

    def _id_of(self, text: str, place: str) -> int | str:
        """The id of the item with this title, else the one that this id names."""
        near = self.items(text)
        same = [each for each in near if each.title.strip().casefold() == text.strip().casefold()]
        if len(same) > 1:
            ids = ", ".join(str(each.item_id) for each in same)
            raise ValueError(f"{place}: {text!r} is the title of {len(same)} items, expected an id: {ids}")
        if same:
            return same[0].item_id
        try:
            return self._get(f"items/{quote(text, safe='')}", schemas.ItemAnswer).item_id
        except ServiceError as error:
            if error.status != 404:
                raise
        nearest = ", ".join(repr(each.title) for each in near[:NEAREST])
        remark = f"did you mean {nearest}?" if near else "and none that resembles it"
        raise ValueError(f"{place}: there is no title {text!r}, {remark}") from None

    def _streamed(self, body: bytes) -> Iterator[Streamed]:
        name = ""
        try:
            with self._http.stream("POST", "/v1/recommend", content=body, headers=JSON) as answer:
                if answer.status_code != 200:
                    answer.read()
                    raise self._error(answer.status_code, answer.content, answer.headers)
                for line in answer.iter_lines():
                    field, _, value = line.partition(": ")
                    name = value if field == "event" else name
                    if field == "data" and name == "error":
                        raise self._error(json.loads(value)["status"], value.encode())
                    if field == "data":
                        yield STREAMED[name].model_validate_json(value)
        except self._failed as error:
            raise WorkError(f"{self.url}: the stream broke off, ask again: {error}") from None
        except (LookupError, TypeError, ValueError):
            raise self._strange() from None
        if name != "end":
            raise WorkError(f"{self.url}: the stream ended early, ask again")

    def _post(self, route: str, request: type[BaseModel], fields: Mapping[str, Any], answer: type[T]) -> T:
        return self._send("POST", route, answer, content=_body(request, fields), headers=JSON)

    def _get(self, route: str, answer: type[T], params: Mapping[str, Any] | None = None) -> T:
        return self._send("GET", route, answer, params=params)

    def _send(self, method: str, route: str, answer: type[T], **request: Any) -> T:
        """Send a request until it is answered, or `TRIES` times."""
        wait = 0.5
        for tries in range(1, TRIES + 1):
            problem: PalateError
            try:
                found = self._http.request(method, f"/v1/{route}", **request)
                if found.status_code == 200:
                    return answer.model_validate_json(found.content)
                refusal = self._error(found.status_code, found.content, found.headers, tries)
                if found.status_code != 429 and not refusal.loading:
                    raise refusal
                problem, wait = refusal, max(wait, refusal.retry_after or 0.0)
            except self._failed as error:
                problem = WorkError(
                    f"{self.url}: cannot be reached, is `palate serve` running there? {error} ({tries} tries)"
                )
            except ValidationError:
                raise self._strange() from None
            if tries < TRIES:
                time.sleep(min(wait, LONGEST_WAIT))
                wait *= 2
        raise problem

    def _strange(self) -> WorkError:
        return WorkError(f"{self.url}: an unreadable answer, is it a service of Palate?")

    def _error(
        self, status: int, content: bytes, headers: Mapping[str, str] | None = None, tries: int = 1
    ) -> ServiceError:
        try:
            problem = json.loads(content)
            title, detail = str(problem.get("title", status)), str(problem["detail"])
            loading = problem.get("type") == schemas.LOADING
        except (ValueError, LookupError, TypeError, AttributeError):
            title, detail, loading = str(status), f"answers {status}, is it a service of Palate?", False
        asked = (headers or {}).get("retry-after", "")
        if (status == 429 or loading) and tries > 1:
            detail = f"{detail} ({tries} tries)"
        after = float(asked) if asked.isdecimal() else None
        return ServiceError(self.url, status, title, detail, after, loading=loading)


STREAMED: dict[str, type[Streamed]] = {
    "start": schemas.Started,
    "scored": schemas.ScoredPart,
    "end": schemas.RecommendAnswer,
}
JSON = {"content-type": "application/json"}


def _address(url: str) -> str:
    """The address of a service without a slash at its end; raises `ValueError` for one without scheme or host."""
    try:
        found = urlsplit(url)
        whole = found.scheme in ("http", "https") and bool(found.hostname) and found.port != 0
    except ValueError:  # a port that is no number
        whole = False
    if not whole:
        expected = "http://HOST:PORT or https://HOST" if not url or "://" in url else f"http://{url}"
        raise ValueError(f"{url!r} is not the address of a service, expected {expected}")
    return url.rstrip("/")


def _body(request: type[BaseModel], fields: Mapping[str, Any]) -> bytes:
    """The JSON of a request; raises `ValueError` if a field is wrong, before it is sent."""
    try:
        return request.model_validate(fields).model_dump_json(exclude_unset=True).encode()
    except ValidationError as error:
        place, problem = wrong(error.errors()[0])
        raise ValueError(f"{place}: {problem}" if place else problem) from None


def _asked(
    user: int | str | None, history: History | None, model: str | None = None, beside: Sequence[str] = ()
) -> dict[str, Any]:
    """The fields that say who asks, and which model."""
    fields: dict[str, Any] = {"user_id": user, "model": model}
    if history is not None:
        fields["history"] = _history(history, "history")
    if beside:
        fields["beside"] = _listed(beside, "beside", f"[{beside!r}]")
    return {name: value for name, value in fields.items() if value is not None}


def _choice(
    top_k: int,
    filters: Mapping[str, Filter] | None,
    candidates: Items | None,
    retriever: Retriever,
    retrieve: int | None,
    include_seen: bool,
) -> dict[str, Any]:
    """The fields that say what may be recommended."""
    fields: dict[str, Any] = {"top_k": top_k, "retriever": retriever, "include_seen": include_seen}
    if filters is not None:
        fields["filters"] = {name: list(each) if isinstance(each, tuple) else each for name, each in filters.items()}
    fields["retrieve"] = retrieve
    if candidates is not None:
        fields["candidates"] = _items(candidates)
    return {name: value for name, value in fields.items() if value is not None}


def _items(items: Items) -> list[dict[str, Any]]:
    listed = _listed(items, "candidates", f"[{items!r}]")
    return [_item(each, f"candidates[{n}]") for n, each in enumerate(listed)]


def _item(item: Named, place: str) -> dict[str, Any]:
    if isinstance(item, schemas.Item):
        return item.model_dump(include={"item_id", "title"}, exclude_none=True)
    if isinstance(item, str):
        return {"title": item}
    try:
        return {"item_id": operator.index(item)}
    except TypeError:
        raise ValueError(f"{place}: {item!r} is no item, expected an id or a title") from None


def _history(history: History, place: str) -> list[dict[str, Any]]:
    """Rated items as the API has them."""
    rated = []
    for n, each in enumerate(_listed(history, place, '[("Heat (1995)", 5)]')):
        if isinstance(each, schemas.Rated):
            rated.append(each.model_dump(exclude_none=True))
        elif isinstance(each, tuple | list) and len(each) == 2:
            rated.append({**_item(each[0], f"{place}[{n}]"), "rating": each[1]})
        else:
            raise ValueError(f'{place}[{n}]: {each!r}, expected an item and its rating: ("Heat (1995)", 5)')
    return rated


def _listed(values: Any, place: str, expected: str) -> list[Any]:
    """The values as a list; raises `ValueError` for one value, whose parts Python would take for values."""
    if isinstance(values, str | bytes | BaseModel | Mapping) or not isinstance(values, Iterable):
        raise ValueError(f"{place}: {values!r} is no list, expected {expected}")
    return list(values)
