import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))  # a benchmark is a script and finds the others beside itself

import reached  # noqa: E402
from palate.config import load_config  # noqa: E402


def test_the_config_of_all_weights_is_the_recipe_that_was_measured() -> None:
    named = load_config(BENCHMARKS.parent / "configs" / "smollm2_135m_movielens_full.yaml")
    alike = [arm for arm in reached.ARMS if arm.samples == named.train.max_samples and "all weights" in arm.variant]
    measured = reached.config_of(*alike)

    assert named.prompt == measured.prompt
    assert named.model == measured.model
    assert named.train.decisive() | {"lora": None} == measured.train.decisive() | {"lora": None}
