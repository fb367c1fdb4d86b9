"""Servers of other kinds, and servers that fail: what passes is tried again, what does not is told in one line."""

import http.client
import itertools
import os
import signal
import threading
import time
from contextlib import closing
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from typing import Any

import numpy as np
import pytest
from tests.score.stub import Stub, send, serving
from tests.small import small_tokenizer

from palate.errors import InputError, PalateError, WorkError
from palate.prompt.chat import Chat
from palate.score import client
from palate.score.server import connect

PROMPTS = [[10, 20, 30], [10, 20], [5, 6, 7, 8], [10, 20, 31]]


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_WAIT", 0.01)
    monkeypatch.delenv(client.KEY_VARIABLE, raising=False)


@pytest.fixture(scope="module")
def chat() -> Chat:
    return Chat(small_tokenizer())


def expected(stub: Stub, chat: Chat, prompts: list[list[int]] = PROMPTS) -> Any:
    ids = [chat.decision.yes_id, chat.decision.no_id]
    return np.array([stub.log_p("adapter", prompt)[ids] for prompt in prompts])


@pytest.mark.parametrize("after_bias", [False, True])
@pytest.mark.parametrize("form", ["vllm", "text", "llama.cpp"])
@pytest.mark.parametrize("top", [3, 20])
def test_answers_outside_the_top_are_found_exactly(chat: Chat, form: str, after_bias: bool, top: int) -> None:
    stub = Stub(chat.tokenizer, form, after_bias, top)
    with serving(stub) as url:
        found = connect(url, "adapter", chat, PROMPTS[:2]).answers(PROMPTS)
    np.testing.assert_allclose(found, expected(stub, chat), atol=1e-4)
    assert sum("logit_bias" in (body or {}) for body in stub.asked) > len(PROMPTS)


@pytest.mark.parametrize(("endpoint", "requests"), [("/generative_scoring", 2), ("/v1/score", 1)])
def test_a_scoring_endpoint_takes_all_candidates_at_once(chat: Chat, endpoint: str, requests: int) -> None:
    stub = Stub(chat.tokenizer, endpoint=endpoint)
    rests = [[n, 7] for n in range(40)]
    with serving(stub) as url:
        backend = connect(url, "adapter", chat, PROMPTS[:2])
        assert backend.endpoint == endpoint
        before = len(stub.asked)
        told: list[int] = []
        found = backend.answers_behind([10, 20], rests, 8, told.append)
    np.testing.assert_allclose(found, expected(stub, chat, [[10, 20, *rest] for rest in rests]), atol=1e-4)
    assert len(stub.asked) - before == requests
    assert sum(told) == 40


@pytest.mark.parametrize("spoilt", [{}, {"endpoint": "/v1/score", "off": -1.0}])
def test_a_server_without_such_an_endpoint_or_with_other_probabilities_gets_single_prompts(
    chat: Chat, spoilt: dict[str, Any]
) -> None:
    stub = Stub(chat.tokenizer, **spoilt)
    with serving(stub) as url:
        backend = connect(url, "adapter", chat, PROMPTS[:2])
        assert backend.endpoint is None
        found = backend.answers_behind([10, 20], [[1], [2]], 8, lambda n: None)
    np.testing.assert_allclose(found, expected(stub, chat, [[10, 20, 1], [10, 20, 2]]), atol=1e-4)


def test_an_unreadable_reply_of_a_scoring_endpoint_stops_the_work(chat: Chat) -> None:
    stub = Stub(chat.tokenizer, endpoint="/v1/score")
    with serving(stub) as url:
        backend = connect(url, "adapter", chat, PROMPTS[:2])
        for reply in ({}, {"scores": [[0.5]]}, {"scores": [[0.5, 1.5]]}, {"scores": [[0.5, 0.1]] * 2}):
            stub.score = lambda path, body, reply=reply: reply  # type: ignore[method-assign]
            with pytest.raises(WorkError, match=r"scoring endpoint"):
                backend.answers_behind([10, 20], [[1]], 8, lambda n: None)


def test_an_answer_that_no_bias_brings_up_stops_the_work(chat: Chat) -> None:
    with (
        serving(Stub(chat.tokenizer, top=3, scale=0.0)) as url,
        pytest.raises(WorkError, match=r"does not return .* nor choose it with a logit_bias of 100"),
    ):
        connect(url, "adapter", chat, PROMPTS)


