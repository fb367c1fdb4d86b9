import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))  # a benchmark finds the others beside itself

import recipes
from palate.config import load_config


@pytest.mark.parametrize("targets", [1, 16])
@pytest.mark.parametrize("recipe", recipes.RECIPES)
def test_each_recipe_fits_its_gpus_or_has_a_remedy(recipe: str, targets: int) -> None:
    rows = list(recipes.planned(recipe, targets))
    assert [row["gpus"] for row in rows] == list(recipes.GPUS)
    for row in rows:
        assert row["fits"] or row["remedy"]
        assert row["tokens"] == pytest.approx(32_768, rel=0.02)
    one, eight = rows[1:]
    rate = load_config(recipes.ROOT / "configs" / "gpu" / f"{recipe}.yaml").train.learning_rate
    assert one["rate"] == eight["rate"], "devices share a step"
    assert one["rate"] / rate == pytest.approx({1: 0.76, 16: 1.94}[targets], abs=0.005), "as docs/devices.md says"
    assert eight["fits"]
    assert one["hours"] / 8 <= eight["hours"] < one["hours"] / 4
