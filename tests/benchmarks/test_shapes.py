import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.tiny import tiny_model

from palate.train.attention import Attention, choose_attention

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))  # a benchmark is a script and finds the others beside itself

import shapes  # noqa: E402


@pytest.mark.parametrize("targets", [1, 4])
def test_random_prompts_pack_as_samples_do(targets: int) -> None:
    prompts = shapes.prompts_of(targets, 8, 512)
    packed = prompts.pack(prompts.pieces())

    assert len(packed) == prompts.tokens(prompts.pieces()).sum()
    assert packed.block.size == 8
    assert packed.targets.size == 8 * shapes.RESPONSE
    model = tiny_model("qwen3")
    shapes.check_alone(model_of(model), choose_attention(model, "auto", targets, 1000), prompts.pieces(), prompts)


def model_of(model: object) -> object:
    """A model as if it had an adapter."""
    model.get_base_model = lambda: model  # type: ignore[attr-defined]
    return model


def test_flops_are_those_that_are_counted() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model = shapes.adapted(shapes.TINY, torch.device("cpu"), torch.float32)
    packed = shapes.prompts_of(1, 1, 512).pack([[0, 1]])
    model.get_base_model().set_attn_implementation("eager")  # the counter knows its products
    attention = Attention("mask", "eager")
    with FlopCounterMode(display=False) as counter:
        attention.logits(model, packed).sum().backward()
    every = float(len(packed) ** 2)  # eager attention multiplies above the diagonal, too
    expected = shapes.dense_flops(model, len(packed), packed.targets.size, every)

    assert counter.get_total_flops() == pytest.approx(expected, rel=0.05)


def test_all_layers_are_worked_out_of_two_numbers_of_layers() -> None:
    def row(layers: int) -> dict[str, object]:
        seconds = 3.0 + 2.0 * layers
        step = {
            "seconds": [seconds],
            "examples_per_second": 16 / seconds,
            "flops": 5.0 + layers,
            "peak": 1.0,
        }
        return {**step, "worked_out": False, "layers": layers, "of": 36, "memory": 10 + layers}

    found = shapes.worked_out(row(2), row(4), 36)

    assert found["seconds"] == [pytest.approx(75.0)]
    assert found["examples_per_second"] == pytest.approx(16 / 75)
    assert shapes.utilization(found) == pytest.approx(41 / 75)
    assert found["memory"] == pytest.approx(46)
    assert shapes.layers(found) == "all, worked out"
    assert shapes.layers(row(2)) == "2 of 36"


def test_a_pack_whose_sequences_see_each_other_ends_the_benchmark() -> None:
    shapes.same_loss("a pack", 1.0, 1.01)
    with pytest.raises(SystemExit, match="a pack has the loss"):
        shapes.same_loss("a pack", 1.2, 1.0)


@pytest.mark.slow
def test_the_quick_look_runs(tmp_path: Path) -> None:
    words = [sys.executable, str(BENCHMARKS / "shapes.py"), "--quick", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=False)

    assert done.returncode == 0, done.stderr[-3000:]
    assert '"Palate, K = 16"' in done.stdout
