"""The checks of a device, here on the processor; `pytest -m gpu` runs them on a GPU."""

import getpass
import json
import socket
from pathlib import Path

import pytest
import torch
from tests.command import palate

from palate.commands import device_checks, doctor
from palate.commands.device_checks import Bench, Check, Result, attention, bench_on, public, ranking, speed, within
from palate.commands.training_checks import runs
from palate.errors import PalateError
from palate.models.logits import exact_logits
from palate.score.local import LocalBackend
from palate.store.artifacts import files_of
from palate.store.hub import cache_dir
from palate.tokens.packed import Packed, tensors
from palate.train.attention import Attention

CHECKS = (attention, ranking, speed, runs)
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is found")


def failed(results: list[Result]) -> list[Result]:
    return [result for result in results if result.outcome == "failed"]


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("check", CHECKS)
def test_the_checks_pass_on_this_gpu(check: object) -> None:
    with bench_on("cuda") as bench:
        assert not failed([each.run() for each in check(bench)])  # type: ignore[operator]


@pytest.mark.parametrize("check", [attention, ranking, speed, pytest.param(runs, marks=pytest.mark.slow)])
def test_the_checks_pass_on_the_processor_and_say_what_they_skip(check: object) -> None:
    with bench_on("cpu") as bench:
        results = [each.run() for each in check(bench)]  # type: ignore[operator]
    assert not failed(results)
    for result in results:
        only_cuda = any(word in result.name for word in ("varlen", "flex", "memory", "compiled", "synchronizations"))
        assert (result.outcome == "skipped") == only_cuda
        assert bool(result.reason) == only_cuda


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(torch.device("cpu"), tmp_path)


