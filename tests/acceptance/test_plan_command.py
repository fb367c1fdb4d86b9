"""`palate plan` on ratings and a model of which only config.json is there."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.ratings import write_ratings
from tests.small import small_tokenizer
from tests.tiny import tiny_model

from palate.cli import main
from palate.plan.devices import this_machine


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure this machine for a tenth of the time."""
    monkeypatch.setattr("palate.commands.plan.this_machine", partial(this_machine, seconds=0.1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ratings, a tokenizer, and a model's config without weights."""
    folder = tmp_path_factory.mktemp("plan")
    write_ratings(folder / "ratings")
    tiny_model().config.save_pretrained(folder / "model")
    small_tokenizer().save_pretrained(folder / "model")
    assert not list((folder / "model").glob("*.safetensors"))
    return folder


def options(folder: Path) -> list[str]:
    return ["plan", "--ratings", str(folder / "ratings"), "--model", str(folder / "model")]


def found(folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    capsys.readouterr()
    assert main([*options(folder), "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_run_is_planned_without_weights(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = found(folder, capsys, "--price", "h100=3600", "--set", "train.epochs=2")

    assert main(["lengths", *options(folder)[1:], "--json"]) == 0
    lengths = json.loads(capsys.readouterr().out)
    assert plan["tokens"]["samples"] == lengths["samples"]
    # The last token of a sample predicts nothing, and is left out.
    assert plan["tokens"]["forward"] == lengths["mask"]["tokens"] - lengths["samples"]
    assert plan["tokens"]["labelled"] == lengths["mask"]["trained_tokens"]
    assert plan["run"]["tokens"] == 2 * plan["tokens"]["forward"]
    assert plan["flops"]["total"] == pytest.approx(sum(plan["flops"]["forward_and_backward"].values()))
    devices = {device["name"]: device for device in plan["devices"]}
    assert devices["H100"]["cost"] == pytest.approx(devices["H100"]["seconds"])
    assert devices["T4"]["dtype"] == "float32"
    assert devices["this machine"]["seconds"] > 0
    assert all(device["fits"] and device["cost"] is None for name, device in devices.items() if name != "H100")


def test_a_model_that_is_named_brings_its_own_tokenizer(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A recipe names that of its own model, whose ids another model does not know."""
    recipe, other = tmp_path / "recipe.yaml", str(tmp_path / "other")
    recipe.write_text(json.dumps({"ratings": {"source": str(folder / "ratings")}, "tokens": {"tokenizer": other}}))
    command = ["plan", "--config", str(recipe), "--json"]
    model = ["--model", str(folder / "model")]

    assert main([*command, *model]) == 0
    capsys.readouterr()
    bare = tmp_path / "bare"
    tiny_model().config.save_pretrained(bare)
    without = (["--set", f"model.base={folder / 'model'}"], ["--model", str(bare)])  # the recipe's it is
    for words in (*without, [*model, "--tokenizer", other]):
        assert main([*command, *words]) == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {other}: ")


def test_fewer_samples_and_steps_cost_less(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    every = found(folder, capsys)
    some = found(folder, capsys, "--max-samples", "40", "--set", "train.max_steps=2", "--set", "train.train_on=answer")

    assert some["tokens"]["samples"] == some["tokens"]["labelled"] == 40
    assert some["run"]["steps"] == 2
    assert some["run"]["samples"] == 32
    assert some["flops"]["total"] < every["flops"]["total"]


@pytest.mark.parametrize("set", ["train.gradient_checkpointing=true", "train.method=full"])
def test_the_tables_fit_a_terminal(folder: Path, capsys: pytest.CaptureFixture[str], set: str) -> None:
    capsys.readouterr()
    assert main([*options(folder), "--set", set]) == 0
    text = capsys.readouterr().out

    assert ("frozen" in text) == ("full" not in set)
    for words in ("forward tokens", "attention scores", "base weights", "RTX4090", "this machine", "--price"):
        assert words in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--price", "H10=2"], "--price: unknown device 'H10', did you mean 'H100'?"),
        (["--price", "H100=dear"], "expected NAME=PRICE"),
        (["--model", "."], "has no config.json"),
        (["--set", "train.lora.target_modules=nowhere"], "names no layer"),
    ],
)
def test_wrong_input_is_one_line(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()

    assert main([*options(folder), *words]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert expected in errors[0]


@pytest.mark.parametrize("command", ["plan", "lengths", "audit"])
def test_what_only_looks_follows_a_config_that_was_changed_since_its_data_was_prepared(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    words = ["ratings.source=" + str(folder / "ratings"), "run_dir=" + str(tmp_path / "run")]
    words += ["model.base=" + str(folder / "model"), "prepare.max_eval=5"]
    common = [word for value in words for word in ("--set", value)]
    assert main(["prepare", *common]) == 0
    kept = (tmp_path / "run" / "data" / "manifest.json").read_bytes()
    capsys.readouterr()

    assert main([command, *common, "--set", "prepare.history_len=9", "--json"]) == 0
    told = capsys.readouterr()
    assert (
        main([command, "--ratings", words[0].split("=")[1], *common[2:], "--set", "prepare.history_len=9", "--json"])
        == 0
    )

    assert "reading the ratings instead" in told.err
    changed, straight = json.loads(told.out), json.loads(capsys.readouterr().out)
    for found in (changed, straight):
        found.pop("devices", None)  # one of them is measured
    assert changed == straight
    assert (tmp_path / "run" / "data" / "manifest.json").read_bytes() == kept
