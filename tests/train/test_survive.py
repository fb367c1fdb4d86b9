"""Killed, stopped, out of disk or memory: what is left, and that the same command resumes from it."""

import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.acceptance.ratings import write_ratings
from tests.tiny import toy_config, toy_dataset

from palate.cli import main
from palate.commands.prepare import prepare
from palate.commands.report import lines_if_there
from palate.config import Config
from palate.errors import InputError, InterruptedWorkError, WorkError
from palate.train.answers import AnswerTrainer
from palate.train.finetune import TrainResult, train

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1"}
CLOCKS = {"eval_seconds", "train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss"}
KILL = int(signal.SIGKILL)

# Two legs of a step's log lie in two processes, a step has several passes, prompts have several targets, dropout draws.
HARD = {
    "tokens_per_batch": 300,
    "targets_per_prompt": 3,
    "ranking_weight": 0.5,
    "logging_steps": 3,
    "eval_steps": 2,
    "save_total_limit": 1,
}
BEST = {"keep": "best", "early_stopping": 2, "eval_steps": 1, "learning_rate": 0.05}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, base: Path) -> dict[str, Any]:
    """A config on data that is prepared."""
    folder = tmp_path_factory.mktemp("data")
    config = {
        "name": "legs",
        "data_dir": str(folder / "data"),
        "ratings": {"source": str(write_ratings(folder / "ratings"))},
        "prepare": {"history_len": 5, "max_eval": 12, "val_ratio": 0.1},
        "prompt": {"system": "S", "instruction": "I", "question": "Yes or No?"},
        "model": {"base": str(base), "dtype": "float32"},
    }
    prepare(Config.model_validate(config))
    return config


def with_options(data: dict[str, Any], run: Path, **options: Any) -> dict[str, Any]:
    train = {
        "max_samples": 36,
        "batch_size": 3,
        "gradient_accumulation": 2,
        "epochs": 2,
        "save_steps": 2,
        "logging_steps": 1,
        "learning_rate": 0.01,
        "lora": {"r": 4, "alpha": 8, "dropout": 0.2},
    }
    return data | {"run_dir": str(run), "train": train | options}


def legs_of(config: dict[str, Any], places: Sequence[tuple[str, int] | None], number: int = KILL) -> list[Any]:
    """Legs of one run, each with the place where it gets a signal."""
    log = str(Path(config["run_dir"]).with_suffix(".events"))
    return [{"config": config, "place": place, "signal": number, "log": log} for place in places]


def run_legs(legs: list[Any]) -> tuple[list[Any], str]:
    """How each leg ended and what it left, and what was said; one process loads the libraries for all."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/train/legs.py")],
        input=json.dumps(legs),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return json.loads(done.stdout), done.stderr


def curve(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "training_log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in CLOCKS} for line in lines]


def assert_same(run: Path, other: Path) -> None:
    """The same log but for times, and the same adapter."""
    ours, theirs = curve(run), curve(other)
    assert [line.keys() for line in ours] == [line.keys() for line in theirs]
    for one, two in zip(ours, theirs, strict=True):
        assert one == pytest.approx(two, rel=1e-4, abs=1e-6)
    name = "adapter/adapter_model.safetensors"
    one, two = load_file(run / name), load_file(other / name)
    for key in two:
        torch.testing.assert_close(one[key], two[key], rtol=1e-3, atol=1e-5)


@pytest.fixture(scope="module", params=[HARD, HARD | BEST], ids=["hard", "best"])
def undisturbed(data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, request: Any) -> Any:
    """Options, the folder of a run with them, and what it did to its folder."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    (end,), _ = run_legs(legs_of(with_options(data, run, **request.param), [None]))
    assert end == {"status": 0, "whole": end["whole"], "adapter": True}
    return request.param, run, run.with_suffix(".events").read_text().splitlines()


PLACES: list[tuple[str, int]] = [
    ("evaluate", 2),
    (r"os.rename .*checkpoint-\d+/whole", 2),  # all written, not marked
    (r"os.remove .*/checkpoint-\d+/whole$", 2),  # marked, the one before about to go; the first is half-written
    (r"os.remove .*…/optimizer.pt", 1),  # the one before half gone
    (r"open .*training_log.jsonl", 2),
    (r"open .*/adapter_config.json", 2),  # in a checkpoint
    (r"os.rename .*adapter.partial.*/palate.json", 1),
    (r"os.rename adapter$", 1),
]


def check_goes_on(legs: list[Any], run: Path, reference: Path) -> None:
    """All legs but the last were killed, none lost a checkpoint, and the end is that of the undisturbed run."""
    assert [leg["status"] for leg in legs] == [-KILL] * (len(legs) - 1) + [0]
    last = [max((int(name.partition("-")[2]) for name in leg["whole"]), default=0) for leg in legs]
    assert last == sorted(last)
    assert all(last[1:])
    assert_same(run, reference)


