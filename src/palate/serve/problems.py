"""Errors as `application/problem+json` (RFC 9457), and their place in the OpenAPI description."""

import json
import logging
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from palate.errors import InputError, PalateError, WorkError
from palate.serve import examples
from palate.serve.engine import UnknownUserError
from palate.serve.schemas import LOADING, Problem, Wrong
from palate.serve.store import KeyReusedError
from palate.validation import shown, wrong

log = logging.getLogger("palate.serve")

TYPE = "application/problem+json"
LONGEST_RETRY = 10
"""Seconds after which a client asks again while models are loaded, at most."""
ERRORS = 20
"""Most errors of a request that an answer lists."""
MEANINGS = {
    400: "the body is no JSON",
    401: "the API key is missing or wrong",
    403: "the Host header names another machine, and the service has no API key",
    404: "there is no such user or item",
    405: "the route has another method",
    408: "the body did not arrive in time",
    409: "the key was stored with other rows, or the run has no language model",
    413: "the body has more bytes than the service accepts",
    415: "the body has another media type, or none: send Content-Type: application/json",
    422: "a field is missing or wrong, or names an unknown item or model",
    429: "the queue is full: try again after `Retry-After` seconds",
    500: "the service failed",
    503: "the models are being loaded: try again after `Retry-After` seconds; or the service ends, or the answer took "
    "too long",
}
"""What each status says; the OpenAPI description lists them for every route that can give them."""


class ProblemError(Exception):
    """An answer other than the one that was asked for."""

    type = "about:blank"

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        self.status, self.detail, self.headers = status, detail, headers
        super().__init__(detail)


class LoadingError(ProblemError):
    """The models of the service are being loaded, for `seconds` so far."""

    type = LOADING

    def __init__(self, run: str, seconds: float) -> None:
        # Nobody knows how long a model takes: as long again as until now is a guess that is short at the start.
        retry = {"Retry-After": str(min(LONGEST_RETRY, max(1, math.ceil(seconds))))}
        super().__init__(503, f"the models of {run} are being loaded, for {seconds:.0f} s so far", retry)


def problem_of(error: Exception) -> Problem:
    """The problem that an error is; one that nobody expected is logged, and its text stays here."""
    errors, kind = None, "about:blank"
    if isinstance(error, ProblemError):
        status, detail, kind = error.status, error.detail, error.type
    elif isinstance(error, HTTPException):
        status, detail = error.status_code, str(error.detail)
        if status == 400:  # FastAPI's words for a body that is no UTF-8, or nested too deep
            detail = f"{MEANINGS[400]}, expected UTF-8 text that is not nested deep"
        elif status in (404, 405):  # no route
            detail = "there is no such route; /openapi.json lists them" if status == 404 else MEANINGS[status]
    elif isinstance(error, UnknownUserError):
        status, detail = 404, str(error) or MEANINGS[404]
    elif isinstance(error, InputError):
        status, detail = 422, str(error)
        errors = [Wrong(place=str(error.place or ""), detail=error.message)]
    elif isinstance(error, KeyReusedError):
        status, detail = 409, str(error)
    elif isinstance(error, WorkError):  # the store's database, or a server with the language model, may come back
        log.error("request failed: %s", error)
        status, detail = 503, str(error)
    elif isinstance(error, RequestValidationError):
        status, errors = _refused(error)
        detail = ": ".join(part for part in (errors[0].place, errors[0].detail) if part)
    else:
        log.error("request failed: %s", type(error).__name__, exc_info=error)
        status, detail = 500, MEANINGS[500]
    title = HTTPStatus(status).phrase if status != 499 else "Client Closed Request"
    return Problem(type=kind, title=title, status=status, detail=detail, errors=errors)


def _refused(error: RequestValidationError) -> tuple[int, list[Wrong]]:
    """The status for a request that pydantic refuses, and what is wrong in it."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        before = str(error.body)[: first["loc"][1]]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        reason = f"{first['ctx']['error']} at line {line}, column {column}"
        return 400, [Wrong(place="", detail=f"{MEANINGS[400]}: {reason}")]
    found = []
    for each in error.errors()[:ERRORS]:
        place, detail = wrong({**each, "loc": each["loc"][1:]})  # without "body", "query" or "path"
        found.append(Wrong(place=place, detail=detail if place else f"the {each['loc'][0]} {detail}"))
    return 422, found


def answer(error: Exception) -> Response:
    """The response for an error."""
    problem = problem_of(error)
    headers = getattr(error, "headers", None)
    body = json.dumps(problem.model_dump(exclude_none=True), ensure_ascii=False)
    # A text may hold half of a surrogate pair, which UTF-8 lacks, and which JSON writes as Python does.
    return Response(body.encode(errors="backslashreplace"), problem.status, headers, TYPE)


def add_handlers(app: FastAPI) -> None:
    """Answer every error of an app with a problem."""

    async def handle(request: Request, error: Exception) -> Response:
        return answer(error)

    for kind in (ProblemError, HTTPException, UnknownUserError, PalateError, RequestValidationError):
        app.add_exception_handler(kind, handle)


async def expect_json(request: Request) -> None:
    """Refuse a body of another media type, such as that of `curl -d`; FastAPI would call it no object."""
    given = request.headers.get("content-type", "")
    kind = given.partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        what = f"has Content-Type {shown(given)}" if given else "has no Content-Type"
        raise ProblemError(415, f"the body {what}, send Content-Type: application/json")


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route for the OpenAPI description."""
    schema = {"$ref": "#/components/schemas/Problem"}
    wait = {"Retry-After": {"description": "seconds until the next try", "schema": {"type": "integer", "minimum": 1}}}
    waits = {"headers": wait}
    return {
        status: {
            "description": MEANINGS[status],
            "content": {TYPE: {"schema": schema, "example": examples.problem(status)}},
        }
        | (waits if status in (429, 503) else {})
        for status in statuses
    }
