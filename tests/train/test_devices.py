"""Two processes train what one trains, whichever way they share it, and end as one."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.torch import load_file
from tests.acceptance.ratings import write_ratings
from tests.tiny import tiny_folder

from palate import cli
from palate.errors import InputError
from palate.train.launch import accelerate_environment
from palate.train.processes import place

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs/accelerate").glob("*.yaml"))
BEST = ["--set", "train.keep=best", "--set", "train.targets_per_prompt=4"]
"""Prompts of several targets, in several passes a step, and the best checkpoint loaded at the end."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config beside its ratings, its data and its model."""
    folder = tmp_path_factory.mktemp("recipe")
    train = {
        "max_samples": 15,  # the last step has fewer samples than the others, one device fewer than the other
        "batch_size": 4,
        "tokens_per_batch": 2600,
        "gradient_accumulation": 1,
        "learning_rate": 0.005,
        "logging_steps": 1,
        "eval_steps": 2,
        "save_steps": 2,
        "lora": {"r": 4, "alpha": 8, "dropout": 0.0},
    }
    config = {
        "data_dir": str(folder / "data"),
        "run_dir": str(folder / "run"),
        "ratings": {"source": str(write_ratings(folder / "ratings"))},
        "prepare": {"max_eval": 20},
        "model": {"base": str(tiny_folder(folder / "model")), "dtype": "float32"},
        "train": train,
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(config))
    assert cli.main(["prepare", "--config", str(path)]) == 0
    return path


def words(recipe: Path, out: Path, *more: str) -> list[str]:
    return ["train", "--config", str(recipe), "--out", str(out), *more]


def start(out: Path, cases: list[tuple[str, list[str], str]], **more: str) -> list[subprocess.Popen[str]]:
    """Two processes as a launcher starts them, each of which runs the cases; see `tests.train.a_process`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    out.mkdir(exist_ok=True)
    return [
        subprocess.Popen(
            [sys.executable, "-m", "tests.train.a_process", str(out), json.dumps(cases)],
            cwd=ROOT,
            env=os.environ
            | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
            | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
            | more,
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


def end(processes: list[subprocess.Popen[str]]) -> tuple[list[int], list[str], list[str]]:
    """Exit codes, what each wrote to stderr, and all lines there that tell of an end."""
    try:
        errors = [process.communicate(timeout=400)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    told = [
        line for error in errors for line in error.splitlines() if re.match(r"error|stopped|Traceback|\[rank", line)
    ]
    return [process.returncode for process in processes], errors, told


def log(out: Path, *keys: str) -> list[dict[str, float]]:
    entries = [json.loads(line) for line in (out / "training_log.jsonl").read_text().splitlines()]
    keys = keys or ("step", "loss", "decision_loss", "accuracy", "grad_norm", "eval_loss", "eval_auc", "eval_samples")
    return [{key: entry[key] for key in keys if key in entry} for entry in entries]


def check_same_run(out: Path, other: Path) -> None:
    mine, theirs = log(out), log(other)
    assert len(mine) == len(theirs) > 5
    for a, b in zip(mine, theirs, strict=True):
        assert a == pytest.approx(b, rel=1e-5)
    check_same_adapter(out, other)


def check_same_adapter(out: Path, other: Path) -> None:
    mine, theirs = (load_file(each / "adapter/adapter_model.safetensors") for each in (out, other))
    assert mine.keys() == theirs.keys()
    for key, weight in theirs.items():
        torch.testing.assert_close(mine[key], weight, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def alone(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of runs `plain` and `best` in one process, with the samples of each step."""
    from tests.train.a_process import steps_noted

    out = tmp_path_factory.mktemp("alone")
    for name, more in (("plain", []), ("best", BEST)):
        with steps_noted() as seen:
            assert cli.main(words(recipe, out / name, *more)) == 0
        (out / f"{name}.json").write_text(json.dumps(seen))
    return out


