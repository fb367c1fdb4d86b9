"""Tiny real models in folders, and a task that they can learn in seconds."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from tests.small import CHATML, small_tokenizer

from palate.config import Config

# Writes an empty think block before an answer, as Qwen3's template does.
EMPTY_THINK = CHATML.replace(
    "message['content']",
    "('<think>\n\n</think>\n\n' if loop.last and message['role'] == 'assistant' else '') + message['content']",
)


def tiny_model(kind: str = "qwen3", vocab: int = 512, hidden: int = 64, seed: int = 0, **changed: Any) -> Any:
    """A random causal model of two layers in float32; `kind` is qwen3 or llama; `changed` is of its config."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    shape = {
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "initializer_range": 0.1,  # logits that differ visibly from one prompt to the next
        "tie_word_embeddings": kind == "llama",
        **changed,
    }
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**shape)).eval()
    return Qwen3ForCausalLM(Qwen3Config(**{"head_dim": 16} | shape)).eval()


def tiny_folder(
    folder: Path, kind: str = "qwen3", hidden: int = 64, tokenizer: Any = None, seed: int = 0, **changed: Any
) -> Path:
    """A model folder as the hub holds them."""
    tokenizer = tokenizer or small_tokenizer(EMPTY_THINK if kind == "qwen3" else CHATML)
    vocab = max(512, len(tokenizer))
    tiny_model(kind, vocab, hidden, seed, **changed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def random_adapter(config: Config, folder: Path, scale: float = 0.1, **lora: Any) -> Path:
    """An adapter for the config's model with random deltas, as if trained, without the time that takes."""
    import torch
    from peft import LoraConfig, get_peft_model

    from palate.models.adapter import describe, save_adapter
    from palate.models.load import load_base_model
    from palate.prompt.chat import Chat

    model, tokenizer = load_base_model(config.model)
    about = describe(config, Chat(tokenizer, config.prompt.yes, config.prompt.no), model)
    options = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | lora
    peft = get_peft_model(model, LoraConfig(**options))
    torch.manual_seed(1)
    for name, parameter in peft.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=scale)
    save_adapter(peft, folder, about)
    return folder


def toy_samples(n: int, seed: int = 0) -> list[dict[str, Any]]:
    """Raw samples, histories of unequal length; the user likes exactly the candidates called `aa…`."""
    draw = random.Random(seed)
    samples: list[dict[str, Any]] = []
    for i in range(n):
        liked = draw.random() < 0.5
        history = [f"{k}. {draw.choice('xyz') * draw.randint(1, 9)} (4.0)" for k in range(1, draw.randint(2, 5))]
        samples.append(
            {
                "history_titles": "\n".join(history),
                "candidate_title": "a" * 6 if liked else "b" * 6,
                "label": "Yes" if liked else "No",
                "split": "test",
                "user_id": i // 4,
                "item_id": 1000 + i,
                "timestamp": i,
                "rating": 5.0 if liked else 1.0,
                "history": [],
            }
        )
    return samples


def toy_config(base: Path, **sections: Any) -> Config:
    """A config with short prompts, for a tiny model in float32."""
    train = {
        "batch_size": 4,
        "gradient_accumulation": 1,
        "learning_rate": 0.005,
        "logging_steps": 1,
        "lora": {"r": 16, "alpha": 32, "dropout": 0.0},
    }
    return Config.model_validate(
        {
            "name": "toy",
            "prompt": {
                "system": "S",
                "instruction": "Like it?",
                "history_header": "Last:",
                "candidate_header": "Candidate:",
                "question": "Yes or No?",
            },
            "tokens": {"cutoff_len": 200, "num_proc": 1},
            "model": {"base": str(base), "dtype": "float32"} | sections.pop("model", {}),
            "train": train | sections.pop("train", {}),
            **sections,
        }
    )


def toy_dataset(n: int, config: Config, seed: int = 0) -> Any:
    """The toy's samples as an Alpaca dataset."""
    from datasets import Dataset

    rows = [
        config.prompt.alpaca(s["history_titles"], s["candidate_title"], s["label"], 3) for s in toy_samples(n, seed)
    ]
    return Dataset.from_list([{key: value for key, value in row.items() if key != "history"} for row in rows])


def toy_tokens(n: int, config: Config, chat: Any, seed: int = 0) -> Any:
    """A token dataset of n test samples with the same candidates, and who and what they are of."""
    from palate.samples.build import Samples
    from palate.tokens.dataset import Options, token_datasets

    draw = np.random.default_rng(seed)
    names = ["a" * 6, "b" * 6, *("xyz"[k % 3] * (k // 3 + 1) for k in range(27))]
    liked = draw.random(n) < 0.5
    item = draw.integers(2, len(names), (n, 4))
    item[:, 3] = ~liked
    rating = np.full((n, 4), 4.0)
    rating[:, 3] = np.where(liked, 5.0, 1.0)
    items = pl.DataFrame({"item_id": range(len(names)), "title": names})
    timeline = pl.DataFrame({"item_id": item.ravel(), "rating": rating.ravel()})
    samples = Samples(timeline, items, np.arange(3, 4 * n, 4), np.full(n, 2, np.uint8), 4.5, 3)
    options = Options(config.tokens.cutoff_len, config.tokens.truncation, config.train.train_on)
    tokens = token_datasets(samples, config.prompt, chat, options, data={"toy": [n, seed]}, splits=["test"])["test"]
    return tokens, pl.DataFrame({"user_id": np.arange(n) // 4, "item_id": 1000 + np.arange(n)})
