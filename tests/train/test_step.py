"""A step of the training loop as on CUDA, on fake tensors: it runs in every way, and the host waits for nothing in it.

`step.json` beside this file has what each case starts: kernels, casts between dtypes, matrix products, and bytes that
kernels read and write. A change that adds a cast to every layer fails here. `PALATE_PIN=write` records the new counts.
"""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from torch.backends.cuda import is_built

ROOT = Path(__file__).parents[2]
RECORDED = Path(__file__).with_name("step.json")
WAYS = {"varlen": 1, "flex": 4, "segments": 4, "mask": 4, "padded": 1}
"""Attentions, with the targets of a prompt. `padded` waits for the device once a pass, within transformers, which
`a_step` leaves out."""


def cases() -> dict[str, dict[str, Any]]:
    """Each by its name in the file."""
    found = []
    for way, targets in WAYS.items():
        common = {"attention": way, "targets": targets}
        lora = [{"method": "lora", "checkpointing": c, **common} for c in (False, "selective", True)]
        full = [case | {"method": "full"} for case in lora]
        chosen = way in ("varlen", "flex")  # by `auto`
        found += [*lora, *(full if chosen else full[1:2]), *(case | {"quantization": "nf4"} for case in lora if chosen)]
    return {" ".join(str(value) for value in case.values()): case for case in found}


def run(folder: Path, of: list[dict[str, Any]]) -> dict[str, Any]:
    """What `a_step` prints for some cases, in a process that believes in a GPU."""
    compiler = shutil.which("g++")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs g++ on Linux to pretend a GPU")
    if is_built():
        pytest.skip("needs torch without CUDA, whose place the pretended GPU takes")
    (torch,) = find_spec("torch").submodule_search_locations  # type: ignore[union-attr, misc]
    library = folder / "fake_cuda.so"
    source = [str(Path(__file__).with_name("fake_cuda.cpp")), "-o", str(library), f"-I{torch}/include"]
    links = [f"-L{torch}/lib", "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{torch}/lib"]
    subprocess.run([compiler, "-std=c++20", "-shared", "-fPIC", *source, *links], check=True, capture_output=True)
    process = subprocess.run(
        [sys.executable, "-m", "tests.train.a_step", library, folder, json.dumps(of)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-4000:]
    return dict(json.loads(process.stdout))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `a_step` prints for all cases."""
    return run(tmp_path_factory.mktemp("step"), [*cases().values()])


@pytest.fixture(scope="module")
def steps(found: dict[str, Any]) -> dict[str, dict[str, int]]:
    """What a step of each case does."""
    counts = dict(zip(cases(), found["steps"], strict=True))
    if os.environ.get("PALATE_PIN") == "write":
        RECORDED.write_text(json.dumps(counts, indent=1) + "\n")
    return counts


@pytest.mark.parametrize("case", cases())
def test_a_step_starts_casts_and_moves_no_more_than_recorded(case: str, steps: dict[str, dict[str, int]]) -> None:
    recorded = json.loads(RECORDED.read_text())[case]
    assert steps[case]["casts"] <= recorded["casts"]
    assert steps[case]["products"] <= recorded["products"]
    for name in ("kernels", "bytes"):  # versions of PyTorch differ by some
        assert steps[case][name] <= 1.02 * recorded[name]


@pytest.mark.parametrize(("way", "quantization"), [*((way, None) for way in WAYS), ("varlen", "nf4"), ("flex", "nf4")])
def test_selective_checkpointing_computes_only_narrow_products_again(
    way: str, quantization: str | None, steps: dict[str, dict[str, int]]
) -> None:
    plain, selected, layers = (
        steps[name]["products"] for name, case in cases().items()
        if (case["method"], case["attention"], case.get("quantization")) == ("lora", way, quantization)
    )  # fmt: skip
    narrow, wide = 6, 7  # of a layer: LoRA's second products but one, whose result nobody reads again; its own
    assert selected - plain == 2 * narrow
    assert layers - plain > 2 * (narrow + wide)


def test_flex_attention_is_compiled_for_lengths_below_and_above_a_tile_only(found: dict[str, Any]) -> None:
    assert found["graphs"] <= 2


@pytest.mark.slow
def test_compiled_layers_run_as_on_cuda_too(tmp_path: Path) -> None:
    """FlexAttention is compiled with the layer, flash attention runs between its parts."""
    names = ["lora False varlen 1", "lora True flex 4"]
    found = run(tmp_path, [cases()[name] | {"kernels": "compile"} for name in names])["steps"]
    recorded = json.loads(RECORDED.read_text())
    for name, counts in zip(names, found, strict=True):
        assert counts["products"] <= recorded[name]["products"]
