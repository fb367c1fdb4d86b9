"""A training that corrects a baseline's logit: its loss, its first step, validation, and resumption."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score
from tests.acceptance.ratings import write_ratings
from tests.examples import mostly_slow
from tests.tiny import tiny_model
from tests.train.test_answers import ANSWERS, adapted, check_same, gradients, prompts_for, rank_by_rank, trainer_on

from palate.commands.train import train
from palate.config import Config
from palate.errors import InputError
from palate.tokens.packed import Packed, tensors
from palate.train.answers import AnswerTrainer
from palate.train.attention import choose_attention
from palate.train.offset import SCALE, Offset
from palate.train.schedule import Schedule
from palate.train.training_prompts import FromBaseline, prompts_of


@pytest.fixture
def trainer(tmp_path: Path) -> AnswerTrainer:
    """A trainer on prompts of five targets, evaluated on the same; the baseline's logits are random."""
    prompts = prompts_for("gpt2_like", tmp_path, 5, train_on="answer")
    model = adapted(tiny_model("qwen3", 2048))
    logit = np.random.default_rng(0).normal(0, 2, (2, prompts.order.size))
    return trainer_on(
        model,
        Schedule(prompts, 20, 1500, seed=0),
        choose_attention(model, "auto", 5, 400),
        tmp_path,
        evaluated=prompts,
        ranking_weight=0.5,
        offset=Offset("cpu", train=logit[0], val=logit[1]),
    )


def alone(model: Any, packed: Packed) -> torch.Tensor:
    """z_yes − z_no of each sample, from a forward pass of its own."""
    model.get_base_model().set_attn_implementation("sdpa")
    margins = []
    for i in range(packed.block.size):
        one = packed.alone(i)
        logits = model(input_ids=tensors(one)["input_ids"]).logits[0, one.at[one.decision[0]]]
        margins.append(logits[ANSWERS[0]] - logits[ANSWERS[1]])
    return torch.stack(margins)


def test_the_loss_is_that_of_the_sum_of_both_logits(trainer: AnswerTrainer) -> None:
    assert trainer.offset is not None
    trainer.offset.centre = 0.7
    step = next(iter(trainer.get_train_dataloader()))
    assert len(step.passes) > 1
    trainer.model.zero_grad()
    ours = trainer.training_step(trainer.model, step).item(), gradients(trainer.model)
    trainer.model.zero_grad()
    total = 0.0
    for packed in step.passes:
        z0 = trainer.offset.logit["train"][packed.samples]
        p = torch.sigmoid(z0 + SCALE * (alone(trainer.model, packed) - 0.7))
        nll = -torch.where(torch.from_numpy(packed.liked), p, 1 - p).log().sum()
        ranking = rank_by_rank(torch.logit(p), packed)
        loss = (nll + 0.5 * ranking) / step.labelled
        loss.backward()
        total += loss.item()
    check_same(ours, (total, gradients(trainer.model)))


def test_the_first_step_starts_at_the_baseline_and_measures_the_untrained_model(trainer: AnswerTrainer) -> None:
    assert trainer.offset is not None
    trainer.ranking_weight = 0.0
    step = next(iter(trainer.get_train_dataloader()))
    trainer.model.zero_grad()
    loss = trainer.training_step(trainer.model, step).item()
    z0, liked, margin = [], [], []
    for packed in step.passes:
        z0.append(trainer.offset.logit["train"][packed.samples].double())
        liked.append(torch.from_numpy(packed.liked).double())
        with torch.no_grad():
            margin.append(alone(trainer.model, packed))
    expected = torch.nn.functional.binary_cross_entropy_with_logits(torch.cat(z0), torch.cat(liked))
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert all((gradient == 0).all() for gradient in gradients(trainer.model).values())
    centre = trainer.offset.centre
    assert float(centre) == pytest.approx(torch.cat(margin).mean().item(), abs=1e-4)  # type: ignore[arg-type]
    trainer.training_step(trainer.model, step)
    assert trainer.offset.centre == centre
    assert any((gradient != 0).any() for gradient in gradients(trainer.model).values())


