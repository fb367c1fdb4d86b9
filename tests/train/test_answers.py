"""What reaches loss and gradients, against the sequences one by one and against TRL."""

import inspect
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import GradientState
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from tests.tiny import tiny_model, toy_config, toy_dataset
from tests.titles import TITLES
from tests.tokens.test_dataset import TOKENIZERS, samples_of
from tests.tokens.test_shared import datasets, with_users
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainingArguments

from palate.config import ModelConfig
from palate.models.load import load_base_model
from palate.store.artifacts import write_json
from palate.store.hub import locate
from palate.tokens.packed import Packed, tensors
from palate.tokens.shared import SharedHistory
from palate.train.answers import AnswerTrainer, Step, auc, ranking_loss, read_unlogged
from palate.train.attention import Attention, choose_attention
from palate.train.schedule import Schedule

ANSWERS = (11, 12)


def adapted(model: Any) -> Any:
    """A model with an adapter that is not zero, so that all its weights have gradients."""
    from peft import LoraConfig, get_peft_model

    peft = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear"))
    torch.manual_seed(1)
    for name, weight in peft.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    return peft


def prompts_for(tokenizer: str, folder: Path, targets: int, **options: Any) -> SharedHistory:
    samples = with_users(samples_of(TITLES[:40]))
    return SharedHistory(datasets(samples, "guide", tokenizer, folder, **options), targets)


