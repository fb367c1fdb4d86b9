"""Training with vectors of items: which vectors it shows, resumption, its own learning rate, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.acceptance.ratings import write_ratings
from tests.examples import mostly_slow

from palate.commands.train import train
from palate.config import Config
from palate.errors import InputError

LINES = {"history_line": "{item_vector} {title} {rating:g}", "candidate_line": "{title} {item_vector}"}


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory, base: Path) -> dict[str, Any]:
    """A config of a short training with vectors."""
    folder = tmp_path_factory.mktemp("vectors")
    return {
        "name": "vectors",
        "ratings": {"source": str(write_ratings(folder / "ratings"))},
        "prepare": {"history_len": 5, "max_eval": 12, "val_ratio": 0.1},
        "prompt": {"system": "S", "instruction": "I", "question": "Yes or No?", **LINES},
        "model": {"base": str(base), "dtype": "float32"},
        "train": {
            "max_samples": 18, "batch_size": 3, "gradient_accumulation": 2, "save_steps": 1, "save_total_limit": 9,
            "logging_steps": 2, "learning_rate": 0.01, "targets_per_prompt": 3, "lora": {"r": 4, "alpha": 8},
        },
    }  # fmt: skip


def config_of(options: dict[str, Any], folder: Path, **changed: Any) -> Config:
    from palate.commands.prepare import prepare

    train = {**options["train"], **changed}
    config = Config.model_validate({**options, "run_dir": str(folder), "train": train})
    prepare(config)
    return config


def test_a_training_prompt_shows_each_item_without_the_ratings_of_its_user(
    options: dict[str, Any], tmp_path: Path
) -> None:
    from palate.commands.item_vectors import vectors_for_training
    from palate.commands.prepare import check_model, prepared, tokens_of
    from palate.train.training_prompts import FromBaseline, prompts_of

    config = config_of(options, tmp_path, max_samples=70)
    data, chat = prepared(config), check_model(config)
    tokens = tokens_of(config, data, chat, ("train",))["train"]
    vectors, _ = vectors_for_training(config, data)
    prompts = prompts_of(config, chat, tokens, None, FromBaseline(vectors=vectors))
    assert prompts.shown is not None
    items, first = data.samples.items.height, int(tokens.chat.first_item or 0)
    position = data.samples.position[data.samples.of("train")]
    part_of = dict(zip(data.samples.user[position].tolist(), vectors.part.tolist(), strict=True))
    assert len(set(part_of.values())) > 1
    whole = prompts.train.pieces()
    parts = whole[np.diff(whole)[:, 0] > 1] + [1, 0]
    assert len(parts)
    for pieces in (whole, whole[::3], parts):
        packed = prompts.train.pack(pieces)
        shown = prompts.shown.to_users(first)(packed)
        prompt, _ = packed.owners()
        for place, (before, after) in enumerate(zip(packed.input_ids.tolist(), shown.input_ids.tolist(), strict=True)):
            sample = packed.samples[packed.prompt_of == prompt[place]][0]
            source = prompts.train.source
            user = int(data.samples.user[position[source.numbers[sample]]])
            assert after == (before if before < first else before + items * (1 + part_of[user]))


@pytest.mark.parametrize("method", mostly_slow(["lora", "full"], ["lora"]))
def test_a_resumed_training_ends_with_the_same_projector(options: dict[str, Any], tmp_path: Path, method: str) -> None:
    config = config_of(options, tmp_path, method=method)
    ends = []
    for dropped in ((), (2, 3)):
        for step in dropped:
            (tmp_path / f"checkpoints/checkpoint-{step}/whole").unlink()
        adapter = train(config)
        facts = json.loads((adapter / "training.json").read_text())
        assert (facts["steps"], facts["resumed_at"]) == (3, 1 if dropped else 0)
        files = [load_file(adapter / name) for name in ("adapter_model.safetensors", "item_vectors.safetensors")]
        ends.append((files, facts["eval_decision_loss"]))
    (first, loss), (again, loss_again) = ends
    assert loss_again == pytest.approx(loss, rel=1e-6)
    for one, other in zip(first, again, strict=True):
        assert one.keys() == other.keys()
        for name, tensor in one.items():
            torch.testing.assert_close(other[name], tensor, rtol=1e-5, atol=1e-7)
    start = load_file(tmp_path / "checkpoints/checkpoint-1/item_vectors.safetensors")
    assert not torch.equal(start["2.weight"], first[1]["2.weight"])
    assert torch.equal(start["vectors"], first[1]["vectors"])


@pytest.mark.slow
def test_the_best_weights_have_their_projector(options: dict[str, Any], tmp_path: Path) -> None:
    config = config_of(options, tmp_path, keep="best", eval_steps=1)
    adapter = train(config)
    best = json.loads((adapter / "training.json").read_text())["best_step"]
    kept = load_file(tmp_path / f"checkpoints/checkpoint-{best}/item_vectors.safetensors")
    found = load_file(adapter / "item_vectors.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in kept.items())


@pytest.mark.slow
def test_two_processes_train_the_same_projector(options: dict[str, Any], tmp_path: Path) -> None:
    from palate.cli import main
    from palate.config import write_config

    found = []
    for name, more in (("one", []), ("two", ["--launch", "2"])):
        lora = {"r": 4, "alpha": 8, "dropout": 0.0}
        config = config_of(options, tmp_path / name, lora=lora, gradient_checkpointing=True)
        write_config(config, tmp_path / f"{name}.yaml")
        assert main(["train", "--config", str(tmp_path / f"{name}.yaml"), *more]) == 0
        found.append(load_file(tmp_path / name / "adapter" / "item_vectors.safetensors"))
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, rtol=1e-4, atol=1e-6)


def test_data_without_ratings_have_no_vectors(options: dict[str, Any], tmp_path: Path) -> None:
    from palate.commands.prepare import check_model, prepared, tokens_of
    from palate.commands.tokenize import tokenize_portable
    from palate.train.finetune import train as finetune

    config = config_of(options, tmp_path / "run")
    tokenize_portable(config, tmp_path / "portable")
    with pytest.raises(InputError, match=r"prompt: \{item_vector\}: learns from ratings, which .*portable does not"):
        train(config.model_copy(update={"data_dir": str(tmp_path / "portable")}))
    tokens = tokens_of(config, prepared(config), check_model(config), ("train",))["train"]
    with pytest.raises(InputError, match=r"prompt: \{item_vector\}: shows vectors of items, which these data do not"):
        finetune(config, tokens, None, tmp_path / "out")


def test_another_seed_of_the_data_has_other_vectors(options: dict[str, Any], tmp_path: Path) -> None:
    from palate.commands.item_vectors import vectors_for_training
    from palate.commands.prepare import prepared

    config = config_of(options, tmp_path)
    (one, data), (again, same) = (vectors_for_training(config, prepared(config)) for _ in range(2))
    assert (one.identity, data) == (again.identity, same)
    other, of_other = vectors_for_training(config.model_copy(update={"seed": 14}), prepared(config))
    assert np.array_equal(other.values, one.values)  # the seed draws the parts
    assert other.identity != one.identity
    assert of_other != data
