"""`palate serve --engine ray`: replicas on a cluster answer as the local service does, also when one is killed."""

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx2 as httpx
import psutil
import pytest
from tests import postgres

from palate.cli import main

pytest.importorskip("ray.serve", reason="without palate[ray-serve]")

KEY = "a-key-that-no-log-may-hold"
ASKED = {"user_id": 1, "candidates": [{"item_id": 1}, {"item_id": 22}]}


class Replicas(NamedTuple):
    process: subprocess.Popen[str]
    client: httpx.Client
    head: Any

    def pids(self) -> set[int]:
        """The processes that Ray Serve has as replicas."""
        (raylet,) = self.head.all_processes["raylet"]
        workers = psutil.Process(raylet.process.pid).children()
        return {each.pid for each in workers if each.name().startswith("ray::ServeRepli")}

    def score(self) -> list[dict[str, Any]]:
        return list(self.client.post("/v1/score", json=ASKED).raise_for_status().json()["scores"])


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    with postgres.serving() as url:
        yield url


@pytest.fixture(scope="module")
def replicas(run: Path, store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    """Two replicas on a cluster of this machine."""
    import ray
    from ray.cluster_utils import Cluster

    folder = tmp_path_factory.mktemp("replicas")
    (folder / "key").write_text(KEY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        node = {"num_cpus": 2, "object_store_memory": 80 << 20, "include_dashboard": False}
        try:
            cluster = Cluster(initialize_head=True, head_node_args=node)
        except Exception as error:
            pytest.skip(f"Ray cannot start here: {error}")
        words = ["--engine", "ray", "--address", cluster.address, "--set", "engine.workers=2", "--set", "engine.cpus=1"]
        words += ["--port", "0", "--ratings", store, "--api-key-file", str(folder / "key")]
        command = [sys.executable, "-u", "-m", "palate", "serve", str(run), *words]
        with (folder / "stderr").open("w") as err:
            started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err, text=True)
        try:
            assert started.stdout is not None
            url = started.stdout.readline().strip().rpartition(" ")[2]
            assert url.startswith("http://127.0.0.1:"), (folder / "stderr").read_text()
            with httpx.Client(base_url=url, headers={"X-API-Key": KEY}, timeout=180) as client:
                yield Replicas(started, client, cluster.head_node)
        finally:
            started.kill()
            started.wait()
            ray.shutdown()
            cluster.shutdown()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--set", "engine.workers=2"], "--ratings: is a file, which 2 replicas cannot share, expected postgresql://"),
        (["--server", "http://localhost:1"], "score.server: scores already, expected no --engine ray beside it"),
        (["--host", "0.0.0.0"], "--host: 0.0.0.0 can be reached from other machines, expected an API key"),
        ([], "--engine ray: Ray Serve is not installed, expected it: pip install 'palate[ray-serve]'"),
    ],
)
def test_what_ray_does_not_serve_is_refused_in_one_line(
    run: Path, words: list[str], line: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PALATE_API_KEY", raising=False)
    if not words:
        monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["serve", str(run), "--engine", "ray", "--port", "0", *words]) == 2
    told = capfd.readouterr().err.splitlines()
    assert told[-1].startswith(f"error: {line}")
    assert len(told) == 1


@pytest.mark.slow
def test_replicas_answer_as_the_local_service(replicas: Replicas, served: str) -> None:
    asked = {"user_id": 1, "top_k": 3}
    for path, body in (
        ("/v1/score", ASKED), ("/v1/recommend", asked), ("/v1/recommend", {**asked, "stream": True})
    ):  # fmt: skip
        here, there = httpx.post(served + path, json=body, timeout=60), replicas.client.post(path, json=body)
        assert there.status_code == 200
        assert there.headers["content-type"] == here.headers["content-type"]
        assert there.text == here.text
    for path in ("/", "/healthz", "/readyz"):
        there = replicas.client.get(path, headers={"X-API-Key": ""})
        assert (there.status_code, there.text) == (200, httpx.get(served + path).text)
    assert replicas.client.get("/v1/model", headers={"X-API-Key": ""}).status_code == 401
    assert len(replicas.pids()) == 2


@pytest.mark.slow
def test_a_killed_replica_is_replaced(replicas: Replicas) -> None:
    before, expected = replicas.pids(), replicas.score()
    psutil.Process(min(before)).kill()
    until = time.monotonic() + 120
    while len(replicas.pids() - {min(before)}) < 2 and time.monotonic() < until:
        assert replicas.score() == expected
    psutil.Process(max(before)).kill()  # only the new one is left to answer
    assert replicas.score() == expected


@pytest.mark.slow
def test_sigterm_drains_and_leaves_the_cluster_without_ray_serve(
    run: Path, store: str, replicas: Replicas, capfd: pytest.CaptureFixture[str]
) -> None:
    address = replicas.client.base_url
    words = ["serve", str(run), "--engine", "ray", "--address", replicas.head.gcs_address, "--port", "0"]
    words += ["--ratings", store, "--set", "engine.cpus=1", "--model", "nothing"]
    assert main(words) == 2
    assert "error: --engine ray: Ray Serve runs on this cluster already" in capfd.readouterr().err
    body = b'{"user_id": 1, "candidates": [{"item_id": 1}]}'
    head = f"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {KEY}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((address.host, address.port), timeout=60) as slow:
        slow.sendall(head.encode() + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body[:9])
        time.sleep(1)
        replicas.process.send_signal(signal.SIGTERM)
        time.sleep(1)
        slow.sendall(body[9:])
        assert slow.makefile("rb").readline() == b"HTTP/1.1 200 OK\r\n"
    assert replicas.process.wait(60) == 0
    assert not replicas.pids()
    assert main(words) == 2  # finds no Ray Serve
    assert re.search(r"^error: --model: is 'nothing', .* \(on node [\d.]+\)$", capfd.readouterr().err, re.MULTILINE)
    logs = [path for path in Path(replicas.head.get_logs_dir_path()).rglob("*") if path.is_file()]
    assert any("serve" in path.parts for path in logs)
    assert not [path for path in logs if KEY.encode() in path.read_bytes()]
