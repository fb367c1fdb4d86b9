"""`palate serve` as a process: its end by a signal, and what it refuses to begin."""

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2 as httpx
import pytest
from tests.command import palate

ROOT = Path(__file__).parents[2]
PACED = """
import sys
from tests.serve.paced import PacedEngine
from palate.serve.app import Options, app_of
from palate.serve.server import bound, run, url_of
from palate.serve.source import EngineSource
from palate.serve.store import Store
sock = bound("127.0.0.1", 0)
print(url_of(sock), flush=True)
run(app_of(EngineSource(PacedEngine(seconds=0.5)), Store("sqlite:///" + sys.argv[1]), Options()), sock, 10)
"""


@contextmanager
def process(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A service whose models need half a second an item, in a process."""
    words = [sys.executable, "-c", PACED, str(folder / "store.sqlite")]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        try:
            assert started.stdout is not None
            yield started, started.stdout.readline().strip()
        finally:
            started.kill()


def test_sigterm_drains(tmp_path: Path) -> None:
    answers: list[httpx.Response] = []
    asked = {"history": [], "candidates": [{"item_id": 1}] * 5}
    with process(tmp_path) as (started, url), httpx.Client(base_url=url, timeout=20) as client:
        assert client.get("/readyz").status_code == 200
        asking = threading.Thread(target=lambda: answers.append(httpx.post(f"{url}/v1/score", json=asked, timeout=20)))
        asking.start()
        time.sleep(0.3)
        started.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["detail"]) == (503, "the service ends")
        assert client.get("/healthz").status_code == 200
        asking.join()
        assert started.wait(10) == 0
        assert started.stderr is not None
        assert started.stderr.read() == ""
    assert [len(each.json()["scores"]) for each in answers] == [5]
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/healthz")


def test_ctrl_c_ends_at_once_when_idle(tmp_path: Path) -> None:
    with process(tmp_path) as (started, url):
        assert httpx.get(f"{url}/healthz").status_code == 200
        began = time.monotonic()
        started.send_signal(signal.SIGINT)
        assert started.wait(10) == 0
        assert time.monotonic() - began < 5.0  # at once, on a busy machine; a request in work is waited for longer


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--host", "0.0.0.0"], "error: --host: 0.0.0.0 can be reached from other machines, expected an API key in"),
        (["--port", "99999"], "error: --port: 99999, expected a number from 0 to 65535"),
        (["--host", "203.0.113.9", "--api-key-file", "key"], "error: --host: 203.0.113.9:8000 cannot be had ("),
        (
            ["--api-key-file", "missing"],
            "error: missing: cannot be read: No such file or directory, expected a file with the API key",
        ),
        (["--api-key-file", "empty"], "error: empty: is empty, expected the API key"),
        (["--in-flight", "0"], "error: --in-flight: 0, expected 1 or more"),
    ],
)
def test_wrong_options_are_one_line_with_exit_code_2(
    run: Path, tmp_path: Path, words: list[str], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PALATE_API_KEY", raising=False)
    (tmp_path / "key").write_text("k\n")
    (tmp_path / "empty").write_text("\n")
    done = palate("serve", run, *words, cwd=tmp_path)

    assert done.returncode == 2
    assert done.stderr.startswith(line)
    assert done.stderr.count("\n") == 1


def test_a_port_in_use_is_one_line(run: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = palate("serve", run, "--port", str(port))
    expected = f"error: --port: 127.0.0.1:{port} is in use, expected a free port; --port 0 takes any\n"
    assert (done.returncode, done.stderr) == (2, expected)


def test_a_missing_package_is_named_with_its_extra(run: Path) -> None:
    code = "import sys; sys.modules['fastapi'] = None; from palate.cli import main; sys.exit(main(sys.argv[1:]))"
    words = [sys.executable, "-c", code, "serve", str(run)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: fastapi is not installed, this command needs it: pip install 'palate[serve]'\n"


def test_a_missing_run_is_one_line(tmp_path: Path) -> None:
    done = palate("serve", "--set", f"run_dir={tmp_path / 'none'}")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "there is no run, expected the folder" in done.stderr
