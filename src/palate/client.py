"""`Client`: asks a service that `palate serve` runs, in Python."""

import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Self, TypedDict, TypeVar, Unpack
from urllib.parse import quote

from pydantic import BaseModel, ValidationError

from palate.errors import InputError, PalateError, WorkError
from palate.serve import schemas

TRIES = 6
"""Requests in all, where the service is busy or the connection breaks off."""
LONGEST_WAIT = 60.0
"""Seconds to wait at most before the next try, also if the service asks for more."""
BODY = {400, 404, 405, 408, 409, 413, 422}
"""Statuses that say that the request was wrong."""

Items = Sequence[int | str | schemas.Item]
"""Items by id (int), by title (str), or as the API has them, for ids that are texts."""
History = Sequence[tuple[int | str, float] | schemas.Rated]
"""Items and their ratings, the oldest first."""
Streamed = schemas.Started | schemas.ScoredPart | schemas.RecommendAnswer
T = TypeVar("T", bound=BaseModel)


class Who(TypedDict, total=False):
    """Who asks, and which model answers; see `schemas.Asked`."""

    user: int | str
    history: History
    model: str
    beside: Sequence[str]


class Choice(Who, total=False):
    """Which items may be recommended; see `schemas.RecommendRequest`."""

    top_k: int
    filters: Mapping[str, Any]
    candidates: Items
    retriever: Literal["classical", "item-knn", "popularity", "all"]
    retrieve: int
    include_seen: bool


