"""Bodies of requests to the service."""

import atexit
import json
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from random import Random
from tempfile import mkdtemp
from typing import Any

from tests.fuzz.case import Case, Fault, Outcome
from tests.fuzz.mutations import NASTY, damage_bytes
from tests.fuzz.objects import JSON_BYTES, JSON_NASTY

SCORE = {"user_id": 42, "candidates": [{"item_id": 2571}]}
GUEST = {"history": [{"item_id": 1, "rating": 4.5, "timestamp": 7}], "candidates": [{"title": "Heat (1995)"}]}
ONE = {"user_id": 42, "candidate": {"item_id": 2571}}
RATED = [{"user_id": 1, "item_id": 6, "rating": 4}, {"user_id": "a", "item_id": 47, "rating": 0.5}]
BODIES: dict[str, list[dict[str, Any]]] = {
    "/v1/score": [SCORE, GUEST, {**SCORE, "beside": ["other"]}],
    "/v1/recommend": [{"user_id": 42, "top_k": 3}, {"history": [], "model": "other"}],
    "/v1/explain": [ONE],
    "/v1/ratings": [{"ratings": RATED}],
    "/v1/events": [{"events": [{"event": "shown", "user_id": 1, "item_id": 6}]}],
}


def make_body(draw: Random, folder: Path) -> Case:
    """A path and a body; some values, keys, and bytes are others."""
    path = draw.choice([*BODIES])
    body = json.loads(json.dumps(draw.choice(BODIES[path])))
    for _ in range(draw.choice((0, 1, 1, 2))):
        _damage(draw, body)
    text = json.dumps(body, ensure_ascii=draw.random() < 0.5)
    if draw.random() < 0.3:
        text = text.replace(draw.choice((": 42", ": 4", "[]", '"')), f": {draw.choice(JSON_NASTY)}", 1)
    content = text.encode("utf-8", "replace")
    content = damage_bytes(draw, content, JSON_BYTES) if draw.random() < 0.5 else content
    (folder / "path").write_text(path)
    (folder / "body").write_bytes(content)
    return Case(folder, len(content))


def _damage(draw: Random, value: Any) -> None:
    """Change something in an object or a list."""
    keys: Any = list(value) if isinstance(value, dict) else range(len(value))
    if not keys:
        return
    key = draw.choice(keys)
    inner = value[key]
    if isinstance(inner, dict | list) and inner and draw.random() < 0.7:
        _damage(draw, inner)
        return
    odd = (None, True, -1, 0, 1e308, 2**63, 10**30, [], {}, [inner] * 3, {"a": inner}, "", "x" * 600, *NASTY)
    match draw.randrange(4):
        case 0 if isinstance(value, dict):
            value[draw.choice(("user_id", "item_id", "title", "modle", "", "top", "history"))] = draw.choice(
                (inner, *odd)
            )
        case 1:
            del value[key]
        case _:
            value[key] = draw.choice(odd)


@cache
def _client() -> Any:
    from tests.serve.paced import service

    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(service(Path(mkdtemp())))


def check_body(case: Case, seed: int) -> Outcome:
    """The service answers with 200, or with a problem in a line; a body that is not JSON never gets 200."""
    path, body = (case.path / "path").read_text(), (case.path / "body").read_bytes()
    answer = _client().post(path, content=body, headers={"Content-Type": "application/json"})
    if answer.status_code == 200:
        try:
            sent = json.loads(body.decode(), parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise Fault(f"200 for a body that is not JSON: {error}") from None
        stored = answer.json()
        if path in ("/v1/ratings", "/v1/events") and stored["stored"] != len(next(iter(sent.values()))):
            raise Fault(f"{stored} of {sent}")
        if path == "/v1/score" and len(stored["scores"]) != len(sent["candidates"]):
            raise Fault(f"{stored} of {sent}")
        return "read"
    if not 400 <= answer.status_code < 500:
        raise Fault(f"{answer.status_code} for {path}: {answer.text[:300]}")
    problem = answer.json()
    if "\n" in problem["detail"] or "Traceback" in answer.text:
        raise Fault(f"the problem is not one line: {problem}")
    return "refused"


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")
