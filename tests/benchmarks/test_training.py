import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from palate.store.hub import locate

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))  # a benchmark is a script and finds the others beside itself

import first_step  # noqa: E402
import quality  # noqa: E402
import training  # noqa: E402
from sides import Made  # noqa: E402


def test_a_different_gradient_ends_the_benchmark() -> None:
    ours = 1.0, np.array([1.0, 2.0])

    assert training.same(ours, (1.0, np.array([1.0, 2.0])), "x")["gradient"] == 0
    with pytest.raises(SystemExit, match="do not compute the same"):
        training.same(ours, (1.0, np.array([1.0, 2.1])), "x")
    with pytest.raises(SystemExit, match="do not compute the same"):
        training.same((float("nan"), ours[1]), ours, "x")


def test_different_losses_end_the_benchmark() -> None:
    ours, theirs = Made(1.0, 0.5, 10, 0), Made(1.0, 0.6, 10, 0)

    assert training.same_losses({"Palate": [ours], "TRL": [ours]}, "x") == 0
    with pytest.raises(SystemExit, match="differ by 17 %"):
        training.same_losses({"Palate": [ours], "TRL": [theirs]}, "x")


def test_the_interval_of_the_quality_is_students_of_paired_seeds() -> None:
    auc = {(1, 1): 0.60, (1, 2): 0.62, (1, 3): 0.61, (16, 1): 0.61, (16, 2): 0.62, (16, 3): 0.60}
    rows = [{"targets": k, "seed": seed, "auc": value} for (k, seed), value in auc.items()]

    first, *_ = quality.claims(rows)

    assert first["measured"] == pytest.approx(0.0)
    assert first["target"] == pytest.approx(-4.303 * 0.01 / 3**0.5)
    assert first["met"]


def test_a_log_has_a_loss_once_its_line_is_whole(tmp_path: Path) -> None:
    log = tmp_path / "log"

    assert first_step.logged(log) is None
    log.write_text('{"epoch": 1}\n{"loss": 0.5')
    assert first_step.logged(log) is None
    log.write_text('{"epoch": 1}\n{"loss": 0.5}\n')
    assert first_step.logged(log) == 0.5


@pytest.mark.slow
@pytest.mark.parametrize("rows", [["k16", "memory", "plan", "first-step"], ["quality"]])
def test_the_quick_look_runs(rows: list[str], tmp_path: Path) -> None:
    if locate("smollm2-135m").path is None:
        pytest.skip("the data package of smollm2-135m is absent")
    words = [sys.executable, str(BENCHMARKS / "training.py"), "--quick", "--json", "--rows", *rows]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=False)

    assert done.returncode == 0, done.stderr[-3000:]
    assert '"results"' in done.stdout