def test_an_attention_that_lets_blocks_see_each_other_fails(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def leaky(self: Attention, model: object, packed: Packed) -> object:
        with exact_logits(model):
            return model(**tensors(packed), use_cache=False).logits[0]  # type: ignore[operator]

    monkeypatch.setattr(Attention, "logits", leaky)
    rows = [each.run() for each in list(attention(bench))[:4] if "segments" in each.name or "mask" in each.name]
    assert [row.outcome for row in rows] == ["failed", "failed"]
    assert "does not keep packed prompts apart" in rows[0].reason


def test_a_ranking_with_another_prefix_fails(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = LocalBackend.answers_behind
    monkeypatch.setattr(LocalBackend, "answers_behind", lambda self, prefix, *rest: answers(self, prefix[9:], *rest))
    row = next(ranking(bench)).run()
    assert row.outcome == "failed"
    assert row.reason.endswith("expected at most 0.05")


def test_steps_that_compile_again_fail(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.utils import counters

    step = device_checks.Measured.step

    def compiling(self: device_checks.Measured, packed: Packed) -> None:
        counters["stats"]["unique_graphs"] += 1
        step(self, packed)

    monkeypatch.setattr(device_checks.Measured, "step", compiling)
    row = row_of(bench, "compiled again")
    assert (row.outcome, row.reason) == ("failed", "4 graphs after the first 3, expected none")


def row_of(bench: Bench, name: str) -> Result:
    return next(check for check in speed(bench) if check.name.startswith(name)).run()


def test_layers_that_do_not_compile_where_a_training_would_compile_them_fail(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_checks, "compiling_pays", lambda device, steps: True)
    row = row_of(bench, "compiled again")
    assert (row.outcome, row.reason) == ("failed", "compiled layers fail the probe, or do not compile")


def test_a_pass_of_more_kernels_than_planned_fails(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = device_checks.kernels
    monkeypatch.setattr(device_checks, "kernels", lambda *args: kernels(*args) / 1.5)
    row = row_of(bench, "kernels")
    assert row.outcome == "failed"
    assert row.reason.endswith("expected 353 ± 20%")


def test_a_model_is_checked_as_it_is_trained(bench: Bench) -> None:
    """Its adapters cast no input, and its layers are computed again as `train.gradient_checkpointing` says."""
    for kind in device_checks.KINDS:
        model = bench.adapted("tiny", kind)
        assert not any(getattr(module, "cast_input_dtype_enabled", False) for module in model.modules())
        assert model.get_base_model().is_gradient_checkpointing == (kind != "bfloat16")


def test_a_figure_that_is_no_number_is_out_of_bounds() -> None:
    row = Check("x", lambda: (within([float("nan")], [1.0]), "1")).run()
    assert (row.outcome, row.reason) == ("failed", "nan, expected at most 1")


def test_a_report_has_nothing_private() -> None:
    machine, user = socket.gethostname(), getpass.getuser()
    assert public(f"{Path.home()}/secret project/x.so: lost on {machine}, {user}") == "…/x.so: lost on …, …"
    assert public("bfloat16 and/or float32: 1/2") == "bfloat16 and/or float32: 1/2"


def test_the_command_prints_a_table_of_80_columns_and_writes_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("attention", "speed"):
        monkeypatch.setattr(device_checks, name, lambda bench: iter(()))
    monkeypatch.setattr("palate.commands.training_checks.runs", lambda bench: [Check("broken", broken)])
    done = palate("doctor", "--gpu", "--device", "cpu", "--json", tmp_path / "report.json")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[-1] == "failed broken: kernel …/x.cu is lost"
    assert done.stderr.splitlines()[-1] == "error: 1 of 3 checks failed on cpu: please report them with --json FILE"
    report = json.loads((tmp_path / "report.json").read_text())
    assert [row["outcome"] for row in report["checks"]] == ["ok", "ok", "failed"]
    assert report["versions"]["torch"] == torch.__version__
    for word in (str(Path.home()), str(tmp_path), socket.gethostname()):
        assert word not in (tmp_path / "report.json").read_text()


def test_nothing_is_left_in_the_users_cache() -> None:
    before = files_of(cache_dir())
    with bench_on("cpu") as bench:
        assert next(check for check in ranking(bench) if "nf4" in check.name).run().outcome == "ok"
        assert files_of(cache_dir()), "the hash of the weights"
        folder = bench.folder
    assert files_of(cache_dir()) == before
    assert not folder.exists()


def test_the_rows_of_a_gpu_fit_into_80_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench(torch.device("cuda"), tmp_path)
    names = [check.name for group in CHECKS for check in group(bench)]
    assert len(names) > 40
    doctor._show([Result(name, "skipped", "0.0031, 0.0069", "12.34 ± 20%", "needs CUDA") for name in names])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    for name, line in zip(names, lines[1:], strict=False):
        assert line.startswith(f"{name} ")
        assert line.rstrip().endswith("skipped  0.0031, 0.0069  12.34 ± 20%")
    assert lines[-1].endswith(f" and {len(names) - 1} more: needs CUDA")


def broken() -> tuple[str, str]:
    raise RuntimeError("kernel /somewhere/x.cu is lost\nand more")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_command_says_so_and_what_works(tmp_path: Path) -> None:
    done = palate("doctor", "--gpu")
    assert (done.returncode, done.stderr) == (2, f"error: palate doctor --gpu: {doctor.NO_GPU}\n")
    assert "--device cpu" in done.stderr


def test_options_of_the_checks_need_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in (["--device", "cpu"], ["--json", "report.json"]):
        done = palate("doctor", *words)
        assert done.returncode == 2
        assert "belongs to the checks of a device, expected --gpu beside it" in done.stderr
    (tmp_path / "mine.yaml").write_text("name: a\n")
    (tmp_path / "file").touch()
    for place in (tmp_path / "file/report.json", tmp_path / "folder.json"):
        (tmp_path / "folder.json").mkdir(exist_ok=True)
        with monkeypatch.context() as patch, pytest.raises(PalateError, match=f"{place.name}: (cannot be|is a folder)"):
            patch.setattr(device_checks, "bench_on", lambda device: pytest.fail("the checks began"))
            doctor.check("cpu", place)
    done = palate("doctor", "--gpu", "--json", tmp_path / "mine.yaml")
    assert done.returncode == 2
    assert "expected a file name that ends in .json" in done.stderr
    assert (tmp_path / "mine.yaml").read_text() == "name: a\n"
