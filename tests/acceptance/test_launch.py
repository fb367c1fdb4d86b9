"""`palate train --launch`: several processes that look like one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from tests.acceptance.ratings import write_ratings
from tests.tiny import tiny_folder

from palate.cli import main
from palate.console import about

WORDS = [sys.executable, "-m", "palate", "train", "--launch", "2"]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("launch")
    config = {
        "run_dir": str(folder / "run"),
        "ratings": {"source": str(write_ratings(folder / "ratings"))},
        "model": {"base": str(tiny_folder(folder / "model")), "dtype": "float32"},
        "train": {"max_samples": 32, "batch_size": 4, "gradient_accumulation": 1, "epochs": 8, "logging_steps": 1},
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["--set", "train.epocs=2"],
            "error: --set train.epocs: unknown key 'train.epocs', did you mean 'train.epochs'?",
        ),
        (["--accelerate-config", "none.yaml"], "error: none.yaml: not found"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    recipe: Path,
    words: list[str],
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*WORDS[3:], "--config", str(recipe), "--out", str(tmp_path / "run"), *words]) == 2
    told = capfd.readouterr().err
    assert told.startswith(line)
    assert told.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_its_processes_report_an_error_once_with_its_run_id(
    recipe: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    wrong = ["--out", str(tmp_path / "run"), "--model", "/nowhere", "--json-logs"]
    assert main([*WORDS[3:], "--config", str(recipe), *wrong]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    told = json.loads(line)
    assert (told["level"], told["run"]) == ("error", about["run"])
    assert told["message"].startswith("error: /nowhere: ")
    assert not (tmp_path / "run").exists()


def test_only_training_is_for_several_processes(recipe: Path) -> None:
    launched = os.environ | {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}
    words = [sys.executable, "-m", "palate", "evaluate", "--config", str(recipe)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=launched)
    assert done.returncode == 2
    assert done.stderr == (
        "error: WORLD_SIZE: several processes were launched, only `palate train` works in more than one\n"
    )


@pytest.mark.slow
def test_ctrl_c_ends_all_with_a_checkpoint_and_the_command_goes_on(recipe: Path) -> None:
    run = recipe.parent / "run"
    words = [*WORDS, "--config", str(recipe)]
    launched = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not (run / "training_log.jsonl").is_file() or (run / "training_log.jsonl").read_text().count("\n") < 3:
        assert launched.poll() is None
        time.sleep(0.02)
    os.killpg(launched.pid, signal.SIGINT)  # as a terminal does
    stderr = launched.communicate(timeout=60)[1]
    assert launched.returncode == 130, stderr
    assert stderr.count("stopped by SIGINT at step") == 1
    assert "Traceback" not in stderr
    assert len(list(run.glob("checkpoints/checkpoint-*/whole"))) == 1
    again = subprocess.run(words, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("training resumes from") == 1
    assert (run / "adapter/adapter_model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the children are looked up in /proc")
def test_a_process_that_is_killed_ends_all(recipe: Path, tmp_path: Path) -> None:
    words = [*WORDS, "--config", str(recipe), "--out", str(tmp_path / "run")]
    launched = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "run/training_log.jsonl").is_file():
        assert launched.poll() is None
        time.sleep(0.02)
    children = Path(f"/proc/{launched.pid}/task/{launched.pid}/children").read_text().split()
    os.kill(int(children[1]), signal.SIGKILL)
    stderr = launched.communicate(timeout=60)[1]
    assert launched.returncode == 1
    assert stderr.splitlines()[-1].startswith("error: process 1 of 2 was ended by SIGKILL")
    assert "Traceback" not in stderr
