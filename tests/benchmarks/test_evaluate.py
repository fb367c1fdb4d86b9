import json
import subprocess
import sys
from pathlib import Path

import pytest

from palate.baselines.registry import REGISTRY

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "evaluate.py"


@pytest.mark.slow
def test_the_quick_look_measures_every_baseline_and_the_time(tmp_path: Path) -> None:
    words = [sys.executable, str(SCRIPT), "--quick", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=False)

    assert done.returncode == 0, done.stderr[-3000:]
    baselines, steps, groups, claims = (result["rows"] for result in json.loads(done.stdout)["results"])
    assert [row["key"] for row in baselines] == [baseline.key for baseline in REGISTRY if not baseline.reads_text]
    assert all(row["fit"] >= 0 and row["log_loss"] > 0 for row in baselines)
    inside = sum(step["seconds"] for step in steps if not step.get("beside"))
    assert claims[0]["measured"] == inside
    assert claims[0]["target"] == 180
    assert [row["what"] for row in groups][:2] == ["whole", "asked without a time"]
    assert all((row["interval"] is None) == (row["what"] == "whole") for row in groups)
