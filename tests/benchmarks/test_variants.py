import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))  # a benchmark is a script and finds the others beside itself

import variants  # noqa: E402


def row(variant: str, seed: int, auc: float) -> dict[str, object]:
    return {"variant": variant, "seed": seed, "auc": auc, "loss": 1 - auc}


def test_variants_are_compared_on_the_seeds_that_both_have() -> None:
    rows = [row("a", seed, 0.7) for seed in (1, 2, 3)] + [row("b", 1, 0.71), row("b", 3, 0.73), row("c", 2, 0.6)]

    (table,) = variants.compared(rows)  # type: ignore[arg-type]

    auc, loss = table.rows
    assert (auc["variant"], auc["other"], auc["seeds"]) == ("b", "a", [1, 3])
    assert auc["mean"] == pytest.approx(0.02)
    assert auc["half"] == pytest.approx(12.706 * 0.02 / 2**0.5 / 2**0.5)
    assert loss["mean"] == pytest.approx(-0.02)


def test_one_seed_is_compared_with_nothing() -> None:
    assert not list(variants.compared([row("a", 1, 0.7), row("b", 1, 0.8)]))  # type: ignore[list-item]
