"""What reaches the loss, against the obvious computation and against TRL's own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tests.tiny import tiny_model, toy_config, toy_dataset
from torch.nn.functional import cross_entropy
from trl import SFTTrainer

from palate.hub import locate
from palate.models import load_base_model
from palate.prompt.messages import to_chat_messages
from palate.tokens.cache import preprocess_datasets_parallel
from palate.tokens.tokenizer import load_tokenizer
from palate.train.answers import AnswerTrainer
from palate.train.finetune import _trainer


def trainer_on(base: Path, folder: Path, n: int = 6) -> Any:
    config = toy_config(base, train={"lora": {"r": 4, "dropout": 0.0}})
    model, tokenizer = load_base_model(config.model, for_training=True)
    tokens = preprocess_datasets_parallel({"train": toy_dataset(n, config)}, tokenizer, 200)
    return _trainer(config, model, tokenizer, tokens, folder)


def test_the_loss_is_the_mean_over_the_labelled_tokens_whatever_the_padding(base: Path, tmp_path: Path) -> None:
    trainer = trainer_on(base, tmp_path)
    rows = [trainer.train_dataset[i] for i in range(6)]
    batch = trainer.data_collator(rows)
    assert (batch["attention_mask"] == 0).any(), "the rows should differ in length"
    total, count = 0.0, 0
    for row in rows:
        logits = trainer.model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1]
        labels = torch.tensor(row["labels"])[1:]
        total += cross_entropy(logits, labels, ignore_index=-100, reduction="sum").item()
        count += int((labels != -100).sum())
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(total / count, rel=1e-5)


def test_loss_and_gradients_are_those_of_trl(base: Path, tmp_path: Path) -> None:
    trainer = trainer_on(base, tmp_path)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(6)])
    grads = []
    for loss_of in (AnswerTrainer.compute_loss, SFTTrainer.compute_loss):
        trainer.model.zero_grad()
        loss = loss_of(trainer, trainer.model, dict(batch))
        loss.backward()
        grads.append([loss.detach(), *(p.grad for p in trainer.model.parameters() if p.requires_grad)])
    assert len(grads[0]) > 10
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_logits_are_computed_at_trained_positions_only(base: Path, tmp_path: Path) -> None:
    trainer = trainer_on(base, tmp_path)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    head, seen = trainer.model.get_output_embeddings(), []
    head.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))
    trainer.compute_loss(trainer.model, batch)
    trained = (batch["labels"][:, 1:] != -100).any(dim=0).sum().item()
    assert seen == [trained]
    assert trained < batch["labels"].shape[1] / 2


@pytest.mark.parametrize(("name", "trained"), [("qwen3", 7), ("smollm2", 3)])
def test_exactly_the_response_is_trained(name: str, trained: int, tmp_path: Path) -> None:
    if locate(name, tokenizer=True).path is None:
        pytest.skip(f"the data package of {name} is absent")
    tokenizer = load_tokenizer(name)
    config = toy_config(tmp_path)
    tokens = preprocess_datasets_parallel({"train": toy_dataset(4, config)}, tokenizer, 200)
    trainer = _trainer(config, tiny_model("qwen3", len(tokenizer), 16), tokenizer, tokens, tmp_path)
    batches, count = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), 1, trainer.args.device)
    assert [(row != -100).sum().item() for row in batches[0]["labels"]] == [trained] * 4
    assert count == 4 * trained


def test_a_dataset_of_messages_trains_on_the_last_turn(base: Path, tmp_path: Path) -> None:
    config = toy_config(base)
    _, tokenizer = load_base_model(config.model)
    rows = toy_dataset(3, config)
    messages = Dataset.from_list([{"messages": to_chat_messages(row)} for row in rows])
    ours = preprocess_datasets_parallel({"a": rows, "b": messages}, tokenizer, 200)
    assert ours["a"]["labels"][:] == ours["b"]["labels"][:]
