import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not (ROOT / ".venv" / ".test").is_file(), reason="not run by `make test`")
@pytest.mark.parametrize("target", ["test", "demo"])
def test_a_second_make_installs_nothing(target: str) -> None:
    planned = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert "pip" not in planned
    assert ".venv/bin/" in planned


@pytest.mark.parametrize("script", sorted(p.name for p in (ROOT / "scripts").glob("*.py") if p.name != "utils.py"))
def test_every_script_of_the_guide_is_a_few_lines_that_call_the_package(script: str) -> None:
    lines = (ROOT / "scripts" / script).read_text().splitlines()

    assert len(lines) < 15
    assert "from palate.cli import guide" in lines


def test_the_scripts_utils_are_the_guides_functions() -> None:
    words = "to_chat_messages, to_generation_messages, tokenize_func, preprocess_datasets_parallel"
    code = f"from utils import {words}; print('found')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "scripts", capture_output=True, text=True, check=False
    )

    assert done.stdout == "found\n", done.stderr