class Client:
    """A client of a service; several threads may share it, and `with` closes it.

    Methods raise `InputError` for what the service refuses, with its reason, and `WorkError` where it cannot be
    reached, fails, or stays busy for `TRIES` tries. Where it is busy the client waits as long as the service asks for.
    A request whose connection broke off is repeated: it changes nothing, or has a key under which it is stored once.
    """

    def __init__(self, url: str = "http://127.0.0.1:8000", key: str | None = None, *, timeout: float = 120.0) -> None:
        import httpx2  # huggingface_hub needs it, too

        self.url, self._failed = url.rstrip("/"), httpx2.TransportError
        headers = {} if key is None else {b"authorization": b"Bearer " + key.encode()}
        self._http = httpx2.Client(base_url=self.url, headers=headers, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def score(self, candidates: Items, **who: Unpack[Who]) -> schemas.ScoreAnswer:
        """P(like) of candidates, in their order: `score(["Heat (1995)"], user=42)`."""
        body = {"candidates": [_item(each) for each in candidates], **_asked(who)}
        return self._post("score", schemas.ScoreRequest, body, schemas.ScoreAnswer)

    def recommend(self, **choice: Unpack[Choice]) -> schemas.RecommendAnswer:
        """The best items: `recommend(history=[("Heat (1995)", 5)], filters={"genres": "Crime"})`."""
        return self._post("recommend", schemas.RecommendRequest, _asked(choice), schemas.RecommendAnswer)

    def stream(self, **choice: Unpack[Choice]) -> Iterator[Streamed]:
        """As `recommend`, while items are scored: what will be, each newly scored part, and the answer at the end."""
        body = _body(schemas.RecommendRequest, {**_asked(choice), "stream": True})
        name = ""
        try:
            with self._http.stream("POST", "/v1/recommend", content=body, headers=JSON) as answer:
                if answer.status_code != 200:
                    answer.read()
                    raise self._error(answer.status_code, answer.content)
                for line in answer.iter_lines():
                    field, _, value = line.partition(": ")
                    name = value if field == "event" else name
                    if field == "data" and name == "error":
                        raise self._error(json.loads(value)["status"], value.encode())
                    if field == "data":
                        yield STREAMED[name].model_validate_json(value)
        except self._failed as error:
            raise WorkError(f"{self.url}: the stream broke off: {error}") from None
        except (LookupError, TypeError, ValueError):
            raise self._strange() from None
        if name != "end":
            raise WorkError(f"{self.url}: the stream ended early")

    def explain(self, candidate: int | str | schemas.Item, **who: Unpack[Who]) -> schemas.ExplainAnswer:
        """Why this score: what each rating of the history does to it."""
        body = {"candidate": _item(candidate), **_asked(who)}
        return self._post("explain", schemas.ExplainRequest, body, schemas.ExplainAnswer)

    def items(self, query: str, limit: int = 10) -> list[schemas.ItemAnswer]:
        """Items whose titles resemble the query, the closest first."""
        found = self._get("items", schemas.ItemsAnswer, {"q": query, "limit": limit})
        return found.items

    def user(self, user_id: int | str) -> schemas.UserAnswer:
        """A user's ratings."""
        return self._get(f"users/{quote(str(user_id), safe='')}", schemas.UserAnswer)

    def model(self) -> schemas.ModelAnswer:
        """What serves: models, data, calibration, metrics and verdict."""
        return self._get("model", schemas.ModelAnswer)

    def rate(self, user_id: int | str, ratings: Sequence[tuple[int | str, float]]) -> schemas.Stored:
        """Store a user's ratings by item id; they are durable when this returns."""
        rows = [{"user_id": user_id, "item_id": item, "rating": rating} for item, rating in ratings]
        body = {"key": uuid.uuid4().hex, "ratings": rows}
        return self._post("ratings", schemas.RatingsRequest, body, schemas.Stored)

    def events(self, events: Sequence[schemas.NewEvent]) -> schemas.Stored:
        """Store what happened to recommendations."""
        body = {"key": uuid.uuid4().hex, "events": [each.model_dump() for each in events]}
        return self._post("events", schemas.EventsRequest, body, schemas.Stored)

    def _post(self, route: str, request: type[BaseModel], body: Mapping[str, Any], answer: type[T]) -> T:
        return self._send("POST", route, answer, content=_body(request, body), headers=JSON)

    def _get(self, route: str, answer: type[T], params: Mapping[str, Any] | None = None) -> T:
        return self._send("GET", route, answer, params=params)

    def _send(self, method: str, route: str, answer: type[T], **request: Any) -> T:
        """Send a request until it is answered, or `TRIES` times."""
        wait, problem = 0.5, ""
        for left in reversed(range(TRIES)):
            try:
                found = self._http.request(method, f"/v1/{route}", **request)
                if found.status_code == 200:
                    return answer.model_validate_json(found.content)
                error = self._error(found.status_code, found.content)
                if found.status_code != 429:
                    raise error
                problem, asked = str(error), found.headers.get("retry-after", "0")
                wait = max(wait, float(asked) if asked.isdecimal() else 0.0)
            except self._failed as error:
                problem = f"{self.url}: cannot be reached: {error}"
            except ValidationError:
                raise self._strange() from None
            if left:
                time.sleep(min(wait, LONGEST_WAIT))
                wait *= 2
        raise WorkError(f"{problem} ({TRIES} tries)")

    def _strange(self) -> WorkError:
        return WorkError(f"{self.url}: an unreadable answer, is it a service of Palate?")

    def _error(self, status: int, content: bytes) -> PalateError:
        try:
            detail = str(json.loads(content)["detail"])
        except (ValueError, LookupError, TypeError):
            detail = f"answers {status}, is it a service of Palate?"
        return InputError(detail, self.url) if status in BODY | {401, 403} else WorkError(f"{self.url}: {detail}")


STREAMED: dict[str, type[Streamed]] = {
    "start": schemas.Started,
    "scored": schemas.ScoredPart,
    "end": schemas.RecommendAnswer,
}
JSON = {"content-type": "application/json"}


def _body(request: type[BaseModel], fields: Mapping[str, Any]) -> bytes:
    """The JSON of a request; raises `InputError` if a field is wrong, before it is sent."""
    try:
        return request.model_validate(fields).model_dump_json(exclude_unset=True).encode()
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(first["msg"], ".".join(map(str, first["loc"])) or None) from None


def _asked(who: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a request from the words of a call."""
    fields = {"user_id" if name == "user" else name: value for name, value in who.items() if value is not None}
    if "history" in fields:
        fields["history"] = [
            each.model_dump() if isinstance(each, schemas.Rated) else {**_item(each[0]), "rating": each[1]}
            for each in fields["history"]
        ]
    if "beside" in fields:
        fields["beside"] = list(fields["beside"])
    if "candidates" in fields:
        fields["candidates"] = [_item(each) for each in fields["candidates"]]
    return fields


def _item(item: int | str | schemas.Item) -> dict[str, Any]:
    if isinstance(item, schemas.Item):
        return item.model_dump()
    return {"title": item} if isinstance(item, str) else {"item_id": int(item)}
