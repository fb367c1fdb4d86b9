"""The cost model and the simulator of the cluster count what they say."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))  # a benchmark is a script and finds the others beside itself

import costs  # noqa: E402
import scale  # noqa: E402


def test_every_constant_is_positive_and_has_a_source_that_is_kept() -> None:
    for name, each in costs.constants().items():
        assert each.value > 0, name
        assert any((BENCHMARKS / place).is_file() for place in (f"results/{each.source}.json", each.source)), name


def test_a_first_stage_that_finds_everything_saves_nothing_but_itself() -> None:
    c = {name: each.value for name, each in costs.constants().items()} | {"retrieve": 0.0}
    size = costs.Size(interactions=1e6, scores=1e6, items=costs.FOUND, price_hour=0.1, price_gb=0.0)
    rows = {row["what"]: row for row in costs.costs(c, size)}
    for model in ("SmolLM2-135M", *costs.MODELS):
        all_pairs, two_stage = rows[f"score all pairs, {model}"], rows[f"retrieve {costs.FOUND}, then {model}"]
        assert two_stage["seconds"] == pytest.approx(all_pairs["seconds"])
        assert two_stage["network"] == all_pairs["network"] > 0


def test_costs_grow_with_the_size_and_the_prices() -> None:
    small, large = (costs.results(costs.Size(1e6 * n, 1e6 * n, 1e4, 0.5, 0.0))[0] for n in (1, 10))
    for one, ten in zip(small.rows, large.rows, strict=True):
        assert (ten["seconds"] or 0) == pytest.approx(10 * (one["seconds"] or 0))
        assert ten["disk"] == pytest.approx(10 * one["disk"])
    by_hour = small.columns["money"]({"seconds": 7200.0, "network": 5e9})
    assert by_hour == "1"
    assert costs.duration(90) == "1.5 min"


@pytest.mark.parametrize(
    ("workers", "prompts", "score", "seconds"),
    [(1, 0.0, 2.0, 20.0), (2, 0.0, 2.0, 10.0), (3, 0.0, 2.0, 8.0), (2, 3.0, 2.0, 32.0), (1, 0.5, 2.0, 20.5)],
)
def test_whoever_is_slower_sets_the_simulated_time(workers: int, prompts: float, score: float, seconds: float) -> None:
    assert scale.simulated(10, workers, prompts, score) == seconds
    known = {"first": 5.0 + prompts, "prompts": prompts, "load": 4.0, "score": score, "write": 1.0}
    assert scale.whole(known, 10, workers) == 10 + seconds
    assert scale.off({"predicted": 12.0, "seconds": 10.0}) == pytest.approx(0.2)