def test_a_bias_that_is_worth_something_else_is_noticed(chat: Chat) -> None:
    with (
        serving(Stub(chat.tokenizer, after_bias=True, scale=0.9)) as url,
        pytest.raises(WorkError, match="it does not add logit_bias to logits"),
    ):
        connect(url, "adapter", chat, PROMPTS)


def test_texts_that_two_tokens_share_cannot_be_looked_up(chat: Chat) -> None:
    twice = small_tokenizer()
    twice.add_tokens(["<a>", "<b>"])
    two = Chat(twice)
    two.__dict__["decision"] = chat.decision
    with serving(Stub(twice, "text")) as url:
        backend = connect(url, "adapter", two, PROMPTS[:1])
        backend.__dict__.pop("_answer_texts", None)
        backend.texts[two.decision.no_id + 1] = backend.texts[two.decision.no_id]
        with pytest.raises(InputError, match="names tokens by their text, and 2 tokens read 'No'"):
            backend.answers(PROMPTS)


def test_a_server_that_takes_no_ids_is_sent_text(chat: Chat) -> None:
    prompts = chat.decision_prompts([[{"role": "user", "content": word}] for word in ("Heat", "Alien")])
    stub = Stub(chat.tokenizer, takes_ids=False)
    with serving(stub) as url:
        backend = connect(url, "adapter", chat, prompts)
        found = backend.answers(prompts)
    assert backend.as_text
    np.testing.assert_allclose(found, expected(stub, chat, prompts), atol=1e-4)


def test_a_server_that_adds_a_token_to_prompts_is_refused(chat: Chat) -> None:
    with (
        serving(Stub(chat.tokenizer, bos=1)) as url,
        pytest.raises(InputError, match=r"counts 4 tokens in a prompt of 3: .* BOS token"),
    ):
        connect(url, "adapter", chat, PROMPTS)


def spoils(times: int, how: Any) -> Any:
    """Spoil the first answers to questions, counted without the list of models."""
    left = [times]
    lock = threading.Lock()

    def spoil(handler: BaseHTTPRequestHandler, n: int) -> bool:
        if handler.path == "/v1/models":
            return False
        with lock:
            left[0] -= 1
            if left[0] < 0:
                return False
        how(handler)
        return True

    return spoil