def trainer_on(model: Any, schedule: Schedule, attention: Attention, folder: Path, **kwargs: Any) -> AnswerTrainer:
    from transformers import TrainingArguments

    args = TrainingArguments(
        output_dir=str(folder), use_cpu=True, max_steps=schedule.steps, report_to="none", disable_tqdm=True
    )
    trainer = AnswerTrainer(model, args, schedule, ANSWERS, **kwargs)
    trainer.attention = attention
    trainer.model_wrapped = trainer.model
    return trainer


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def one_by_one(model: Any, step: Step, own: str = "sdpa") -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of a step, each target a sequence in a forward pass of its own."""
    model.zero_grad()
    model.get_base_model().set_attn_implementation(own)
    total = 0.0
    for packed in step.passes:
        for i in range(packed.block.size):
            alone = packed.alone(i)
            logits = model(input_ids=tensors(alone)["input_ids"]).logits[0]
            targets = torch.from_numpy(alone.targets.astype(np.int64))
            loss = cross_entropy(logits[alone.at], targets, reduction="sum") / step.labelled
            loss.backward()
            total += loss.item()
    return total, gradients(model)


def rank_by_rank(margin: torch.Tensor, packed: Packed) -> torch.Tensor:
    """The ranking loss, pair by pair."""
    total = margin.new_zeros(())
    for prompt in np.unique(packed.prompt_of):
        mine = np.flatnonzero(packed.prompt_of == prompt)
        liked, disliked = mine[packed.liked[mine]], mine[~packed.liked[mine]]
        costs = [torch.log1p(torch.exp(margin[j] - margin[i])) for i in liked for j in disliked]
        if costs:
            total = total + mine.size * torch.stack(costs).mean()
    return total


def check_same(ours: tuple[float, Any], theirs: tuple[float, Any], relative: float = 1e-4) -> None:
    assert ours[0] == pytest.approx(theirs[0], rel=relative)
    assert len(theirs[1]) > 10
    for name, gradient in theirs[1].items():
        assert gradient.norm() > 0, name
        assert (ours[1][name] - gradient).norm() <= relative * gradient.norm(), name


@pytest.mark.parametrize("way", ["segments", "mask"])
@pytest.mark.parametrize("kind", ["qwen3", "llama"])
@pytest.mark.parametrize(("targets", "train_on"), [(1, "response"), (4, "response"), (100, "answer")])
def test_loss_and_gradients_are_those_of_separate_sequences(
    kind: str, way: Any, targets: int, train_on: str, tmp_path: Path
) -> None:
    prompts = prompts_for("gpt2_like", tmp_path, targets, train_on=train_on)
    model = adapted(tiny_model(kind, 2048))
    schedule = Schedule(prompts, 9, 1200, seed=0)
    trainer = trainer_on(model, schedule, choose_attention(model, way, targets, 400), tmp_path)
    step = next(iter(trainer.get_train_dataloader()))
    assert len(step.passes) > 1
    assert targets == 1 or any((packed.prefix_end > packed.prefix).any() for packed in step.passes)
    model.zero_grad()
    loss = trainer.training_step(model, step).item()
    check_same((loss, gradients(model)), one_by_one(model, step))


def test_a_ranking_loss_is_that_of_the_pairs_of_separate_sequences(tmp_path: Path) -> None:
    prompts = prompts_for("gpt2_like", tmp_path, 5)
    model = adapted(tiny_model("qwen3", 2048))
    attention = choose_attention(model, "auto", 5, 400)
    trainer = trainer_on(model, Schedule(prompts, 20, 1500, seed=0), attention, tmp_path, ranking_weight=10.0)
    step = next(iter(trainer.get_train_dataloader()))
    assert len(step.passes) > 1
    model.zero_grad()
    ours = trainer.training_step(model, step).item(), gradients(model)
    plain, _ = one_by_one(model, step)
    total = 0.0
    for packed in step.passes:
        margins = []
        for i in range(packed.block.size):
            alone = packed.alone(i)
            logits = model(input_ids=tensors(alone)["input_ids"]).logits[0, alone.at[alone.decision[0]]]
            margins.append(logits[ANSWERS[0]] - logits[ANSWERS[1]])
        loss = 10.0 * rank_by_rank(torch.stack(margins), packed) / step.labelled
        if loss.requires_grad:  # a pass may have no pair
            loss.backward()
        total += loss.item()
    assert total > 0.1 * plain
    check_same(ours, (plain + total, gradients(model)))


def test_a_teachers_loss_is_the_cross_entropy_to_its_probabilities(tmp_path: Path) -> None:
    """Each decision's target is the teacher's P(Yes) and P(No), of its own sample; other tokens keep theirs."""
    prompts = prompts_for("gpt2_like", tmp_path, 5)
    model = adapted(tiny_model("qwen3", 2048))
    attention = choose_attention(model, "auto", 5, 400)
    taught = np.random.default_rng(0).random(prompts.order.size)
    trainer = trainer_on(model, Schedule(prompts, 20, 1500, seed=0), attention, tmp_path, taught=taught)
    step = next(iter(trainer.get_train_dataloader()))
    model.zero_grad()
    ours = trainer.training_step(model, step).item(), gradients(model)
    model.zero_grad()
    model.get_base_model().set_attn_implementation("sdpa")
    total = 0.0
    for packed in step.passes:
        for i in range(packed.block.size):
            alone = packed.alone(i)
            logits = model(input_ids=tensors(alone)["input_ids"]).logits[0, alone.at]
            target = torch.nn.functional.one_hot(torch.from_numpy(alone.targets.astype(np.int64)), 2048).float()
            p = taught[alone.samples[0]]
            target[alone.decision[0]] = 0
            target[alone.decision[0], list(ANSWERS)] = torch.tensor([p, 1 - p], dtype=torch.float32)
            loss = cross_entropy(logits, target, reduction="sum") / step.labelled
            loss.backward()
            total += loss.item()
    check_same(ours, (total, gradients(model)))


@given(
    st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.floats(-9, 9)), min_size=1, max_size=30), st.floats(-9, 9)
)
def test_a_ranking_loss_looks_at_nothing_but_the_order_in_a_prompt(
    rows: list[tuple[int, bool, float]], shift: float
) -> None:
    rows.sort(key=lambda row: row[0])
    prompt = np.unique([row[0] for row in rows], return_inverse=True)[1]
    packed = packed_of(prompt, np.array([row[1] for row in rows]))
    margin = torch.tensor([row[2] for row in rows], dtype=torch.float64, requires_grad=True)
    loss = ranking_loss(margin, packed)
    loss.backward()
    moved = ranking_loss(margin.detach() + shift * torch.from_numpy(prompt), packed)

    assert loss.item() == pytest.approx(rank_by_rank(margin.detach(), packed).item())
    assert moved.item() == pytest.approx(loss.item())
    assert margin.grad is not None
    assert (margin.grad[packed.liked] <= 0).all()
    assert (margin.grad[~packed.liked] >= 0).all()


def packed_of(prompt: np.ndarray, liked: np.ndarray) -> Packed:
    """As much of a pass as says which target is whose, and what it is."""
    none = np.zeros(0, np.int64)
    heads = np.zeros(int(prompt.max()) + 1, np.int64)
    return Packed(
        none.astype(np.int32), none, heads, heads, none, none, prompt, none, none.astype(np.int32), none, liked, none
    )


@pytest.mark.slow
def test_so_they_are_on_smollm2(tmp_path: Path) -> None:
    if locate("smollm2-135m").path is None:
        pytest.skip("the data package of smollm2-135m is absent")
    prompts = prompts_for("smollm2", tmp_path, 4)
    base, _ = load_base_model(ModelConfig(base="smollm2-135m", dtype="float32"), for_training=True)
    model = adapted(base)
    schedule = Schedule(prompts, 6, 1000, seed=0)
    trainer = trainer_on(model, schedule, choose_attention(model, "auto", 4, 400), tmp_path)
    step = next(iter(trainer.get_train_dataloader()))
    model.zero_grad()
    loss = trainer.training_step(model, step).item()
    check_same((loss, gradients(model)), one_by_one(model, step))


def test_loss_and_gradients_are_those_of_trl(base: Path, tmp_path: Path) -> None:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from palate.prompt.chat import Chat
    from palate.train.schedule import schedule_of
    from palate.train.training_prompts import prompts_of

    config = toy_config(base, train={"batch_size": 6})
    loaded, tokenizer = load_base_model(config.model, for_training=True)
    prompts = prompts_of(config, Chat(tokenizer), toy_dataset(6, config), None)
    model = adapted(loaded)
    trainer = trainer_on(model, schedule_of(config, prompts), choose_attention(model, "auto", 1, 200), tmp_path)
    model.zero_grad()
    step = next(iter(trainer.get_train_dataloader()))
    ours = trainer.training_step(model, step).item(), gradients(model)
    ids, labels, offsets = prompts.train.source.ragged()
    rows = [{"input_ids": ids[a:b].tolist(), "labels": labels[a:b].tolist()} for a, b in pairwise(offsets)]
    model.get_base_model().set_attn_implementation("sdpa")
    args = SFTConfig(
        str(tmp_path), max_length=None, dataset_kwargs={"skip_prepare_dataset": True}, use_cpu=True, bf16=False
    )
    theirs = SFTTrainer(model, args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    batch = theirs.data_collator([theirs.train_dataset[i] for i in range(6)])
    assert (batch["attention_mask"] == 0).any(), "the rows should differ in length"
    model.zero_grad()
    loss = theirs.compute_loss(model, batch)
    loss.backward()
    check_same(ours, (loss.item(), gradients(model)))


def test_no_tensor_holds_logits_where_nothing_is_trained(tmp_path: Path) -> None:
    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(tensor, torch.Tensor) and tensor.dim() > 0 and tensor.shape[-1] == vocabulary:
                    self.numel = max(self.numel, tensor.numel())
            return out

    vocabulary = 2048
    prompts = prompts_for("gpt2_like", tmp_path, 4)
    model = adapted(tiny_model("llama", vocabulary, hidden=16))  # fewer than what is trained
    for way in ("segments", "mask"):
        schedule = Schedule(prompts, 9, 10_000, seed=0)
        trainer = trainer_on(model, schedule, choose_attention(model, way, 4, 400), tmp_path)  # type: ignore[arg-type]
        step = next(iter(trainer.get_train_dataloader()))
        (packed,) = step.passes
        with Largest() as largest:
            trainer.training_step(model, step)
        assert largest.numel == packed.targets.size * vocabulary
        assert packed.targets.size < 0.2 * len(packed)


def test_a_change_in_one_block_changes_no_other(tmp_path: Path) -> None:
    prompts = prompts_for("gpt2_like", tmp_path, 4)
    packed = prompts.pack(prompts.pieces()[:3])
    changed = int(packed.prompt_of.searchsorted(1))  # the first block of the second prompt
    ids = packed.input_ids.copy()
    ids[packed.block[changed]] += 1
    from dataclasses import replace

    other = replace(packed, input_ids=ids)
    for kind in ("qwen3", "llama"):
        model = tiny_model(kind, 2048)
        for way in ("segments", "mask"):
            attention = choose_attention(model, way, 4, 400)  # type: ignore[arg-type]
            with torch.no_grad():
                moved = (attention.logits(model, packed) - attention.logits(model, other)).abs().amax(-1)
            own = (packed.at >= packed.block[changed]) & (packed.at < packed.block_end[changed])
            assert moved[torch.from_numpy(own)].min() > 1e-4
            assert moved[torch.from_numpy(~own)].max() == 0


def test_evaluation_tells_the_decision_apart(tmp_path: Path) -> None:
    prompts = prompts_for("gpt2_like", tmp_path, 1)
    tokens: Any = prompts.source
    model = tiny_model("qwen3", 2048)
    chat = tokens.chat
    trainer = trainer_on(
        model, Schedule(prompts, 4, 400, 0), choose_attention(model, "auto", 1, 400), tmp_path, evaluated=prompts
    )
    trainer.answers = chat.decision.yes_id, chat.decision.no_id
    metrics = trainer.evaluate()
    model.set_attn_implementation("sdpa")
    decision, rest, margins = [], [], []
    for row, size in zip(tokens, tokens.responses, strict=True):
        ids = torch.from_numpy(row["input_ids"])
        with torch.no_grad():
            logits = model(input_ids=ids[None]).logits[0]
        nll = cross_entropy(logits[:-1], ids[1:], reduction="none")[-size:]
        decision.append(nll[tokens.lead].item())
        rest += [value.item() for k, value in enumerate(nll) if k != tokens.lead]
        at = logits[-1 - size + tokens.lead]
        margins.append((at[chat.decision.yes_id] - at[chat.decision.no_id]).item())
    assert metrics["eval_decision_loss"] == pytest.approx(np.mean(decision), rel=1e-5)
    assert metrics["eval_constant_loss"] == pytest.approx(np.mean(rest), rel=1e-5)
    assert metrics["eval_loss"] == pytest.approx(np.mean(decision + rest), rel=1e-5)
    assert metrics["eval_accuracy"] == pytest.approx(np.mean((np.array(margins) > 0) == tokens.labels))
    assert metrics["eval_auc"] == pytest.approx(roc_auc_score(tokens.labels, margins))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=40))
def test_auc_is_scikit_learns(rows: list[tuple[bool, int]]) -> None:
    liked, score = np.array([row[0] for row in rows]), np.array([row[1] for row in rows], float)
    if liked.all() or not liked.any():
        assert auc(liked, score) is None
    else:
        assert auc(liked, score) == pytest.approx(roc_auc_score(liked, score))


@pytest.mark.parametrize(("name", "trained"), [("qwen3", 7), ("smollm2", 3)])
def test_exactly_the_response_is_trained(name: str, trained: int, tmp_path: Path) -> None:
    if name not in TOKENIZERS:
        pytest.skip(f"the data package of {name} is absent")
    prompts = prompts_for(name, tmp_path, 4)
    packed = prompts.pack(prompts.pieces())
    assert packed.targets.size == trained * prompts.order.size
    answer_only = prompts_for(name, tmp_path, 4, train_on="answer")
    packed = answer_only.pack(answer_only.pieces())
    assert packed.targets.size == prompts.order.size
    assert set(packed.targets.tolist()) == {prompts.source.chat.decision.yes_id, prompts.source.chat.decision.no_id}  # type: ignore[attr-defined]


def test_several_gpus_without_a_launcher_train_on_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from transformers import TrainingArguments

    prompts = prompts_for("gpt2_like", tmp_path, 4)
    model = adapted(tiny_model("qwen3", 2048))
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, max_steps=1, report_to="none")
    assert args.n_gpu == 0
    args._n_gpu = 2
    with caplog.at_level("WARNING", "palate"):
        trainer = AnswerTrainer(model, args, Schedule(prompts, 9, 1200, seed=0), ANSWERS)
    assert not isinstance(trainer._wrap_model(trainer.model), torch.nn.DataParallel)
    assert caplog.text.count("palate train --launch 2") == 1


def test_the_private_names_of_transformers_that_training_relies_on_are_there() -> None:
    assert "_n_gpu" in inspect.getsource(TrainingArguments)
    assert callable(GradientState._set_sync_gradients)


def test_checkpoints_of_earlier_versions_keep_their_unlogged_loss(tmp_path: Path) -> None:
    stored = {"since": 3, "loss": 0.5, "seen": None}
    write_json(tmp_path / "untold.json", stored)
    assert read_unlogged(tmp_path) == stored
    write_json(tmp_path / "unlogged.json", stored | {"since": 4})
    assert read_unlogged(tmp_path)["since"] == 4
