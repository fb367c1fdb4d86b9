"""Requests that schemathesis makes from the service's own description: no 5xx, and no answer that it lacks."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.serve.paced import service

ST = shutil.which("schemathesis", path=str(Path(sys.executable).parent))
pytestmark = pytest.mark.skipif(ST is None, reason="schemathesis is not installed")


def fuzz(url: str, folder: Path, *words: str) -> None:
    """Run all checks but one: a body that fits the schema may still name an unknown item."""
    assert ST is not None
    checks = ["--checks", "all", "--exclude-checks", "positive_data_acceptance", "--no-color"]
    command = [ST, "run", f"{url.rstrip('/')}/openapi.json", *checks, *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr


def test_a_run_is_served_as_its_description_says(served: str, tmp_path: Path) -> None:
    phases = ("--phases", "examples,coverage,fuzzing")
    fuzz(served, tmp_path, *phases, "--max-examples", "15", "--generation-deterministic")


@pytest.mark.slow
def test_a_run_is_served_as_its_description_says_to_thousands(served: str, tmp_path: Path) -> None:
    fuzz(served, tmp_path, "--max-examples", "500")


@pytest.mark.slow
def test_a_service_with_a_key_answers_as_its_description_says(tmp_path: Path) -> None:
    with service(tmp_path, key="k") as client:
        fuzz(str(client.base_url), tmp_path, "-H", "Authorization: Bearer k", "--max-examples", "100")
