"""`palate.Client` against a running service."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.serve.paced import PacedEngine, service

from palate import Client
from palate.errors import InputError, WorkError
from palate.serve import schemas


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with service(tmp_path_factory.mktemp("store"), key="k") as http, Client(str(http.base_url), "k") as client:
        yield client


def test_items_and_histories_are_written_as_people_name_them(client: Client) -> None:
    answer = client.score([47, "Heat (1995)", schemas.Item(item_id="608")], history=[("Toy Story (1995)", 5), (6, 4.5)])

    assert [each.item_id for each in answer.scores] == [47, 6, 608]
    assert answer.ratings == 2


def test_a_stream_ends_with_what_recommend_returns(client: Client) -> None:
    choice: Any = {"user": 42, "top_k": 2, "filters": {"genres": ["Crime", "Sci-Fi"]}}
    start, *parts, end = client.stream(**choice)

    assert isinstance(start, schemas.Started)
    assert [part.done for part in parts if isinstance(part, schemas.ScoredPart)] == [1, 2, 3, 4]
    assert end == client.recommend(**choice)


def test_ratings_are_stored_and_read(client: Client) -> None:
    assert client.rate("ann", [(47, 4.0), (6, 2.5)]) == schemas.Stored(stored=2, repeated=False)
    assert [each.rating for each in client.user("ann").ratings] == [4.0, 2.5]
    shown = schemas.NewEvent(event="shown", user_id="ann", item_id=47)
    assert client.events([shown]).stored == 1


def test_the_rest_of_the_service(client: Client) -> None:
    assert client.items("matrx", 1)[0].title == "Matrix, The (1999)"
    assert client.model().default == "steps"
    assert [each.title for each in client.explain(47, user=42).effects] == ["Toy Story (1995)", "Heat (1995)"]


def test_a_refusal_has_the_reason_of_the_service(client: Client) -> None:
    with pytest.raises(InputError, match="did you mean 'Heat"):
        client.score(["Heta (1995)"], user=42)
    with pytest.raises(InputError, match="there is no such user"):
        client.user("a/b")
    with pytest.raises(InputError, match="model: is 'x', expected one of"):
        list(client.stream(user=42, model="x"))
    with pytest.raises(InputError, match="expected the API key"), Client(client.url) as other:
        other.model()
    with pytest.raises(InputError, match=r"^top_k: Input should be greater"):
        client.recommend(user=42, top_k=0)


def test_an_error_within_a_stream_is_raised(tmp_path: Path) -> None:
    slow = service(tmp_path, PacedEngine(seconds=0.2), seconds=0.3)
    with slow as http, Client(str(http.base_url)) as client, pytest.raises(WorkError, match=r"no answer within 0.3 s"):
        list(client.stream(user=42))


class Broken(BaseHTTPRequestHandler):
    """Hangs up at the first request, is busy at the second, and answers the third."""

    bodies: list[Any] = []  # noqa: RUF012

    def do_POST(self) -> None:
        self.bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        if len(self.bodies) == 1:
            self.connection.close()
            return
        status, body = (429, {"detail": "busy"}) if len(self.bodies) == 2 else (200, {"stored": 1, "repeated": False})
        self.send_response(status)
        self.send_header("Retry-After", "3")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *args: object) -> None:
        pass


def test_a_request_is_repeated_with_its_key_when_the_service_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("palate.client.time.sleep", waits.append)
    server = HTTPServer(("127.0.0.1", 0), Broken)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with Client(f"http://127.0.0.1:{server.server_port}") as client:
        assert client.rate(42, [(47, 4.0)]).stored == 1
    server.shutdown()
    server.server_close()

    assert waits == [0.5, 3.0]
    assert len(Broken.bodies) == 3
    assert len({each["key"] for each in Broken.bodies}) == 1


def test_an_address_without_a_service_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palate.client.time.sleep", lambda seconds: None)
    with (
        Client("http://127.0.0.1:9") as client,
        pytest.raises(WorkError, match=r":9: cannot be reached.*6 tri"),
    ):
        client.model()


class Other(BaseHTTPRequestHandler):
    """Another program, which answers everything with a page."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        page = b"data: <html>\n\n"
        self.send_response(200)
        self.send_header("content-length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_: Any) -> None:
        pass


def test_an_answer_of_another_program_is_one_line() -> None:
    server = HTTPServer(("127.0.0.1", 0), Other)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with Client(f"http://127.0.0.1:{server.server_port}") as other:
        for call in (lambda: other.recommend(user=1), lambda: list(other.stream(user=1))):
            with pytest.raises(WorkError, match="an unreadable answer, is it a service of Palate"):
                call()
    server.shutdown()
    server.server_close()