def drop(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True


def cut(handler: BaseHTTPRequestHandler) -> None:
    """Announce more than is sent."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.close_connection = True


PASSING = {
    "429": lambda handler: send(handler, 429, {"error": {"message": "slow down"}}, Retry_After="0"),
    "500": lambda handler: send(handler, 500, b"oops"),
    "503": lambda handler: send(handler, 503, {"error": {"message": "Loading model"}}),
    "dropped": drop,
    "cut": cut,
    "half": lambda handler: send(handler, 200, b'{"choices": ['),
}


@pytest.mark.parametrize("fault", PASSING)
def test_what_passes_is_tried_again_and_the_order_kept(chat: Chat, fault: str) -> None:
    stub = Stub(chat.tokenizer)
    with serving(stub) as url:
        backend = connect(url, "adapter", chat, PROMPTS[:1])
        stub.spoil = spoils(5, PASSING[fault])
        np.testing.assert_allclose(backend.answers(PROMPTS), expected(stub, chat), atol=1e-4)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("429", r"answers 429: slow down \(6 tries\)"),
        ("500", r"answers 500: oops \(6 tries\)"),
        ("dropped", r"the connection broke off \(6 tries\)"),
        ("cut", r"the connection broke off \(6 tries\)"),
        ("half", r"answers with broken JSON \(6 tries\)"),
    ],
)
def test_what_does_not_pass_is_given_up_with_the_reason(chat: Chat, fault: str, said: str) -> None:
    stub = Stub(chat.tokenizer)
    with serving(stub) as url:
        backend = connect(url, "adapter", chat, PROMPTS[:1])
        stub.spoil = spoils(10**6, PASSING[fault])
        with pytest.raises(WorkError, match=rf"^{url}: {said}$"):
            backend.answers(PROMPTS)


def test_a_server_is_given_as_long_as_it_asks_for(chat: Chat) -> None:
    stub = Stub(chat.tokenizer)
    with serving(stub) as url:
        backend = connect(url, "adapter", chat, PROMPTS[:1])
        stub.spoil = spoils(1, lambda handler: send(handler, 429, {}, Retry_After="1"))
        started = time.monotonic()
        backend.answers(PROMPTS[:1])
        assert time.monotonic() - started >= 1


def test_a_missing_or_wrong_key_is_told_and_the_right_one_sent(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Stub(chat.tokenizer, key="sesame")) as url:
        with pytest.raises(InputError, match=r"asks for an API key \(401\), expected it in \$PALATE_SERVER_KEY$"):
            connect(url, "adapter", chat, PROMPTS)
        monkeypatch.setenv("PALATE_SERVER_KEY", "wrong")
        with pytest.raises(InputError, match=r"refuses the API key in \$PALATE_SERVER_KEY \(401\)$"):
            connect(url, "adapter", chat, PROMPTS)
        monkeypatch.setenv("PALATE_SERVER_KEY", "sesame")
        backend = connect(url, "adapter", chat, PROMPTS)
        assert backend.answers(PROMPTS).shape == (4, 2)
        assert "sesame" not in repr(backend)


def test_replies_without_log_probabilities_are_told(chat: Chat) -> None:
    stub = Stub(chat.tokenizer)
    bare = {"choices": [{"text": "Yes", "logprobs": None}], "usage": {"prompt_tokens": 3}}
    stub.spoil = spoils(10**6, lambda handler: send(handler, 200, bare))
    with (
        serving(stub) as url,
        pytest.raises(InputError, match="answers without log-probabilities, expected"),
    ):
        connect(url, "adapter", chat, PROMPTS)


def test_a_server_of_another_kind_is_told(chat: Chat) -> None:
    stub = Stub(chat.tokenizer)
    stub.spoil = lambda handler, n: send(handler, 404, {"detail": "Not Found"}) is None
    with (
        serving(stub) as url,
        pytest.raises(InputError, match=r"has no /v1/completions \(Not Found\), expected an"),
    ):
        connect(url, "adapter", chat, PROMPTS)


def test_an_error_in_one_prompt_does_not_wait_for_the_others(chat: Chat) -> None:
    stub = Stub(chat.tokenizer)
    with serving(stub) as url:
        backend = connect(url, "adapter", chat, PROMPTS[:1])
        done = threading.Event()

        def spoil(handler: BaseHTTPRequestHandler, n: int) -> bool:
            if stub.asked[n - 1]["prompt"] == PROMPTS[0]:
                send(handler, 400, {"error": {"message": "too long"}})
                return True
            return done.wait(20)

        stub.spoil = spoil
        started = time.monotonic()
        with pytest.raises(PalateError, match=r"refuses a prompt of 3 tokens \(400\): too long"):
            backend.answers(PROMPTS)
        assert time.monotonic() - started < 10
        done.set()


def test_a_connection_that_comes_about_while_all_are_cut_asks_nothing(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = Stub(chat.tokenizer)
    with serving(stub) as url, closing(client.Client(url, None)) as asking:
        connect_to = http.client.HTTPConnection.connect

        def connect_late(connection: http.client.HTTPConnection) -> None:
            asking.close()
            connect_to(connection)

        monkeypatch.setattr(http.client.HTTPConnection, "connect", connect_late)
        with pytest.raises(WorkError, match="interrupted"):
            asking.post("/v1/completions", {"prompt": PROMPTS[0]})
    assert stub.asked == []


def test_ctrl_c_does_not_wait_for_answers_in_flight(chat: Chat) -> None:
    stub = Stub(chat.tokenizer)
    with serving(stub) as url:
        backend = connect(url, "adapter", chat, PROMPTS[:1])
        before, done = len(stub.asked), threading.Event()

        def spoil(handler: BaseHTTPRequestHandler, n: int) -> bool:
            if n == before + len(PROMPTS):  # all of them wait
                os.kill(os.getpid(), signal.SIGINT)
            return done.wait(20)

        stub.spoil = spoil
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            backend.answers(PROMPTS)
        assert time.monotonic() - started < 10
        done.set()


def test_prompts_with_a_common_beginning_follow_each_other(chat: Chat) -> None:
    stub = Stub(chat.tokenizer, top=400)
    draw = np.random.default_rng(0)
    prompts = [[group, *draw.integers(0, 99, 3).tolist()] for group in (3, 1, 2) * 4]
    with serving(stub) as url:
        backend = replace(connect(url, "adapter", chat, PROMPTS[:1]), in_flight=1)
        stub.asked.clear()
        found = backend.answers(prompts)
    groups = [body["prompt"][0] for body in stub.asked]
    assert sum(a != b for a, b in itertools.pairwise(groups)) == 2
    np.testing.assert_allclose(found, expected(stub, chat, prompts), atol=1e-4)
