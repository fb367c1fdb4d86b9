"""Scoring endpoints of servers: one request for the answers to many candidates behind one prefix.

vLLM's `/generative_scoring` gives the probability of the first of some tokens, so it takes two requests; SGLang's
`/v1/score` gives those of all. Both compute the prefix once, over the whole vocabulary with `apply_softmax` off.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from palate.errors import WorkError
from palate.score.backend import Floats, Ids
from palate.score.client import Client, RefusedError

Endpoint = Literal["/generative_scoring", "/v1/score"]
ENDPOINTS: tuple[Endpoint, ...] = ("/generative_scoring", "/v1/score")
LEAST = 1e-30
"""A probability that a server rounds to 0 counts as this."""


def log_p_of(
    client: Client, endpoint: Endpoint, model: str, prefix: Ids, rests: Sequence[Ids], answers: tuple[int, int]
) -> Floats:
    """log P of both answers after the prefix and each of the rests, (n, 2) float32.

    Raises `WorkError` for a reply in another form, and `RefusedError` for a server without the endpoint.
    """
    found = np.empty((len(rests), 2), np.float32)
    if endpoint == "/v1/score":
        found[:] = _read(_sglang, client.post(endpoint, _body(model, prefix, rests, answers)), client.url, len(rests))
        return _log(found)
    for column, labels in enumerate((answers, answers[::-1])):
        reply = client.post(endpoint, _body(model, prefix, rests, labels))
        found[:, column] = _read(_vllm, reply, client.url, len(rests))
    return _log(found)


def endpoint_at(
    client: Client, model: str, probe: Ids, answers: tuple[int, int], expected: tuple[float, float], slack: float
) -> Endpoint | None:
    """The endpoint of a server that gives the answers to a prompt that are `expected` within `slack`, if it has one."""
    for endpoint in ENDPOINTS:
        try:
            found = log_p_of(client, endpoint, model, probe[:-1], [probe[-1:]], answers)[0]
        except (RefusedError, WorkError):
            continue
        if np.abs(found - expected).max() <= slack:
            return endpoint
    return None


def _body(model: str, prefix: Ids, rests: Sequence[Ids], labels: Sequence[int]) -> dict[str, Any]:
    return {
        "model": model,
        "query": [int(token) for token in prefix],
        "items": [[int(token) for token in rest] for rest in rests],
        "label_token_ids": [int(label) for label in labels],
        "apply_softmax": False,
        "item_first": False,
        "add_special_tokens": False,
    }


def _read(form: Any, reply: Any, url: str, rows: int) -> Any:
    try:
        found = np.array(form(reply), np.float64)
    except (LookupError, TypeError, ValueError) as error:
        raise WorkError(f"{url}: its scoring endpoint replies in an unknown format: {str(reply)[:200]}") from error
    if len(found) != rows or not ((found >= 0) & (found <= 1 + 1e-3)).all():
        raise WorkError(f"{url}: its scoring endpoint returns no probabilities of {rows} candidates")
    return found


def _sglang(reply: Any) -> Any:
    return [[float(p) for p in (first, second)] for first, second in reply["scores"]]


def _vllm(reply: Any) -> Any:
    return [float(each["score"]) for each in sorted(reply["data"], key=lambda each: each["index"])]


def _log(p: Floats) -> Floats:
    return np.asarray(np.log(np.maximum(p, np.float32(LEAST))), np.float32)
