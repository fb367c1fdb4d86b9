"""Fine-tuning for real, on tiny models."""

import io
import json
import os
import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from tests.examples import mostly_slow
from tests.tiny import toy_config, toy_dataset, toy_samples

from palate.config import Config
from palate.errors import InputError, WorkError
from palate.models.adapter import TRAINING, load_adapter
from palate.models.load import load_base_model
from palate.models.method import detach
from palate.prompt.chat import Chat
from palate.score.scorer import Scorer
from palate.store.artifacts import read_json, write_json
from palate.train.card import write_card
from palate.train.finetune import TrainResult, train


def fit(config: Config, out: Path, n: int = 64) -> TrainResult:
    return train(config, toy_dataset(n, config), toy_dataset(8, config, seed=1), out)


def losses(out: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (out / "training_log.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def test_training_learns_what_can_be_learned(base: Path, tmp_path: Path) -> None:
    config = toy_config(base, train={"epochs": 6})
    result = fit(config, tmp_path)
    curve = list(losses(tmp_path).values())
    assert len(curve) == result.steps == 96
    assert curve[-1] < 0.2 * curve[0]
    assert 0 < result.waited < 0.1 * result.seconds
    assert result.eval_loss is not None
    assert result.eval_loss < 0.2 * curve[0]
    model, tokenizer = load_base_model(config.model)
    scorer = Scorer(model, result.adapter, chat=Chat(tokenizer))
    unseen = toy_samples(20, seed=2)
    examples = [config.prompt.alpaca(s["history_titles"], s["candidate_title"], "", 3) for s in unseen]
    p = scorer.score_examples(examples).p
    liked = np.array([s["label"] == "Yes" for s in unseen])
    assert p[liked].min() > p[~liked].max()


@pytest.mark.parametrize("dtype", mostly_slow(["float32", "bfloat16"], ["float32"]))
def test_all_weights_of_the_layers_are_trained_and_written_beside_the_base(
    base: Path, tmp_path: Path, dtype: str
) -> None:
    config = toy_config(
        base, model={"dtype": dtype}, train={"method": "full", "epochs": 3, "learning_rate": 1e-3, "eval_steps": 16}
    )
    result = fit(config, tmp_path)
    curve = list(losses(tmp_path).values())
    assert curve[-1] < 0.5 * curve[0]

    model, tokenizer = load_base_model(config.model)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    layers = {name: weight for name, weight in model.named_parameters() if "embed" not in name and "head" not in name}
    assert result.trained_weights == sum(weight.numel() for weight in layers.values())
    examples = list(toy_dataset(4, config))
    plain = Scorer(model, chat=Chat(tokenizer), cutoff_len=200).score_examples(examples).p
    adapted = load_adapter(model, result.adapter)
    scores = Scorer(adapted, chat=Chat(tokenizer), cutoff_len=200).score_examples(examples).p
    assert np.abs(scores - plain).max() > 0.01

    again = detach(adapted, merged=False)
    assert again.state_dict().keys() == before.keys()
    assert all(torch.equal(weight, before[name]) for name, weight in again.state_dict().items())
    merged = detach(load_adapter(again, result.adapter), merged=True)
    assert merged.state_dict().keys() == before.keys()
    assert (Scorer(merged, chat=Chat(tokenizer), cutoff_len=200).score_examples(examples).p == scores).all()
    assert "full-finetuning" in (result.adapter / "README.md").read_text()


def test_a_run_of_fewer_steps_than_are_logged_tells_its_loss_all_the_same(base: Path, tmp_path: Path) -> None:
    every = fit(toy_config(base), tmp_path / "every", n=8)
    rarely = fit(toy_config(base, train={"logging_steps": 100}), tmp_path / "rarely", n=8)
    curve = list(losses(tmp_path / "every").values())

    assert losses(tmp_path / "rarely") == {}
    assert len(curve) == every.steps == 2
    assert rarely.train_loss == pytest.approx(sum(curve) / 2, rel=1e-3)


@pytest.mark.parametrize("dtype", mostly_slow(["float32", "bfloat16"], ["float32"]))
def test_a_model_in_4_bits_is_trained_and_scored(base: Path, tmp_path: Path, dtype: str) -> None:
    config = toy_config(base, model={"quantization": "nf4", "dtype": dtype}, train={"epochs": 2, "eval_steps": 8})
    result = fit(config, tmp_path)
    curve = list(losses(tmp_path).values())
    assert curve[-1] < 0.5 * curve[0]
    model, tokenizer = load_base_model(config.model)
    assert model.is_loaded_in_4bit
    examples = list(toy_dataset(4, config))
    before = Scorer(model, chat=Chat(tokenizer), cutoff_len=200).score_examples(examples).mass
    after = (
        Scorer(load_adapter(model, result.adapter), chat=Chat(tokenizer), cutoff_len=200).score_examples(examples).mass
    )
    assert after.mean() > 2 * before.mean()


def test_validation_has_a_bar_below_that_of_training(base: Path, tmp_path: Path) -> None:
    config = toy_config(base, train={"eval_steps": 2})
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    train(config, toy_dataset(8, config), toy_dataset(8, config, seed=1), tmp_path, console=console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert re.search(r"validation .*8/8.* samples", shown)
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h")  # the cursor is there again


def test_a_run_that_ends_early_says_how_many_samples_it_trained(base: Path, tmp_path: Path) -> None:
    few = fit(toy_config(base, train={"max_steps": 2}), tmp_path / "few", 16)
    again = fit(toy_config(base, train={"epochs": 3}), tmp_path / "again", 16)
    of_a_step = toy_config(base).train.samples_per_step
    assert (few.samples, again.samples) == (2 * of_a_step, again.samples_available)
    assert few.samples_available == again.samples_available > few.samples


def test_how_layers_are_computed_does_not_change_the_losses(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile = torch.compile  # as traced: to generate kernels takes a minute
    monkeypatch.setattr(torch, "compile", lambda function, **how: compile(function, backend="eager", **how))
    ways: dict[str, dict[str, Any]] = {
        "plain": {"gradient_checkpointing": False},
        "layers": {"gradient_checkpointing": True},
        "selective": {"gradient_checkpointing": "selective"},
        "compiled": {"kernels": "compile"},
    }
    for name, section in ways.items():
        fit(toy_config(base, train=section), tmp_path / name, 16)
        assert losses(tmp_path / name) == pytest.approx(losses(tmp_path / "plain"), rel=1e-4), name


def test_the_same_seed_gives_the_same_adapter(base: Path, tmp_path: Path) -> None:
    config = toy_config(base, train={"max_samples": 16})
    adapters = [load_file(fit(config, tmp_path / n).adapter / "adapter_model.safetensors") for n in "ab"]
    for key, tensor in adapters[0].items():
        assert torch.equal(tensor, adapters[1][key])


def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on(base: Path, tmp_path: Path) -> None:
    def interrupt() -> None:
        while not (tmp_path / "training_log.jsonl").is_file() or len(losses(tmp_path)) < 3:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    config = toy_config(base, train={"epochs": 50})
    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    with pytest.raises(WorkError, match=r"stopped by SIGINT at step \d+ of 800.*the same command resumes"):
        fit(config, tmp_path)
    thread.join()
    assert len(list(tmp_path.glob("checkpoints/checkpoint-*/whole"))) == 1
    assert not (tmp_path / "adapter").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_checkpoints_of_another_run_are_not_used(base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fit(toy_config(base), tmp_path, 16)
    with caplog.at_level("INFO", "palate"):
        result = fit(toy_config(base, train={"learning_rate": 0.02}), tmp_path, 20)
    assert result.resumed_at == 0
    assert "starts over" in caplog.text
    assert "data and learning_rate changed" in caplog.text


def test_a_half_written_checkpoint_is_not_used(base: Path, tmp_path: Path) -> None:
    config = toy_config(base, train={"save_steps": 2})
    fit(config, tmp_path, 16)
    (tmp_path / "checkpoints/checkpoint-4/whole").unlink()
    assert fit(config, tmp_path, 16).resumed_at == 2


@pytest.mark.parametrize("logging_steps", [1, 1000])
def test_a_loss_that_is_not_finite_stops_the_run(logging_steps: int, base: Path, tmp_path: Path) -> None:
    """At the next logged step, or where a checkpoint would be written: to read it, the host waits for the device."""
    options = {"learning_rate": 1e30, "warmup_ratio": 0.0, "max_grad_norm": 1e30, "logging_steps": logging_steps}
    config = toy_config(base, train=options)
    with pytest.raises(WorkError, match=r"the loss is (nan|inf) at step \d+: try a lower"):
        fit(config, tmp_path)
    assert not (tmp_path / "adapter").exists()


def test_layers_that_the_model_does_not_have_are_wrong_input(base: Path, tmp_path: Path) -> None:
    config = toy_config(base, train={"lora": {"target_modules": ["c_attn"]}})
    with pytest.raises(InputError, match=r"train.lora.target_modules: \['c_attn'\] names no layer of .*tiny-qwen3"):
        fit(config, tmp_path)


def test_no_training_samples_are_wrong_input(base: Path, tmp_path: Path) -> None:
    config = toy_config(base)
    with pytest.raises(InputError, match="there are no training samples"):
        train(config, toy_dataset(4, config).select([]), None, tmp_path)


def test_the_card_names_what_the_adapter_was_made_from(base: Path, tmp_path: Path) -> None:
    config = toy_config(base, train={"max_samples": 12}, ratings={"source": "ml-100k"})
    data = toy_dataset(64, config)
    result = train(config, data, None, tmp_path, data_manifest={"outputs": {"train.json": "c0ffee"}})
    card = (result.adapter / "README.md").read_text()
    for part in (f"base_model: {base}", "data: ml-100k", "user-time", "12 of 64", "c0ffee", "Like it?", "r 16, alpha"):
        assert part in card
    assert "## Metrics" not in card
    write_card(result.adapter, config, metrics=[{"row": "fine-tuned", "AUC": 0.71234}])
    card = (result.adapter / "README.md").read_text()
    assert "| fine-tuned | 0.7123 |" in card
    assert "c0ffee" in card
    facts = read_json(result.adapter / TRAINING)
    del facts["samples_per_step"]  # which version 0.1.0 did not record at first
    write_json(result.adapter / TRAINING, facts)
    write_card(result.adapter, config, metrics=[{"row": "fine-tuned", "AUC": 0.71234}])
    assert (result.adapter / "README.md").read_text() == card


def test_nothing_is_printed_beside_the_log(base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fit(toy_config(base, model={"quantization": "nf4"}), tmp_path, 8)
    captured: Any = capfd.readouterr()
    assert captured.out == ""
    assert "Warning" not in captured.err
    assert "loss" not in captured.err
