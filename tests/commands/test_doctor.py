import json
import socket
from pathlib import Path
from typing import Any

import pytest
from tests.command import palate
from tests.recipes import recipe_to_run
from tests.small import all_small

from palate.commands.doctor import examine
from palate.config import Config
from palate.prompt.spec import PromptSpec


@pytest.fixture(autouse=True)
def no_gguf(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GGUF file's tokenizer takes six seconds to read."""
    monkeypatch.setattr("palate.commands.doctor.MODELS", {})


def found(folder: Path, kind: str, **prompt: str) -> Any:
    """What is said of the prompts of a tokenizer."""
    all_small()[kind].save_pretrained(folder / kind)
    name = str(folder / kind)
    config = Config(tokens={"tokenizer": name}, prompt=PromptSpec(**prompt))
    return examine(config)["prompts"][name]


@pytest.mark.parametrize(
    ("kind", "how"),
    [("byte_level_bpe", "regex split, byte-level"), ("wordpiece", "split at white space and punctuation")],
)
def test_prompts_that_are_composed_are_told_with_their_proof(tmp_path: Path, kind: str, how: str) -> None:
    assert found(tmp_path, kind)["summary"] == f"composed: cuts proved by {how}"


def test_a_prompt_that_tells_contexts_is_composed(tmp_path: Path) -> None:
    line = "{title}: {item_mean:.1f} by {item_count:,}"
    assert found(tmp_path, "byte_level_bpe", history_line=line, candidate_line=line)["composed"] is True


def test_a_prompt_that_cannot_be_cut_is_told_with_the_field(tmp_path: Path) -> None:
    whole = found(tmp_path, "unigram", history_line="{title}")

    assert whole["composed"] is False
    assert whole["summary"] == ("tokenized whole: no token boundary is certain to the right of {title} in history_line")


def test_a_tokenizer_of_which_nothing_is_proved_is_told_with_the_token_to_blame(tmp_path: Path) -> None:
    assert "the added token '</s>' matches text beside it" in found(tmp_path, "phi3_like")["summary"]


def test_titles_that_are_tokenized_whole_are_named(tmp_path: Path) -> None:
    bare = found(tmp_path, "byte_level_bpe", history_line="{title}", candidate_line="{year:d} {title}")

    assert bare["composed"]
    assert " Film " in bare["whole"]
    assert "tokenized whole with titles such as ' Film '" in bare["summary"]


def test_a_problem_report_has_the_error_and_nothing_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {
        "HOME": "/home/alice-of-acme",
        "USER": "alice",
        "HF_TOKEN": "hf_9a8b7c",
        "PALATE_API_KEY": "k3y-of-acme",
        "PALATE_RUN_ID": "job-of-acme",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    recipe = recipe_to_run(
        tmp_path,
        train={"save_steps": 4, "lora": {"target_modules": "wing"}},
        prompt={"system": "Greet the guests of the hotel.", "history_line": "{title} at {rating:g}"},
    )
    failed = palate("train", recipe)
    assert "names no layer of" in failed.stderr
    url = "postgresql://bob:hunter2@db.acme.example/ratings"
    done = palate("doctor", recipe, "--set", f"ratings.also={url}", "--report", tmp_path / "problem.json")
    assert done.returncode == 0, done.stderr

    text = (tmp_path / "problem.json").read_text()
    private = [*secrets.values(), url, "hunter2", "acme", "Greet", "{title}", "wing", "Film", str(tmp_path), "tiny"]
    assert [each for each in (*private, socket.gethostname()) if each in text] == []
    run = json.loads(text)["run"]
    assert run["config"]["train.save_steps"] == 4
    assert run["config"]["ratings.also"] == f"… (URL of {len(url)} characters)"
    error = run["last_error"]
    assert error["error"] == "InputError"
    assert error["says"] == "… names no layer of …, expected all-linear or names of its layers"
    assert error["at"][0].startswith("palate.models.method:")
    assert json.loads(palate("doctor", "--report").stdout).keys().isdisjoint({"run"})


@pytest.mark.parametrize("words", [["--report", "--gpu"], ["--report", "."]])
def test_a_problem_report_is_a_file_of_its_own(words: list[str]) -> None:
    done = palate("doctor", *words)
    assert done.returncode == 2
    assert "expected" in done.stderr
