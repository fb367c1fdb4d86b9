"""docs/serve.md: its curl and Python blocks, as they stand but for the port."""

import re
import shutil
import subprocess

import pytest
from tests.test_docs import FENCED, SERVED, TEXTS

from palate.serve.metrics import MEANINGS

BLOCKS = [(kind, body) for kind, body in FENCED.findall(TEXTS[SERVED]) if kind in ("sh", "python")]


@pytest.mark.parametrize("number", [n for n, (kind, _) in enumerate(BLOCKS) if kind == "sh"])
def test_a_block_of_curl_commands_is_answered(served: str, number: int) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    script = BLOCKS[number][1].replace("http://127.0.0.1:8000", served).replace("curl ", "curl -sS ")
    done = subprocess.run(["bash", "-ec", script], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout


def test_every_metric_is_listed() -> None:
    listed = re.findall(r"^\| `(palate_\w+)` \| \w+ \| (.+) \|$", TEXTS[SERVED], re.MULTILINE)

    assert dict(listed) == MEANINGS


def test_the_python_block_prints_recommendations(served: str, capsys: pytest.CaptureFixture[str]) -> None:
    (script,) = (body for kind, body in BLOCKS if kind == "python")
    exec(compile(script.replace("http://127.0.0.1:8000", served), SERVED, "exec"), {})
    lines = capsys.readouterr().out.splitlines()

    assert lines[-1] == "RecommendAnswer"
    assert "Fargo (1996)" in "".join(lines[:2])