def test_killed_around_the_mark_of_a_checkpoint_a_run_goes_on_to_the_same_end(
    data: dict[str, Any], tmp_path: Path
) -> None:
    methods = {"lora": HARD, "full": HARD | {"method": "full", "learning_rate": 0.001}}
    legs = []
    for method, options in methods.items():
        legs += legs_of(with_options(data, tmp_path / method, **options), [*PLACES[1:3], None])
        legs += legs_of(with_options(data, tmp_path / f"{method}-undisturbed", **options), [None])
    ends, said = run_legs(legs)
    for method in methods:
        *killed, undisturbed = (ends.pop(0) for _ in range(4))
        assert undisturbed["status"] == 0
        check_goes_on(killed, tmp_path / method, tmp_path / f"{method}-undisturbed")
    assert said.count("training resumes from") == 2 * len(methods), said


@pytest.mark.slow
def test_killed_at_every_kind_of_moment_a_run_goes_on_to_the_same_end(
    data: dict[str, Any], undisturbed: Any, tmp_path: Path
) -> None:
    options, reference, _ = undisturbed
    ends, said = run_legs(legs_of(with_options(data, tmp_path / "run", **options), [*PLACES, None]))
    check_goes_on(ends, tmp_path / "run", reference)
    assert said.count("training resumes from") >= 2, said


@pytest.mark.slow
def test_killed_at_any_change_of_its_folder_a_run_goes_on_to_the_same_end(
    data: dict[str, Any], undisturbed: Any, tmp_path: Path
) -> None:
    options, reference, events = undisturbed
    first = next(n for n, event in enumerate(events) if event.endswith("/whole"))
    for n in range(len(events)):
        run = tmp_path / str(n)
        legs, _ = run_legs(legs_of(with_options(data, run, **options), [("", n + 1), None]))
        assert [leg["status"] for leg in legs] == [-KILL, 0], events[n]
        assert legs[0]["whole"] or n <= first, events[n]
        assert_same(run, reference)


@pytest.mark.slow
def test_killed_at_random_times_a_run_goes_on_to_the_same_end(
    data: dict[str, Any], undisturbed: Any, tmp_path: Path
) -> None:
    options, reference, _ = undisturbed
    draw, kills = random.Random(0), 0
    for n in range(4):
        config = with_options(data, tmp_path / str(n), **options)
        (tmp_path / "config.yaml").write_text(json.dumps(config))
        command = [sys.executable, "-m", "palate", "train", "--config", str(tmp_path / "config.yaml")]
        while True:
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ | ENVIRONMENT)
            try:
                code = process.wait(timeout=draw.uniform(5, 20))
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
        assert code == 0
        assert_same(tmp_path / str(n), reference)
    assert kills


@pytest.mark.slow
@pytest.mark.parametrize("place", [("evaluate", 2), ("os.rename training_log", 1)], ids=["evaluation", "first step"])
def test_sigterm_ends_with_a_checkpoint_and_the_run_goes_on(
    data: dict[str, Any], undisturbed: Any, tmp_path: Path, place: tuple[str, int]
) -> None:
    options, reference, _ = undisturbed
    run = tmp_path / "run"
    config = with_options(data, run, **options)
    legs, said = run_legs(legs_of(config, [place], int(signal.SIGTERM)))
    assert legs[0]["status"] == 130
    assert legs[0]["whole"]
    assert not legs[0]["adapter"]
    assert "resumes from it" in said.splitlines()[-1]
    legs, _ = run_legs(legs_of(config, [None]))
    assert legs[0]["status"] == 0
    assert_same(run, reference)


def fit(base: Path, out: Path, **options: Any) -> TrainResult:
    config = toy_config(base, train={"save_steps": 2, "batch_size": 2, "gradient_accumulation": 2} | options)
    return train(config, toy_dataset(24, config), None, out)


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, method: str, do: Callable[[AnswerTrainer], None]) -> None:
    """Have something happen once, where a trainer's method begins after so many steps."""
    inner, done = getattr(AnswerTrainer, method), False

    def wrapped(self: AnswerTrainer, *args: Any, **kwargs: Any) -> Any:
        nonlocal done
        if self.state.global_step == step and not done:
            done = True
            do(self)
        return inner(self, *args, **kwargs)

    monkeypatch.setattr(AnswerTrainer, method, wrapped)


