import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))  # a benchmark finds the others beside itself

import recipes
import roofline
from palate.config import load_config
from report import ROOT


@pytest.mark.parametrize("targets", [1, 16])
@pytest.mark.parametrize("recipe", recipes.RECIPES)
def test_each_recipe_fits_its_gpus_or_has_a_remedy(recipe: str, targets: int) -> None:
    rows = list(recipes.planned(recipe, targets))
    assert [row["gpus"] for row in rows] == list(recipes.GPUS)
    for row in rows:
        assert row["fits"] or row["remedy"]
        assert row["tokens"] == pytest.approx(32_768, rel=0.02)
    one, eight = rows[1:]
    rate = load_config(ROOT / "configs" / "gpu" / f"{recipe}.yaml").train.learning_rate
    assert one["rate"] == eight["rate"], "devices share a step"
    assert one["rate"] / rate == pytest.approx({1: 0.76, 16: 1.94}[targets], abs=0.005), "as docs/devices.md says"
    assert eight["fits"]
    assert one["hours"] / 8 <= eight["hours"] < one["hours"] / 4


def test_no_plan_is_faster_than_the_kernels_of_its_roofline() -> None:
    kept = json.loads((ROOT / "benchmarks/results/roofline.json").read_text())["results"][0]["rows"]
    least = {(row["recipe"], row["targets"], row["gpus"]): row["after"]["seconds"] for row in kept}
    assert len(least) == 18
    for recipe in recipes.RECIPES:
        for row in (row for targets in (1, 16) for row in recipes.planned(recipe, targets)):
            seconds = 1_000 * row["seconds"] / row["samples"]
            assert seconds >= least[recipe, row["targets"], row["gpus"]], row


def test_a_roofline_adds_up_what_layers_and_passes_take() -> None:
    shape = {"num_hidden_layers": 4}
    case = {"gpu": "H100", "passes": 2, "samples": 500, "pass": {"shape": shape}}
    names = ("kernels", "bytes", "flops", "needed")
    one, two = (
        {part: dict.fromkeys(names, n) | {"seconds": {"H100": n}} for part, n in counts.items()}
        for counts in ({"pass": 10.0, "update": 3.0}, {"pass": 14.0, "update": 4.0})
    )
    found = roofline.whole(case, [one, two])
    assert found["kernels"] == found["seconds"] == (2 * (10 + 3 * 4) + 3 + 3 * 1) * 1_000 / 500
    assert found["used"] == found["needed"] / found["seconds"] / 989e12


@pytest.mark.slow
def test_a_roofline_counts_fewer_kernels_and_bytes_than_before() -> None:
    smallest = list(roofline.cases_of("qwen3_0.6b"))[2]
    passes = [smallest[when]["pass"] | {"prompts": [1]} for when in ("before", "after")]
    before, after = (two_layers[0]["pass"] for _, two_layers in roofline.counted(passes))
    for name in ("kernels", "bytes"):
        assert after[name] < before[name]
