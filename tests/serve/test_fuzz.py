"""Requests that schemathesis makes from the service's own description: no 5xx, and no answer that it lacks."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.serve.paced import service

ST = shutil.which("schemathesis", path=str(Path(sys.executable).parent))


def fuzzed(folder: Path, *words: str) -> None:
    """Run all checks but one: a body that fits the schema may still name an unknown item."""
    assert ST is not None
    with service(folder, key="k") as client:
        url = f"{str(client.base_url).rstrip('/')}/openapi.json"
        checks = ["--checks", "all", "--exclude-checks", "positive_data_acceptance", "--no-color"]
        command = [ST, "run", url, "-H", "Authorization: Bearer k", *checks, *words]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr


@pytest.mark.skipif(ST is None, reason="schemathesis is not installed")
def test_the_service_answers_as_its_description_says(tmp_path: Path) -> None:
    fuzzed(tmp_path, "--phases", "examples,coverage,fuzzing", "--max-examples", "15", "--generation-deterministic")


@pytest.mark.slow
@pytest.mark.skipif(ST is None, reason="schemathesis is not installed")
def test_the_service_answers_as_its_description_says_to_thousands(tmp_path: Path) -> None:
    fuzzed(tmp_path, "--max-examples", "300")
