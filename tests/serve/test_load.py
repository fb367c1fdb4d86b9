"""The load of benchmarks/serve.py, for seconds: at twice the capacity every answer is right or a 429."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))  # a script finds the others beside itself

import serve


@pytest.fixture
def server(served: str, monkeypatch: pytest.MonkeyPatch) -> serve.Server:
    """The service of this process, in place of one of its own, which would load torch again."""
    here = serve.Server(served, os.getpid())

    @contextmanager
    def service(run: Path, together: int = 16) -> Iterator[serve.Server]:
        yield here

    monkeypatch.setattr(serve, "service", service)
    return here


def test_at_twice_the_capacity_every_answer_is_right_or_429(run: Path, server: serve.Server) -> None:
    (row,) = serve.soaked(run, serve.Asked.of(run), minutes=0.02, seconds=0.3).rows

    assert {key for key in row if key.startswith("wrong") or key == "lost"} == set()
    assert row["right"] > 0
    assert row["worst"] < 1e-5
    assert row["after"] == 200


def test_every_client_is_answered(run: Path, server: serve.Server) -> None:
    load = serve.throughput(server, serve.Asked.of(run).recommend("user-item"), 4, 0.3)

    assert set(load.statuses) == {200}
    assert load.row()["p50"] <= load.row()["p99"]