def test_validation_measures_the_sum(trainer: AnswerTrainer) -> None:
    assert trainer.offset is not None
    assert trainer.evaluated is not None
    trainer.offset.centre = -0.2
    metrics = trainer.evaluate()
    packed = trainer.evaluated.pack(trainer.evaluated.pieces())
    with torch.no_grad():
        found = trainer.offset.sum(trainer.offset.logit["val"][packed.samples], alone(trainer.model, packed))
    liked = torch.from_numpy(packed.liked)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(found, liked.float())
    assert metrics["eval_decision_loss"] == pytest.approx(expected.item(), rel=1e-4)
    assert metrics["eval_auc"] == pytest.approx(roc_auc_score(packed.liked, found))


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory, base: Path) -> dict[str, Any]:
    """A config of a short training beside a logistic regression."""
    folder = tmp_path_factory.mktemp("offset")
    return {
        "name": "offset",
        "data_dir": str(folder / "data"),
        "ratings": {"source": str(write_ratings(folder / "ratings"))},
        "prepare": {"history_len": 5, "max_eval": 12, "val_ratio": 0.1},
        "prompt": {"system": "S", "instruction": "I", "question": "Yes or No?"},
        "model": {"base": str(base), "dtype": "float32"},
        "train": {
            "offset": "logistic", "train_on": "answer", "max_samples": 30, "batch_size": 3, "gradient_accumulation": 2,
            "save_steps": 1, "save_total_limit": 9, "logging_steps": 2, "learning_rate": 0.01, "targets_per_prompt": 3,
            "lora": {"r": 4, "alpha": 8},
        },
    }  # fmt: skip


@pytest.mark.parametrize("method", mostly_slow(["lora", "full"], ["lora"]))
def test_a_resumed_training_ends_with_the_same_weights(options: dict[str, Any], tmp_path: Path, method: str) -> None:
    from palate.commands.prepare import prepare

    config = Config.model_validate(
        {**options, "data_dir": None, "run_dir": str(tmp_path), "train": {**options["train"], "method": method}}
    )
    prepare(config)
    ends = []
    for dropped in ((), (2, 3, 4, 5)):
        for step in dropped:
            (tmp_path / f"checkpoints/checkpoint-{step}/whole").unlink()
        adapter = train(config)
        facts = json.loads((adapter / "training.json").read_text())
        about = json.loads((adapter / "palate.json").read_text())["offset"]
        ends.append((load_file(adapter / "adapter_model.safetensors"), about, facts["eval_decision_loss"]))
        assert facts["resumed_at"] == (1 if dropped else 0)
        assert facts["steps"] == 5
    (first, about, loss), (again, about_again, loss_again) = ends
    assert about_again == about
    assert about["alpha"] == SCALE
    assert loss_again == pytest.approx(loss, rel=1e-6)
    assert any("lora_B" in name and tensor.any() for name, tensor in first.items()) or method == "full"
    for name, tensor in first.items():
        torch.testing.assert_close(again[name], tensor, rtol=1e-5, atol=1e-7)


def test_each_sample_has_its_own_logit(options: dict[str, Any], tmp_path: Path) -> None:
    """Also of drawn samples, and of the validation samples that `eval.json` holds."""
    from palate.commands.prepare import check_model, evaluation_part, prepare, prepared, tokens_of

    config = Config.model_validate({**options, "data_dir": None, "run_dir": str(tmp_path)})
    prepare(config)
    data, chat = prepared(config), check_model(config)
    tokens, samples = tokens_of(config, data, chat, ("train", "val")), data.samples
    numbered = FromBaseline(
        offset=samples.position[samples.of("train")] + 0.5, evaluated=samples.position[samples.of("val")] + 0.5
    )
    prompts = prompts_of(config, chat, tokens["train"], evaluation_part(config, tokens["val"]), numbered)
    assert prompts.train.order.size == 30
    for shared, values in ((prompts.train, prompts.offset), (prompts.evaluated, prompts.evaluated_offset)):
        assert shared is not None
        assert values is not None
        packed = shared.pack(shared.pieces())
        row = values[packed.samples].astype(int)
        np.testing.assert_array_equal(samples.liked[row], packed.liked)
        np.testing.assert_array_equal(row, shared.source.tables.position(shared.source.split)[shared.source.numbers])


def test_what_cannot_be_corrected_is_refused(options: dict[str, Any], tmp_path: Path) -> None:
    for changed, told in (
        ({"train_on": "response"}, "expected train_on=answer"),
        ({"teacher": "logistic"}, "expected one of them"),
        ({"offset": "item-mean"}, "online"),
        ({"offset": "logistik"}, "online"),
    ):
        with pytest.raises(ValueError, match=told):
            Config.model_validate({**options, "train": {**options["train"], **changed}})
    one = Config.model_validate({**options, "run_dir": str(tmp_path), "train": {**options["train"], "max_steps": 1}})
    from palate.commands.prepare import prepare

    prepare(one)
    with pytest.raises(InputError, match=r"train.offset: one step only measures .*, expected two or more"):
        train(one)
