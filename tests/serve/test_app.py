"""The service over HTTP: answers, wrong input, the API key, and what a body may be."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from tests.serve.paced import service

from palate.console import begin_log, logs_json
from palate.serve import schemas
from palate.serve.examples import EXAMPLES

HISTORY = [{"title": "Toy Story (1995)", "rating": 5}]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with service(tmp_path_factory.mktemp("store"), body=50_000) as client:
        yield client


def events_of(answer: httpx.Response) -> list[tuple[str, Any]]:
    found = []
    for block in answer.text.strip().split("\n\n"):
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def test_scores_stand_in_the_order_of_the_candidates(client: httpx.Client) -> None:
    asked = {"history": HISTORY, "candidates": [{"item_id": 47}, {"title": "heat (1995)"}], "beside": ["other"]}
    answer = client.post("/v1/score", json=asked).json()

    assert [each["title"] for each in answer["scores"]] == ["Se7en (1995)", "Heat (1995)"]
    assert [each["p"] for each in answer["scores"]] == pytest.approx([0.625, 0.25])
    assert answer["scores"][0]["beside"] == {"other": pytest.approx(0.625)}
    assert answer["ratings"] == 1
    assert answer["model"] == "steps"


def test_recommendations_are_the_best_of_what_the_person_has_not_rated(client: httpx.Client) -> None:
    answer = client.post("/v1/recommend", json={"user_id": 42, "top_k": 3}).json()

    assert [each["item_id"] for each in answer["recommendations"]] == [1214, 47, 608]
    assert (answer["candidates"], answer["left_out"], answer["retriever"]) == (4, 2, "classical")


@pytest.mark.parametrize(
    ("filters", "titles"),
    [
        ({"genres": "comedy"}, {"Toy Story (1995)", "Fargo (1996)"}),
        ({"genres": ["Crime", "Children"]}, {"Toy Story (1995)", "Fargo (1996)", "Se7en (1995)"}),
        ({"year": {"min": 1996}}, {"Matrix, The (1999)", "Fargo (1996)"}),
        ({"year": 1979}, {"Alien (1979)"}),
        ({"old": True}, {"Alien (1979)"}),
        ({"title": "alien (1979)", "year": {"max": 1979}}, {"Alien (1979)"}),
        ({"genres": "Crime", "year": 1999}, set()),
    ],
)
def test_filters_leave_the_items_that_pass_all(client: httpx.Client, filters: Any, titles: set[str]) -> None:
    answer = client.post("/v1/recommend", json={"history": [], "filters": filters, "include_seen": True})

    assert {each["title"] for each in answer.json()["recommendations"]} == titles


def test_a_stream_ends_with_the_answer_that_comes_without_one(client: httpx.Client) -> None:
    asked = {"history": HISTORY, "top_k": 2, "beside": ["other"]}
    plain = client.post("/v1/recommend", json=asked).json()
    answer = client.post("/v1/recommend", json={**asked, "stream": True})
    found = events_of(answer)

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert [name for name, _ in found] == ["start", *["scored"] * 5, "end"]
    assert found[0][1] == {"model": "steps", "candidates": 5, "retriever": "classical", "left_out": 1}
    assert [part["done"] for name, part in found if name == "scored"] == [1, 2, 3, 4, 5]
    assert found[-1][1] == plain
    scored = [item for name, part in found if name == "scored" for item in part["items"]]
    assert all(item["beside"] for item in scored), "a classical model answers with each part"


def test_an_explanation_has_an_effect_for_each_rating(client: httpx.Client) -> None:
    answer = client.post("/v1/explain", json={"user_id": 42, "candidate": {"item_id": 47}}).json()

    assert answer["score"]["title"] == "Se7en (1995)"
    assert [each["title"] for each in answer["effects"]] == ["Toy Story (1995)", "Heat (1995)"]


def test_stored_ratings_are_part_of_the_user_and_of_the_next_answer(client: httpx.Client) -> None:
    asked = {"user_id": "new", "top_k": 10}
    assert client.post("/v1/recommend", json=asked).status_code == 404

    rated = {"key": "first", "ratings": [{"user_id": "new", "item_id": 47, "rating": 4.5, "timestamp": 7}]}
    assert client.post("/v1/ratings", json=rated).json() == {"stored": 1, "repeated": False}
    assert client.post("/v1/ratings", json=rated).json() == {"stored": 0, "repeated": True}
    assert client.get("/v1/users/new").json()["ratings"] == [
        {"item_id": 47, "title": "Se7en (1995)", "rating": 4.5, "timestamp": 7, "stored": True}
    ]
    assert client.post("/v1/recommend", json=asked).json()["left_out"] == 1


def test_a_stored_rating_that_the_log_has_counts_once(client: httpx.Client) -> None:
    rated = [{"user_id": "42", "item_id": item, "rating": 5, "timestamp": at} for item, at in ((1, 10), (47, 30))]
    before = len(client.get("/v1/users/42").json()["ratings"])
    client.post("/v1/ratings", json={"ratings": rated})

    assert [each["item_id"] for each in client.get("/v1/users/42").json()["ratings"]] == [1, 6, 47]
    assert before == 2


def test_a_stored_rating_older_than_that_of_the_log_does_not_count(client: httpx.Client) -> None:
    def own() -> list[tuple[int, float]]:
        return [(each["item_id"], each["rating"]) for each in client.get("/v1/users/42").json()["ratings"]]

    before = own()
    client.post("/v1/ratings", json={"ratings": [{"user_id": 42, "item_id": 6, "rating": 1, "timestamp": 19}]})
    assert own() == before


def test_a_repeated_request_without_a_time_is_stored_once(client: httpx.Client) -> None:
    asked = {"key": "timeless", "ratings": [{"user_id": 9, "item_id": 47, "rating": 4}]}
    assert [client.post("/v1/ratings", json=asked).json()["stored"] for _ in range(2)] == [1, 0]


def test_a_key_with_another_body_is_a_conflict(client: httpx.Client) -> None:
    def store(user: int) -> httpx.Response:
        event = {"event": "shown", "user_id": user, "item_id": 47}
        return client.post("/v1/events", json={"key": "one", "events": [event]})

    assert [store(user).status_code for user in (1, 1, 2)] == [200, 200, 409]


WRONG = [
    ("score", {"history": [], "candidates": []}, 422, "candidates: is [], expected at least 1"),
    ("score", {"candidates": [{"item_id": 1}]}, 422, "the body has neither user_id nor history, expected one"),
    (
        "score",
        {"history": [], "candidates": [{"item_id": 1}], "modle": "x"},
        422,
        "modle: is no field, did you mean 'mo",
    ),
    ("score", {"history": [], "candidates": [{"item_id": 9}]}, 422, "candidates[0]: there is no item '9'"),
    (
        "score",
        {"history": [], "candidates": [{"item_id": 1, "title": "x"}]},
        422,
        "candidates[0]: has both, expected e",
    ),
    (
        "score",
        {"history": [], "candidates": [{"item_id": []}]},
        422,
        "candidates[0].item_id: is [], expected a whole",
    ),
    ("score", {"history": []}, 422, "candidates: is missing"),
    ("score", [], 422, "the body is [], expected an object"),
    ("score", {"user_id": 7, "candidates": [{"item_id": 1}]}, 404, "there is no such user"),
    (
        "score",
        {"user_id": 42, "candidates": [{"item_id": 1}] * 2001},
        422,
        "is a list of 2,001, expected at most 2,000",
    ),
    ("recommend", {"history": [{"title": "Tye Story", "rating": 5}]}, 422, "did you mean 'Toy Story (1995)'?"),
    ("recommend", {"history": [{"item_id": 1, "rating": 6}]}, 422, "history[0]: rating 6, expected one from 0.5 to 5"),
    ("recommend", {"history": [{"item_id": 1, "rating": float("nan")}]}, 422, "is NaN, expected a finite number"),
    ("recommend", {"history": [{"item_id": 1, "rating": True}]}, 422, "history[0].rating: is true, expected a number"),
    ("recommend", {"history": [{"item_id": 1, "rating": "x" * 999}]}, 422, f"is '{'x' * 79}…, expected a number"),
    ("recommend", {"user_id": 42, "history": []}, 422, "has both user_id and history, expected one"),
    (
        "recommend",
        {"user_id": 42, "filters": {"year": {"min": float("nan")}}},
        422,
        'filters.year: is {"min": NaN}, expec',
    ),
    (
        "recommend",
        {"user_id": 42, "filters": {"year": float("inf")}},
        422,
        "filters.year: is Infinity, expected a text, ",
    ),
    ("recommend", {"user_id": 42, "filters": {"genres": "Comdy"}}, 422, "no item has 'Comdy', did you mean 'Comedy'?"),
    ("recommend", {"user_id": True}, 422, "user_id: is true, expected a whole number or a text of 1 to 500 characters"),
    ("recommend", {"user_id": 10**500}, 422, "user_id: "),
    (
        "recommend",
        {"user_id": 42, "model": "steqs"},
        422,
        "is 'steqs', expected one of steps, other, did you mean 'ste",
    ),
    ("recommend", {"user_id": 42, "beside": ["x"]}, 422, "beside[0]: is 'x'"),
    ("recommend", {"user_id": 42, "retriever": "item-kn"}, 422, "or 'all', did you mean 'item-knn'?"),
    ("recommend", {"user_id": 42, "filters": {"genre": "x"}}, 422, "old, title, did you mean 'genres'?"),
    ("recommend", {"user_id": 42, "filters": {"year": "x"}}, 422, "filters.year: is a column of numbers"),
    ("recommend", {"user_id": 42, "top_k": 0}, 422, "top_k: is 0, expected at least 1"),
    ("recommend", {"user_id": 42, "top_k": 1.5}, 422, "top_k: is 1.5, expected a whole number"),
    ("recommend", {"user_id": 42, "stream": True, "model": "x"}, 422, "model: is 'x'"),
    (
        "recommend",
        {"history": [{"title": "\ud800", "rating": 5}]},
        422,
        "title: is '\\ud800', expected a text of valid",
    ),
    (
        "recommend",
        {"history": [{"item_id": i, "rating": 5} for i in (1, 6, "1")]},
        422,
        "history[2]: repeats 'Toy Story (",
    ),
    ("prompt", {"user_id": 42, "candidate": {"item_id": 1}}, 409, "no language model"),
    ("ratings", {"ratings": [{"user_id": 1, "item_id": 1, "rating": 9}]}, 422, "ratings[0]: rating 9"),
    ("ratings", {"ratings": [{"user_id": 1, "item_id": 5, "rating": 4}]}, 422, "ratings[0]: there is no item '5'"),
    ("events", {"events": [{"event": "clickd", "user_id": 1, "item_id": 1}]}, 422, "did you mean 'clicked'?"),
    ("events", {"events": [{"event": "shown", "user_id": 1, "item_id": 1, "model": "othr"}]}, 422, "mean 'other'?"),
]


@pytest.mark.parametrize(("route", "body", "status", "detail"), WRONG)
def test_wrong_input_is_a_problem_that_names_the_place(
    client: httpx.Client, route: str, body: Any, status: int, detail: str
) -> None:
    answer = client.post(f"/v1/{route}", content=json.dumps(body), headers={"content-type": "application/json"})

    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert detail in answer.json()["detail"]
    assert len(answer.json()["detail"]) < 300
    assert answer.json()["status"] == status


def test_all_that_is_wrong_is_listed_by_place(client: httpx.Client) -> None:
    answer = client.post("/v1/score", json={"history": [{"item_id": 1}], "candidates": [{"item_id": None}] * 50})
    errors = answer.json()["errors"]

    assert errors[0] == {"place": "history[0].rating", "detail": "is missing"}
    assert errors[1] == {"place": "candidates[0]", "detail": "has neither, expected either item_id or title"}
    assert len(errors) == 20


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        (b'{\n  "user_id" 5}', 400, "the body is no JSON: Expecting ':' delimiter at line 2, column 13"),
        (b"\xff", 400, "the body is no JSON, expected UTF-8 text that is not nested deep"),
        (b"[" * 20_000, 400, "the body is no JSON, expected UTF-8 text that is not nested deep"),
        (b'{"user_id": ' + b"9" * 5000 + b"}", 400, "the body is no JSON"),
        (b"", 422, "the body is missing"),
    ],
)
def test_a_body_that_is_no_json_is_a_problem(client: httpx.Client, body: bytes, status: int, detail: str) -> None:
    answer = client.post("/v1/score", content=body, headers={"content-type": "application/json"})

    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert answer.json()["detail"].startswith(detail)


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "application/x-ndjson"])
def test_a_body_of_another_media_type_is_refused(client: httpx.Client, kind: str) -> None:
    answer = client.post("/v1/score", content=b'{"user_id": 42}', headers={"content-type": kind} if kind else {})

    assert answer.status_code == 415
    assert answer.json()["detail"].endswith("send Content-Type: application/json")


def test_an_item_may_stand_twice_in_a_history_at_two_times(client: httpx.Client) -> None:
    history = [{"item_id": 1, "rating": rating, "timestamp": at} for rating, at in ((5, 10), (3, 20))]

    assert client.post("/v1/score", json={"history": history, "candidates": [{"item_id": 6}]}).json()["ratings"] == 2


def test_a_user_s_id_has_the_type_of_the_log(client: httpx.Client) -> None:
    assert client.get("/v1/users/42").json()["user_id"] == 42


def test_every_field_and_parameter_is_described(client: httpx.Client) -> None:
    described = client.get("/openapi.json").json()
    fields = [
        (f"{name}.{field}", schema)
        for name, whole in described["components"]["schemas"].items()
        for field, schema in whole.get("properties", {}).items()
    ]
    asked = [
        (f"{path}?{each['name']}", each)
        for path, methods in described["paths"].items()
        for method in methods.values()
        for each in method.get("parameters", ())
    ]
    assert len(fields) > 100
    assert len(asked) == 4
    assert [place for place, schema in fields + asked if not schema.get("description")] == []


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_a_whole_body_of_its_schema(name: str) -> None:
    for example in EXAMPLES[name]:
        read = getattr(schemas, name).model_validate(example)
        sent = read.model_dump(exclude_unset=name.endswith("Request") or name == "Problem")

        assert sent == example


def test_every_answer_has_an_example(client: httpx.Client) -> None:
    described = client.get("/openapi.json").json()
    named = {
        f"#/components/schemas/{name}" for name, of in described["components"]["schemas"].items() if "examples" in of
    }
    answers = [
        (f"{method} {path} {status} {kind}", media)
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
        for status, answer in operation["responses"].items()
        for kind, media in answer["content"].items()
    ]
    assert len(answers) > 80
    for place, media in answers:
        shown = "example" in media or all("examples" in each for each in media["schema"].get("oneOf", [{}]))
        assert shown or media["schema"].get("$ref") in named, place
    for status in ("401", "422", "503"):
        (body,) = described["paths"]["/v1/items"]["get"]["responses"][status]["content"].values()
        assert schemas.Problem.model_validate(body["example"]).status == int(status)


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v1/nothing", 404), ("PUT", "/v1/score", 405)])
def test_an_unknown_route_is_a_problem(client: httpx.Client, method: str, path: str, status: int) -> None:
    answer = client.request(method, path)

    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")


def test_a_body_is_limited_with_and_without_a_length(client: httpx.Client) -> None:
    large = b'{"user_id": "' + b"x" * 60_000 + b'"}'
    kinds = {"content-type": "application/json"}

    assert client.post("/v1/score", content=large, headers=kinds).status_code == 413
    assert client.post("/v1/score", content=iter([large[:9000], large[9000:]]), headers=kinds).status_code == 413


def test_an_item_is_found_by_id_and_by_title(client: httpx.Client) -> None:
    assert client.get("/v1/items/2571").json() == {
        "item_id": 2571,
        "title": "Matrix, The (1999)",
        "columns": {"genres": "Action, Sci-Fi", "year": "1999", "old": False},
    }
    assert client.get("/v1/items", params={"q": "the matrx"}).json()["items"][0]["item_id"] == 2571
    assert client.get("/v1/items/0").status_code == 404
    assert client.get("/v1/items", params={"q": ""}).status_code == 422


@pytest.mark.parametrize("user", ["", "9" * 501, "x" * 501])
def test_an_id_that_no_body_could_have_is_refused_in_a_path(client: httpx.Client, user: str) -> None:
    assert client.get(f"/v1/users/{user}").status_code == 422


def test_the_model_is_described_in_json_that_every_reader_knows(client: httpx.Client) -> None:
    about = client.get("/v1/model")

    assert about.json()["default"] == "steps"
    assert about.json()["filters"]["genres"] == "list"
    assert about.json()["filter_values"]["genres"] == ["Action", "Children", "Comedy", "Crime", "Sci-Fi"]
    assert "NaN" not in about.text
    assert about.json()["metrics"] == {"steps": {"auc": None}}


def test_another_host_name_is_refused_without_a_key(client: httpx.Client) -> None:
    assert client.get("/v1/model", headers={"host": "evil.example"}).status_code == 403
    assert client.get("/v1/model", headers={"host": "localhost:99"}).status_code == 200


def test_requests_are_counted_by_route_and_status(client: httpx.Client) -> None:
    client.get("/v1/items/0")
    text = client.get("/metrics").text

    assert 'palate_requests_total{route="/v1/items/{item_id}",status="404"}' in text
    assert 'palate_request_seconds_bucket{le="0.05",route="/v1/items/{item_id}"}' in text
    assert {line.split()[0] for line in text.splitlines()} >= {"palate_queue", "palate_in_flight"}


def test_every_answer_forbids_other_hosts(client: httpx.Client) -> None:
    assert client.get("/healthz").headers["content-security-policy"].startswith("default-src 'self'")


def test_the_key_opens_all_but_health(tmp_path: Path) -> None:
    with service(tmp_path, key="s3cret é") as client:
        assert client.get("/healthz").text == "ok"
        assert client.get("/readyz").status_code == 200
        for path in ("/v1/model", "/metrics", "/openapi.json", "/v1/items/1", "/v1/nothing"):
            answer = client.get(path)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), path
        key = "s3cret é".encode()
        wrong = [{"authorization": b"Bearer s3cret"}, {"authorization": b"Basic " + key}, {"x-api-key": b""}]
        assert [client.get("/v1/model", headers=each).status_code for each in wrong] == [401] * 3
        right = [{"authorization": b"Bearer " + key}, {"x-api-key": key}]
        assert [client.get("/v1/model", headers=each).status_code for each in right] == [200] * 2


def test_no_text_of_a_user_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "palate")
    with service(tmp_path) as client:
        client.get("/v1/users/mallory")
        client.get("/v1/items", params={"q": "mallory"})
    assert [each for each in caplog.messages if "mallory" in each] == []
    assert any("GET /v1/users/{user_id} 404" in each for each in caplog.messages)

    with service(tmp_path, log_requests=True) as client:
        client.get("/v1/users/mallory")
    assert any("127.0.0.1 GET /v1/users/mallory 404" in each for each in caplog.messages)


def test_json_logs_have_a_line_a_request_without_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin_log(as_json=True)
    with service(tmp_path, log_routes=logs_json()) as client:
        client.get("/v1/users/mallory")
        client.get("/healthz")
    written = capsys.readouterr().err
    (line,) = map(json.loads, written.splitlines())
    assert (line["method"], line["route"], line["status"]) == ("GET", "/v1/users/{user_id}", 404)
    assert line["ms"] > 0
    assert "mallory" not in written


def test_a_line_break_in_a_path_begins_no_line_of_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "palate")
    with service(tmp_path, log_requests=True) as client:
        client.get("/v1/users/a%0a127.0.0.1 GET /forged 200")
    assert [each for each in caplog.messages if "\n" in each] == []


def test_a_broken_request_line_does_not_stop_the_service(client: httpx.Client) -> None:
    url = httpx.URL(str(client.base_url))
    with socket.create_connection((url.host, url.port)) as raw:
        raw.sendall(b"POST /v1/score HTTP/1.1\r\nhost: localhost\r\ncontent-length: x\r\n\r\n")
        assert b" 400 " in raw.recv(1000)
    with socket.create_connection((url.host, url.port)) as raw:
        raw.sendall("GET /v1/items?q=Amélie HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        assert b" 400 Bad Request\r\ncontent-type: text/plain" in raw.recv(1000)
    assert client.get("/healthz").text == "ok"
