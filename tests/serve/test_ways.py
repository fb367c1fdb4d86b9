"""The same scores through every way: HTTP, the client, the command line, and Python."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx2 as httpx
import pytest
from tests.command import palate
from tests.serve.test_admission import until

from palate import Client
from palate.commands.engine import engine_of
from palate.config import Config
from palate.serve.metrics import MEANINGS

TOP = 5
FOUND = {"user_id": 3, "top_k": TOP, "retriever": "all"}


@pytest.mark.parametrize("model", ["fine-tuned", "user-item"])
def test_a_user_gets_the_same_recommendations_every_way(run: Path, config: Config, served: str, model: str) -> None:
    over_http = httpx.post(f"{served}/v1/recommend", json={**FOUND, "model": model}).json()["recommendations"]
    with Client(served) as client:
        by_client = client.recommend(user=3, top_k=TOP, retriever="all", model=model).recommendations
    words = () if model == "fine-tuned" else ("--model", model)
    done = palate("recommend", run, "--user", "3", "--top-k", str(TOP), "--json", *words)
    by_command = json.loads(done.stdout)["recommendations"]

    assert [each.model_dump() for each in by_client] == over_http
    assert [each["item_id"] for each in over_http] == [each["item_id"] for each in by_command]
    # The command has float32, and other candidates in a pass, which round otherwise.
    for name in ("p", "logit"):
        assert [each[name] for each in over_http] == pytest.approx([each[name] for each in by_command], abs=1e-6)


@pytest.mark.parametrize("model", ["fine-tuned", "user-item"])
def test_a_history_gets_the_same_scores_every_way(
    run: Path, config: Config, served: str, model: str, tmp_path: Path
) -> None:
    rated, asked = [(9, 4.5), (12, 2.0), (31, 5.0)], [40, 7, 50, 22]
    (tmp_path / "history.csv").write_text("item_id,rating\n" + "".join(f"{i},{r}\n" for i, r in rated))
    (tmp_path / "listed.txt").write_text("".join(f"{item}\n" for item in asked))
    with Client(served) as client:
        scores = {each.item_id: each for each in client.score(asked, history=rated, model=model).scores}
        streamed = list(client.stream(history=rated, candidates=asked, model=model, top_k=4))[-1]
    words = () if model == "fine-tuned" else ("--model", model)
    files = ("--history", tmp_path / "history.csv", "--candidates", tmp_path / "listed.txt")
    done = palate("recommend", run, *files, "--top-k", "4", "--json", *words)
    by_command = json.loads(done.stdout)["recommendations"]

    assert list(scores) == asked
    assert [each.item_id for each in streamed.recommendations] == [each["item_id"] for each in by_command]
    for each in (*streamed.recommendations,):
        assert each.p == pytest.approx(scores[each.item_id].p, abs=1e-6)
    for each in by_command:
        assert each["p"] == pytest.approx(scores[each["item_id"]].p, abs=1e-6)
        assert each["logit"] == pytest.approx(scores[each["item_id"]].logit, abs=1e-6)


def test_python_gives_what_the_service_gives(config: Config, served: str) -> None:
    engine = engine_of(config)
    person = engine.person(3, None)
    rows, left_out = engine.candidates(person, None, "classical", 50, include_seen=False)
    (part, *rest) = engine.score("user-item", person, rows)
    engine.close()
    answer = httpx.post(f"{served}/v1/recommend", json={"user_id": 3, "model": "user-item", "top_k": 50}).json()

    assert rest == []
    assert answer["left_out"] == left_out
    known = {engine.items["item_id"][int(rows[at])]: float(p) for at, p in zip(part.position, part.p, strict=True)}
    assert {each["item_id"]: each["p"] for each in answer["recommendations"]} == known


def test_what_moves_a_score_is_the_score_without_it(served: str) -> None:
    rated = [(9, 4.5), (12, 2.0), (31, 5.0)]
    with Client(served) as client:
        why = client.explain(40, history=rated, model="fine-tuned")
        for n, effect in enumerate(why.effects):
            alone = client.score([40], history=rated[:n] + rated[n + 1 :], model="fine-tuned").scores[0]
            assert alone.p == pytest.approx(effect.p_without, abs=1e-6)
            assert why.score.logit - alone.logit == pytest.approx(effect.effect, abs=2e-6)


def test_the_client_shows_the_prompt(served: str) -> None:
    with Client(served) as client:
        shown = client.prompt("Fargo (1996)", history=[(50, 4.5)])
    text = "".join(each.text for each in shown.tokens)
    assert "Star Wars (1977)" in text.partition("Fargo (1996)")[0]
    assert [each.part for each in shown.tokens][-2:] == ["answer", "answer"]


def test_a_rating_changes_the_answers_at_once(served: str) -> None:
    with Client(served) as client:
        before = client.recommend(user=5, model="fine-tuned", retriever="all", top_k=100)
        client.rate(5, [(before.recommendations[0].item_id, 1.0)])
        after = client.recommend(user=5, model="fine-tuned", retriever="all", top_k=100)

    assert after.ratings == before.ratings + 1
    assert after.left_out == before.left_out + 1
    gone = before.recommendations[0].item_id
    assert gone not in [each.item_id for each in after.recommendations]
    assert [each.p for each in before.recommendations[1:]] != [each.p for each in after.recommendations]


def test_what_monitor_finds_is_in_the_metrics(served: str) -> None:
    with Client(served) as client:
        client.rate(6, [(30, 4.0)])
    names = {"palate_stored_ratings", "palate_prefix_hits", "palate_drift_psi_ratings"}

    def shown() -> dict[str, str]:
        lines = [line.split(" ", 3) for line in httpx.get(f"{served}/metrics").text.splitlines()]
        return {name: text for _, kind, name, text in (line for line in lines if len(line) == 4) if kind == "HELP"}

    assert until(lambda: names <= shown().keys())
    assert shown().items() <= MEANINGS.items()


class Models(BaseHTTPRequestHandler):
    """A server that lists its model."""

    def do_GET(self) -> None:
        body = b'{"data": [{"id": "tiny"}]}'
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_a_server_without_the_name_of_its_model_names_the_option(run: Path) -> None:
    server = HTTPServer(("127.0.0.1", 0), Models)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    done = palate("serve", run, "--port", "0", "--server", url)
    server.shutdown()
    server.server_close()

    assert done.returncode == 2
    error = done.stderr.splitlines()[-1]
    assert (
        error
        == f"error: --served-model: is not set, expected what {url} calls the base with the adapter, or merged: tiny"
    )


def test_the_report_of_the_run_may_load_nothing(run: Path, served: str) -> None:
    (run / "report.html").write_text("<h1>Report</h1>")
    answer = httpx.get(f"{served}/report")
    (run / "report.html").unlink()

    assert answer.text == "<h1>Report</h1>"
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert httpx.get(f"{served}/report").status_code == 404
