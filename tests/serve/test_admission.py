"""The service under more requests than it can work on, with clients that leave, and with a new release."""

import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2 as httpx
import pytest
from tests.serve.paced import PacedEngine, running, service

from palate.serve.app import Options, app_of
from palate.serve.source import EngineSource
from palate.serve.store import Store

ASKED = {"history": [], "candidates": [{"item_id": 1}, {"item_id": 6}, {"item_id": 47}]}


def until(holds: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Whether a condition holds within some seconds."""
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.01)
    return holds()


def gauge(client: httpx.Client, name: str) -> float:
    line = next(line for line in client.get("/metrics").text.splitlines() if line.startswith(f"{name} "))
    return float(line.split()[1])


def hanging(client: httpx.Client, body: dict[str, object]) -> socket.socket:
    """A connection that has sent a request and reads nothing."""
    url = httpx.URL(str(client.base_url))
    raw = socket.create_connection((url.host, url.port))
    text = json.dumps(body).encode()
    head = f"POST /v1/{'recommend' if 'candidates' not in body else 'score'} HTTP/1.1\r\nhost: localhost\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(text)}\r\n\r\n"
    raw.sendall(head.encode() + text)
    return raw


def test_work_and_queue_are_bounded_and_the_rest_is_told_when_to_come_again(tmp_path: Path) -> None:
    engine = PacedEngine(seconds=0.1)
    with service(tmp_path, engine, in_work=2, queue=3) as client, ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: client.post("/v1/score", json=ASKED), range(12)))

    assert sorted({each.status_code for each in answers}) == [200, 429]
    assert sum(each.status_code == 200 for each in answers) == 5
    assert engine.most == 2
    for each in answers:
        assert each.status_code == 200 or int(each.headers["retry-after"]) >= 1


def test_items_answer_while_the_models_are_busy(tmp_path: Path) -> None:
    with service(tmp_path, PacedEngine(seconds=0.3), in_work=1, queue=0) as client, ThreadPoolExecutor(1) as pool:
        slow = pool.submit(client.post, "/v1/score", json=ASKED)
        assert until(lambda: gauge(client, "palate_in_flight") == 1)
        assert client.get("/v1/items/1").status_code == 200
        assert not slow.done()


def test_classical_models_do_not_wait_behind_a_language_model(tmp_path: Path) -> None:
    engine = PacedEngine(seconds=0.2)
    with service(tmp_path, engine, in_work=1, queue=0) as client, ThreadPoolExecutor(1) as pool:
        slow = pool.submit(client.post, "/v1/score", json=ASKED)
        assert until(lambda: gauge(client, "palate_in_flight") == 1)
        assert client.post("/v1/score", json=ASKED).status_code == 429
        assert client.post("/v1/score", json={**ASKED, "beside": ["other"], "model": "other"}).status_code == 200
        assert slow.result().status_code == 200


def test_a_client_that_hangs_up_frees_its_work(tmp_path: Path) -> None:
    engine = PacedEngine(seconds=0.1)
    many = {"history": [], "candidates": [{"item_id": 1}] * 500}
    with service(tmp_path, engine, in_work=1, queue=1) as client:
        hanging_up = [hanging(client, many), hanging(client, many)]
        assert until(lambda: gauge(client, "palate_in_flight") == 1 and gauge(client, "palate_queue") == 1)
        for each in reversed(hanging_up):  # first the one that waits
            each.close()
        assert until(lambda: engine.in_work == 0 and gauge(client, "palate_in_flight") == 0)
        assert engine.scored < 100
        assert client.post("/v1/score", json=ASKED).status_code == 200
        assert 'route="/v1/score",status="499"} 2.0' in client.get("/metrics").text


def test_a_client_that_leaves_a_stream_frees_its_work(tmp_path: Path) -> None:
    engine = PacedEngine(seconds=0.2)
    with service(tmp_path, engine) as client:
        raw = hanging(client, {"history": [], "stream": True})
        received = b""
        while b"event: start" not in received:
            received += raw.recv(10_000)
        raw.close()
        assert until(lambda: engine.in_work == 0, 1.0)
    assert engine.scored < 6


def test_the_first_events_come_before_the_last_item_is_scored(tmp_path: Path) -> None:
    with service(tmp_path, PacedEngine(seconds=0.2)) as client:
        began, seen = time.monotonic(), {}
        with client.stream("POST", "/v1/recommend", json={"history": [], "stream": True}) as answer:
            for line in answer.iter_lines():
                if line.startswith("event: "):
                    seen.setdefault(line.removeprefix("event: "), time.monotonic() - began)
    assert seen["scored"] < seen["end"] / 2


def test_an_answer_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    engine = PacedEngine(seconds=0.2)
    with service(tmp_path, engine, seconds=0.5) as client:
        answer = client.post("/v1/score", json=ASKED)
        assert (answer.status_code, answer.json()["detail"]) == (503, "no answer within 0.5 s")
        with client.stream("POST", "/v1/recommend", json={"history": [], "stream": True}) as stream:
            text = stream.read().decode()
        assert "event: error" in text
        assert "event: end" not in text
        assert until(lambda: engine.in_work == 0, 1.0)


def test_who_waits_too_long_is_told_to_come_again(tmp_path: Path) -> None:
    long = {"history": [], "candidates": [{"item_id": 1}] * 4}
    with service(tmp_path, PacedEngine(seconds=0.1), in_work=1, queue=5, seconds=0.6) as client:
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: client.post("/v1/score", json=long), range(4)))
        statuses = sorted(each.status_code for each in answers)
    assert statuses[0] == 200
    assert set(statuses) == {200, 429}


def test_the_first_refusal_asks_for_a_wait_by_the_age_of_those_in_work(tmp_path: Path) -> None:
    with service(tmp_path, PacedEngine(seconds=0.8), in_work=1, queue=0) as client, ThreadPoolExecutor(1) as pool:
        slow = pool.submit(client.post, "/v1/score", json=ASKED)
        assert until(lambda: gauge(client, "palate_in_flight") == 1)
        time.sleep(1.2)
        assert int(client.post("/v1/score", json=ASKED).headers["retry-after"]) >= 2
        assert slow.result().status_code == 200


def test_a_new_release_takes_over_without_losing_a_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palate.serve.app.POLL", 0.2)
    engines = [PacedEngine("first", seconds=0.01)]
    release = [Path("first")]

    def load(path: Path) -> PacedEngine:
        engines.append(PacedEngine(path.name, seconds=0.01))
        return engines[-1]

    store = Store(f"sqlite:///{tmp_path / 'store.sqlite'}")
    source = EngineSource(engines[0], lambda: release[0], load)
    ended = threading.Event()

    def ask(url: str) -> list[int]:
        found = []
        with httpx.Client(base_url=url, timeout=20) as client:
            while not ended.is_set():
                found.append(client.post("/v1/score", json=ASKED).status_code)
        return found

    with running(app_of(source, store, Options())) as url, ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask, url) for _ in range(4)]
        for name in ("second", "third"):
            release[0] = Path(name)
            assert until(lambda name=name: httpx.get(f"{url}/v1/model").json()["run"] == name)
        time.sleep(0.2)
        ended.set()
        answers = [status for each in asking for status in each.result()]
    store.close()
    assert len(answers) > 20
    assert set(answers) == {200}
    assert [each.closed for each in engines] == [True, True, False]
    assert [each.in_work for each in engines] == [0, 0, 0]


def test_a_release_that_cannot_be_loaded_leaves_the_earlier_one(tmp_path: Path) -> None:
    release = [Path("good")]

    def load(path: Path) -> PacedEngine:
        raise ValueError("broken")

    source = EngineSource(PacedEngine("good"), lambda: release[0], load)
    release[0] = Path("bad")
    assert not source.refresh()
    with source.lease() as serving:
        assert serving.about.run == "good"
