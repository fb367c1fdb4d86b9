"""`palate.Client` against a running service."""

import json
import threading
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.serve.paced import PacedEngine, service

from palate import Client, ServiceError
from palate.errors import WorkError
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
    rated = [(47, 4.0), ("heat (1995)", 2.5), ("608", 3), schemas.Rated(item_id=1, rating=5, timestamp=7)]
    assert client.rate("ann", rated) == schemas.Stored(stored=4, repeated=False)
    found = {each.item_id: (each.rating, each.timestamp) for each in client.user("ann").ratings}
    assert {item: rating for item, (rating, _) in found.items()} == {1: 5, 47: 4, 6: 2.5, 608: 3}
    assert found[1] == (5, 7)
    shown = schemas.NewEvent(event="shown", user_id="ann", item_id=47)
    assert client.events([shown]).stored == 1


def test_the_rest_of_the_service(client: Client) -> None:
    assert client.items("matrx", 1)[0].title == "Matrix, The (1999)"
    assert client.model().default == "steps"
    assert [each.title for each in client.explain(47, user=42).effects] == ["Toy Story (1995)", "Heat (1995)"]


def test_a_call_that_is_repeated_with_its_key_is_stored_once(client: Client) -> None:
    assert client.rate("eve", [(47, 4.0)], key="k1").stored == 1
    assert client.rate("eve", [("Se7en (1995)", 4.0)], key="k1") == schemas.Stored(stored=0, repeated=True)
    with pytest.raises(ServiceError) as refusal:
        client.rate("eve", [(47, 5.0)], key="k1")
    assert (refusal.value.status, refusal.value.title) == (409, "Conflict")


def test_a_refusal_has_the_reason_of_the_service(client: Client) -> None:
    with pytest.raises(ServiceError, match="did you mean 'Heat") as refusal:
        client.score(["Heta (1995)"], user=42)
    found = refusal.value
    assert (found.status, found.title, found.retry_after) == (422, HTTPStatus(422).phrase, None)
    assert str(found) == f"{client.url}: {found.detail}"
    assert found.detail.startswith("candidates[0]: there is no title 'Heta (1995)'")
    with pytest.raises(ServiceError, match="there is no such user"):
        client.user("a/b")
    with pytest.raises(ServiceError, match="model: is 'x', expected one of"):
        list(client.stream(user=42, model="x"))
    with pytest.raises(ServiceError, match="has no language model"):
        client.prompt(47, user=42)
    with pytest.raises(ServiceError, match="expected the API key"), Client(client.url) as other:
        other.model()


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda client: client.recommend(user=42, top_k=0), r"^top_k: is 0, expected at least 1"),
        (lambda client: client.recommend(), r"^has neither user_id nor history, expected one"),
        (
            lambda client: client.score("Heat (1995)", user=42),
            r"^candidates: 'Heat \(1995\)' is no list, expected \['H",
        ),
        (lambda client: client.stream(user=42, candidates=47), r"^candidates: 47 is no list, expected \[47\]"),
        (lambda client: client.score([4.7], user=42), r"^candidates\[0\]: 4.7 is no item, expected an id or a title"),
        (lambda client: client.score([47], user=42, beside="other"), r"^beside: 'other' is no list"),
        (lambda client: client.score([47], history={"Heat (1995)": 5}), r"^history: .* is no list"),
        (
            lambda client: client.score([47], history=("Heat (1995)", 5)),
            r"^history\[0\]: 'Heat \(1995\)', expected an it",
        ),
        (lambda client: client.rate(42, [("Heta", 5)]), r"^ratings\[0\]: there is no title 'Heta', did you mean 'Heat"),
        (lambda client: client.rate(42, [("xyzzy", 5)]), r"there is no title 'xyzzy', and none that resembles it"),
    ],
)
def test_a_wrong_argument_is_one_line_with_the_way_out(client: Client, call: Any, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        call(client)


def test_filters_are_values_lists_and_bounds(client: Client) -> None:
    for filters in ({"genres": ("Crime", "Sci-Fi")}, {"year": {"min": 1996}}, {"year": schemas.Between(max=1990)}):
        assert client.recommend(user=42, filters=filters).recommendations


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("localhost:8000", "http://localhost:8000"),
        ("ftp://host", "http://HOST:PORT or https://HOST"),
        ("http://", "http://HOST:PORT or https://HOST"),
        ("http://host:port", "http://HOST:PORT or https://HOST"),
        ("http://[::1", "http://HOST:PORT or https://HOST"),
        ("", "http://HOST:PORT or https://HOST"),
    ],
)
def test_an_address_without_scheme_or_host_is_refused(url: str, expected: str) -> None:
    with pytest.raises(ValueError, match=r"is not the address of a service, expected") as refusal:
        Client(url)
    assert str(refusal.value).endswith(f"expected {expected}")


def test_an_error_within_a_stream_is_raised(tmp_path: Path) -> None:
    slow = service(tmp_path, PacedEngine(seconds=0.2), seconds=0.3)
    with slow as http, Client(str(http.base_url)) as client:
        with pytest.raises(ServiceError, match=r"no answer within 0.3 s"):
            list(client.stream(user=42))
        with pytest.raises(ServiceError) as late:
            client.recommend(user=42)
    assert (late.value.status, late.value.exit_code) == (503, 1)
    assert late.value.retry_after is not None
    assert late.value.retry_after >= 1


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


class Busy(Other):
    """A service whose queue stays full."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        body = b'{"title": "Too Many Requests", "status": 429, "detail": "64 requests wait"}'
        self.send_response(429)
        self.send_header("Retry-After", "7")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def test_a_service_that_stays_busy_says_when_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palate.client.time.sleep", lambda seconds: None)
    server = HTTPServer(("127.0.0.1", 0), Busy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with (
        Client(f"http://127.0.0.1:{server.server_port}") as client,
        pytest.raises(ServiceError, match=r"64 requests wait \(6 tries\)$") as busy,
    ):
        client.recommend(user=1)
    server.shutdown()
    server.server_close()
    assert (busy.value.status, busy.value.retry_after, busy.value.exit_code) == (429, 7, 1)
