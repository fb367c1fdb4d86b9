"""`palate serve` while its models are loaded: who gets which answer, and how the process ends.

The file of a baseline is a pipe: loading waits until the test has written it, and goes on without that baseline.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx2 as httpx
import pytest
from tests.command import palate

from palate import Client, ServiceError
from palate.commands.serve import _source
from palate.config import Override, load_config

LINE = 60
"""Seconds until a busy machine has printed a line."""


class Started(NamedTuple):
    process: subprocess.Popen[str]
    pipe: Path
    url: str

    def load(self) -> None:
        """Let the loading go on."""
        self.pipe.open("wb").close()

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=20)


@pytest.fixture
def home(run: Path, tmp_path: Path) -> Path:
    """The run without a language model, so that loading is quick but for the pipe."""
    return shutil.copytree(run, tmp_path / "toy", ignore=shutil.ignore_patterns("adapter"))


@contextmanager
def loading(home: Path, *words: str) -> Iterator[Started]:
    (kept,) = home.rglob("user-item.npz")
    pipe = kept.with_name("item-mean.npz")
    os.mkfifo(pipe)
    command = [sys.executable, "-m", "palate", "serve", str(home), "--port", "0", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = next(line for line in process.stderr if line.startswith("listening at "))
            yield Started(process, pipe, line.split()[2].rstrip(";"))
        finally:
            process.kill()


def test_it_listens_before_its_models_are_loaded_and_says_so(home: Path) -> None:
    with loading(home) as started:
        assert started.get("/healthz").text == "ok"
        assert started.get("/").status_code == started.get("/openapi.json").status_code == 200
        assert 'palate_requests_total{route="/healthz",status="200"} 1.0' in started.get("/metrics").text
        score = httpx.post(started.url + "/v1/score", json={"user_id": 1, "candidates": [{"item_id": 1}]}, timeout=20)
        for answer in (started.get("/readyz"), started.get("/v1/model"), started.get("/report"), score):
            assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
            assert 1 <= int(answer.headers["retry-after"]) <= 10
            assert answer.json()["type"] == "urn:palate:loading"
            assert "the models of toy are being loaded, for " in answer.json()["detail"]
        with Client(started.url) as client, pytest.raises(ServiceError, match="the models of toy are being") as early:
            list(client.stream(user=1))
        assert early.value.loading
        assert early.value.retry_after

        started.load()
        with Client(started.url) as client:
            assert client.model().default == "user-item"  # asks again until it is there
        assert started.get("/readyz").text == "ready"
        assert started.process.stdout is not None
        assert started.process.stdout.readline() == f"serving {home} at {started.url}\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_models_are_loaded_ends_it_at_once(home: Path, number: signal.Signals) -> None:
    with loading(home) as started:
        began = time.monotonic()
        started.process.send_signal(number)
        assert started.process.wait(20) == 0
        assert time.monotonic() - began < 5.0
        assert started.process.communicate() == ("", "")


def test_models_that_cannot_be_loaded_end_it_with_one_line(home: Path) -> None:
    with loading(home, "--model", "factors") as started:
        assert started.get("/readyz").status_code == 503
        started.load()
        out, err = started.process.communicate(timeout=LINE)
    assert (started.process.returncode, out) == (2, "")
    assert err.splitlines()[-1].startswith("error: --model: is 'factors', expected one of user-item")


@pytest.mark.parametrize("model", ["user-iten", "fine-tuned"])  # the run has no adapter
def test_a_model_that_the_run_cannot_have_is_refused_before_anything_listens(home: Path, model: str) -> None:
    done = palate("serve", home, "--port", "0", "--model", model)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(f"error: --model: is '{model}', expected one of constant, ")


def test_a_run_without_prepared_data_says_that_it_prepares_first(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = load_config(home / "config.yaml", [Override("run_dir", str(home), "run_dir")])
    shutil.rmtree(config.data_path)
    caplog.set_level("INFO", "palate")
    _source(config, None)
    assert caplog.messages[0] == f"{home} has no prepared data: it is prepared first, then the service listens"
    assert caplog.messages[-1].startswith("prepared ")


def test_damaged_data_is_refused_before_anything_listens(home: Path) -> None:
    (manifest,) = home.rglob("data/manifest.json")
    manifest.write_text("{")
    done = palate("serve", home, "--port", "0")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {manifest}")
    assert done.stderr.count("\n") == 1
