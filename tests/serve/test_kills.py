"""Ratings acknowledged before the writer was killed are there afterwards, none twice: `benchmarks/kills.py`."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.postgres import why_not

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "kills.py"


def kills(store: str, times: int) -> dict[str, Any]:
    """What the script prints; it ends with an error for a row that is lost or there twice."""
    if store == "postgresql" and (reason := why_not()) is not None:
        pytest.skip(reason)
    command = [sys.executable, str(SCRIPT), f"--{store}", str(times), "--seconds", "0", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["results"][0]["rows"]
    return dict(row)


@pytest.mark.parametrize(("store", "times"), [("sqlite", 20), ("postgresql", 3)])
def test_what_was_acknowledged_survives_kills(store: str, times: int) -> None:
    found = kills(store, times)
    assert found["kills"] == times
    assert found["acknowledged"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(("store", "times"), [("sqlite", 1000), ("postgresql", 100)])
def test_what_was_acknowledged_survives_many_kills(store: str, times: int) -> None:
    assert kills(store, times)["acknowledged"] > times
