import json
import subprocess
import sys
from pathlib import Path

import pytest

from palate.store.hub import locate

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))  # a benchmark is a script and finds the others beside itself

import ranking  # noqa: E402


def test_scores_that_differ_end_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "in_own_process", lambda step, *args: 2e-4)
    with pytest.raises(SystemExit, match="off whole prompts in P or mass"):
        next(ranking.measured(ranking.Task("", "", [1], 1, 1, [1], 1), quick=True))


@pytest.mark.slow
def test_the_quick_look_runs(tmp_path: Path) -> None:
    if locate("smollm2-135m").path is None:
        pytest.skip("the data package of smollm2-135m is absent")
    words = [sys.executable, str(BENCHMARKS / "ranking.py"), "--quick", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=False)

    assert done.returncode == 0, done.stderr[-3000:]
    speeds, targets = json.loads(done.stdout)["results"]
    assert [row["candidates"] for row in speeds["rows"]] == [20, 100, None, None, None]
    assert targets["rows"][0]["met"]
