import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))  # a benchmark is a script and finds the others beside itself

import rank_shapes  # noqa: E402
import shapes  # noqa: E402


def test_what_is_ranked_is_what_whole_prompts_say() -> None:
    backend = rank_shapes.backend_of(shapes.TINY)
    prefix, rests = rank_shapes.prompts_of(shapes.TINY, 6)
    whole = [[*prefix, *rest] for rest in rests]
    shared = backend.answers_behind(prefix, rests, 4, lambda _: None)

    rank_shapes.check(backend, shared, whole)
    with pytest.raises(SystemExit, match="off whole prompts"):
        rank_shapes.check(backend, shared + np.float32(10 * rank_shapes.APART[rank_shapes.name_of(backend)]), whole)


def test_all_layers_are_worked_out_of_two_numbers_of_layers() -> None:
    def row(depth: int) -> dict[str, object]:
        about = {"layers": depth, "of": 36, "worked_out": False, "timed": 78}
        return {**about, "seconds": [3.0 + depth, 3.0 + depth, 100.0], "memory": 10 + depth}

    found = rank_shapes.worked_out(row(2), row(4), 36)

    assert (found["layers"], found["worked_out"], found["memory"]) == (36, True, 46)
    assert rank_shapes.speed(found) == pytest.approx(78 / 39)


@pytest.mark.slow
def test_the_quick_look_runs(tmp_path: Path) -> None:
    words = [sys.executable, str(BENCHMARKS / "rank_shapes.py"), "--quick", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=False)

    assert done.returncode == 0, done.stderr[-3000:]
    speeds, targets = json.loads(done.stdout)["results"]
    assert [row["name"] for row in speeds["rows"]] == ["rank", "whole prompts, batches of 8"]
    assert len(targets["rows"]) == 1