@pytest.mark.parametrize("size", [100, 100_000], ids=["the first file", "the optimizer's"])
def test_a_full_disk_leaves_the_checkpoint_before_and_the_same_command_goes_on(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    at_step(monkeypatch, 4, "_save_checkpoint", lambda _: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard)))
    try:
        with pytest.raises(WorkError) as caught:
            fit(base, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    place = re.escape(f"{tmp_path}/checkpoints/checkpoint-")
    goes_on = f"the last checkpoint is {place}2: the same command resumes from it"
    assert re.fullmatch(rf"{place}4: cannot be written: [^;\n]+ MB free\); {goes_on}", str(caught.value))
    assert not (tmp_path / "checkpoints/checkpoint-4").exists()
    assert fit(base, tmp_path).resumed_at == 2


def out_of_memory_on_the_cpu(_: AnswerTrainer) -> None:
    torch.empty(1 << 50)


def out_of_memory_on_a_gpu(_: AnswerTrainer) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize("fail", [out_of_memory_on_the_cpu, out_of_memory_on_a_gpu])
def test_a_run_that_is_out_of_memory_goes_on_with_less(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail: Callable[[AnswerTrainer], None]
) -> None:
    at_step(monkeypatch, 3, "training_step", fail)
    with pytest.raises(WorkError, match=r"^out of memory at step 4: try a smaller train.tokens_per_batch .*$"):
        fit(base, tmp_path)
    less = {"tokens_per_batch": 120, "batch_size": 1, "gradient_accumulation": 4, "gradient_checkpointing": True}
    assert fit(base, tmp_path, **less).resumed_at == 2
    fit(base, tmp_path / "undisturbed")
    for line, other in zip(curve(tmp_path), curve(tmp_path / "undisturbed"), strict=True):
        assert line == pytest.approx(other, rel=1e-3, abs=1e-5)


def test_weights_that_are_not_finite_are_no_checkpoint(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def poison(trainer: AnswerTrainer) -> None:
        next(p for p in trainer.model.parameters() if p.requires_grad).data.fill_(float("nan"))

    at_step(monkeypatch, 4, "_save_checkpoint", poison)
    with pytest.raises(WorkError, match=r"the weights are not finite after step 4: try a lower train.learning_rate"):
        fit(base, tmp_path)
    assert [p.name for p in tmp_path.glob("checkpoints/checkpoint-*")] == ["checkpoint-2"]
    with caplog.at_level("INFO", "palate"):
        assert fit(base, tmp_path, learning_rate=0.001).resumed_at == 0
    assert "training starts over: learning_rate changed" in caplog.text
    assert (tmp_path / "checkpoints.1/checkpoint-2/whole").is_file()


def test_a_second_signal_ends_at_once(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(_: AnswerTrainer) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)

    at_step(monkeypatch, 3, "training_step", twice)
    with pytest.raises(InterruptedWorkError, match=r"stopped at once by a second signal; the last .*checkpoint-2: the"):
        fit(base, tmp_path)
    assert fit(base, tmp_path).resumed_at == 2


def test_a_signal_in_the_last_step_calls_off_what_was_to_follow(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_step(monkeypatch, 5, "training_step", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(InterruptedWorkError, match=r"stopped by SIGTERM at step 6 of 6; .*resumes from it"):
        fit(base, tmp_path)
    assert fit(base, tmp_path).resumed_at == 6
    assert (tmp_path / "adapter").is_dir()


def test_a_signal_cancels_an_evaluation_which_the_resumed_run_makes_up_for(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toy_config(base, train={"save_steps": 3, "batch_size": 2, "gradient_accumulation": 2, "eval_steps": 2})

    def evaluations(out: Path) -> list[dict[str, float]]:
        train(config, toy_dataset(24, config), toy_dataset(12, config), out)
        lines = map(json.loads, (out / "training_log.jsonl").read_text().splitlines())
        return [{k: v for k, v in entry.items() if k not in CLOCKS} for entry in lines if "eval_loss" in entry]

    whole = evaluations(tmp_path / "whole")
    with monkeypatch.context() as patch:
        at_step(patch, 4, "evaluate", lambda _: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(InterruptedWorkError, match=r"stopped by SIGINT at step 4 of 6; .*resumes from it"):
            evaluations(tmp_path / "cut")
    log = (tmp_path / "cut/training_log.jsonl").read_text().splitlines()
    assert [entry["step"] for entry in map(json.loads, log) if "eval_loss" in entry] == [2]
    assert evaluations(tmp_path / "cut") == whole


def test_a_checkpoint_that_was_cut_off_is_not_used(base: Path, tmp_path: Path) -> None:
    fit(base, tmp_path)
    with (tmp_path / "checkpoints/checkpoint-6/optimizer.pt").open("r+b") as file:
        file.truncate(1000)
    assert fit(base, tmp_path).resumed_at == 4


def test_a_run_that_is_refused_leaves_the_checkpoints_of_another_alone(base: Path, tmp_path: Path) -> None:
    config = toy_config(base, train={"save_steps": 2, "max_steps": 4})
    train(config, toy_dataset(32, config), None, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    wrong = toy_config(base, train={"save_steps": 2, "max_steps": 4, "lora": {"target_modules": ["no_such_layer"]}})
    with pytest.raises(InputError, match="names no layer"):
        train(wrong, toy_dataset(32, wrong), None, tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_sigterm_before_training_is_told_in_one_line(
    data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(*args: Any, **kwargs: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("palate.train.finetune.load_model", load)
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_DFL)  # as in a process of its own
    (tmp_path / "config.yaml").write_text(json.dumps(with_options(data, tmp_path / "run")))
    assert main(["train", "--config", str(tmp_path / "config.yaml")]) == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith("interrupted")


def test_a_line_of_the_log_that_was_cut_off_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "log").write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert lines_if_there(tmp_path / "log") == [{"step": 1}, {"step": 2}]