@pytest.fixture(scope="module")
def together(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in two processes, which go on with a run in which the second one's loss is not finite."""
    out = tmp_path_factory.mktemp("together")
    cases = [(name, words(recipe, out / name, *more), "") for name, more in (("plain", []), ("best", BEST))]
    codes, errors, told = end(start(out, [*cases, ("nan", words(recipe, out / "nan"), "nan")]))
    assert codes == [1, 1], errors
    assert [line.partition(":")[2].partition(":")[0] for line in told] == [" the loss is nan at step 1"]
    assert errors[0].count("trained on 15 samples") == 2
    assert "palate" not in errors[1]
    assert "samples" not in errors[1]
    return out


@pytest.mark.parametrize("name", ["plain", "best"])
def test_two_processes_give_what_one_gives(alone: Path, together: Path, name: str) -> None:
    check_same_run(together / name, alone / name)


@pytest.mark.parametrize("name", ["plain", "best"])
def test_a_step_has_the_same_samples_on_two_devices(alone: Path, together: Path, name: str) -> None:
    steps = json.loads((alone / f"{name}.json").read_text())
    halves = [json.loads((together / f"{name}.{rank}.json").read_text()) for rank in range(2)]
    assert sum(map(len, steps)) == 15
    for whole, *shares in zip(steps, *halves, strict=True):
        assert sorted(whole) == sorted(chain(*shares))
        assert len(whole) == 1 or all(shares)


def test_only_the_first_process_writes(alone: Path, together: Path) -> None:
    def files(run: Path) -> set[str]:
        names = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
        return {re.sub(r"rng_state(_\d)?", "rng_state", name) for name in names}

    assert files(together / "plain") == files(alone / "plain")
    lines = (together / "plain/run.log").read_text()
    assert lines.count("attention: segments") == lines.count("training on 15 of") == 1


@pytest.mark.slow
def test_fsdp2_gives_what_one_process_gives(recipe: Path, alone: Path, tmp_path: Path) -> None:
    environment = accelerate_environment(ROOT / "configs/accelerate/fsdp2.yaml", 2)
    codes, errors, told = end(
        start(tmp_path, [("best", words(recipe, tmp_path / "best", *BEST), "fsdp2")], **environment)
    )
    assert (codes, told) == ([0, 0], []), errors
    assert list(tmp_path.glob("best/checkpoints/checkpoint-*/pytorch_model_fsdp.bin")), "nothing was sharded"
    check_same_run(tmp_path / "best", alone / "best")


def test_a_loss_that_is_not_finite_on_one_device_ends_all(together: Path) -> None:
    assert not (together / "nan" / "adapter").exists()


@pytest.mark.slow
def test_wrong_input_on_one_machine_ends_all(recipe: Path, tmp_path: Path) -> None:
    codes, errors, told = end(start(tmp_path, [("broken", words(recipe, tmp_path / "broken"), "broken")]))
    assert codes == [2, 2], errors
    assert told == ["error: model: is broken here"]
    assert not (tmp_path / "broken").exists()


@pytest.mark.slow
def test_wrong_input_is_told_once(recipe: Path, tmp_path: Path) -> None:
    wrong = words(recipe, tmp_path / "wrong", "--set", "train.epocs=2")
    codes, errors, told = end(start(tmp_path, [("wrong", wrong, "")]))
    assert codes == [2, 2], errors
    assert told == ["error: --set train.epocs: unknown key 'train.epocs', did you mean 'train.epochs'?"]


@pytest.mark.slow
def test_a_stopped_run_goes_on_in_any_number_of_processes(recipe: Path, alone: Path, tmp_path: Path) -> None:
    """Two processes, of which one gets a signal; then one, which is stopped too; then two."""
    run = tmp_path / "run"
    slow = words(recipe, run, "--set", "train.epochs=16", "--set", "train.eval_steps=null")
    processes = start(tmp_path, [("stopped", slow, "")])
    after(run, 3, processes[0])
    processes[1].send_signal(signal.SIGTERM)
    codes, errors, told = end(processes)
    assert codes == [130, 130], errors
    assert len(told) == 1
    goes_on = r"stopped by .* at step \d+ of 64; the last checkpoint is .*: the same command resumes from it"
    assert re.fullmatch(goes_on, told[0])
    first = check_one_checkpoint(run)

    process = subprocess.Popen([sys.executable, "-m", "palate", *slow], stderr=subprocess.DEVNULL)
    after(run, first + 3, process)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    second = check_one_checkpoint(run)
    assert second > first

    codes, errors, _ = end(start(tmp_path, [("again", slow, "")]))
    assert codes == [0, 0], errors
    assert errors[0].count(f"training resumes from {run}/checkpoints/checkpoint-{second}") == 1
    assert cli.main(words(recipe, tmp_path / "undisturbed", *slow[5:])) == 0
    mine, theirs = (log(each, "step", "loss") for each in (run, tmp_path / "undisturbed"))
    assert len(mine) == len(theirs) > 64
    for a, b in zip(mine, theirs, strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    check_same_adapter(run, tmp_path / "undisturbed")


def after(run: Path, step: int, process: "subprocess.Popen[Any]") -> None:
    """Wait until a step is logged."""
    while not (run / "training_log.jsonl").is_file() or max([e.get("step", 0) for e in log(run)], default=0) < step:
        assert process.poll() is None, "the run ended before it could be stopped"
        time.sleep(0.02)


def check_one_checkpoint(run: Path) -> int:
    """The last checkpoint is whole, and none is newer than it."""
    steps = {int(path.name.rpartition("-")[2]): path for path in run.glob("checkpoints/checkpoint-*")}
    assert all((path / "whole").is_file() for path in steps.values())
    assert not (run / "adapter").exists()
    return max(steps)


def test_accelerate_takes_the_files_that_are_shipped() -> None:
    kinds = {path.stem: str(load_config_from_file(str(path)).distributed_type.value) for path in CONFIGS}
    assert kinds == {
        "ddp": "MULTI_GPU",
        "deepspeed_zero2": "DEEPSPEED",
        "deepspeed_zero3": "DEEPSPEED",
        "fsdp2": "FSDP",
    }
    for path in CONFIGS:
        assert f"accelerate launch --config_file configs/accelerate/{path.name} -m palate train" in path.read_text()


def test_what_accelerate_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from palate.train.processes import sharding

    found = {}
    for path in CONFIGS:
        with monkeypatch.context() as patch:
            for name, value in accelerate_environment(path, 2).items():
                patch.setenv(name, value)
            found[path.stem] = sharding()
    assert found == {"ddp": None, "deepspeed_zero2": "zero2", "deepspeed_zero3": "zero3", "fsdp2": "fsdp2"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_machines": 2, "main_process_ip": "10.0.0.1"}, "configures several machines, expected `accelerate"),
        ({"distributed_type": "MULTI_TOASTER"}, "accelerate rejects it"),
    ],
)
def test_files_that_cannot_be_launched_here(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load((ROOT / "configs/accelerate/ddp.yaml").read_text()) | change))
    with pytest.raises(InputError, match=rf"own.yaml: {message}"):
        accelerate_environment(path, 2)


def test_a_file_for_accelerate_that_is_no_yaml_is_reported_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    for text, message in (("a: [1\nb", ":2: is not YAML"), ("- 1\n", r":1: is \[1\], expected keys")):
        path.write_text(text)
        with pytest.raises(InputError, match=rf"own.yaml{message}"):
            accelerate_environment(path, 2)


def test_ranks_that_are_no_numbers_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "0"), ("LOCAL_RANK", "x"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=r"^LOCAL_RANK: is 'x', expected a whole number, as torchrun sets it$"):
        place()
