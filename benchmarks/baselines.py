"""The ways to tokens that a user has without Palate; each written as its own documentation says, none of it ours.

Each takes the same `Inputs` and gives a `Run`: the tokens, so that they can be compared, and what making them
took. They are called in a fresh process each. Loading data, tokenizer and libraries is not in the seconds.
"""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from report import Work, clock

CUTOFF = 1024
BATCH = 1000
"""Texts that are encoded at a time: what the encodings hold beside the ids stays small."""


@dataclass(frozen=True)
class Inputs:
    """What all paths start from."""

    examples: Path
    """A JSON array of Alpaca examples, as the guide's train.json."""
    conversations: Path
    """The same as TRL's conversational prompt and completion, an object a line."""
    tokenizer: str
    cores: int
    ratings: str
    """The name or path of the ratings log that the examples were made of."""
    limit: int | None
    """Only the first so many samples are in the files; None: all of them."""


@dataclass(frozen=True)
class Tokens:
    """Token ids of all samples one after the other, int32, and each one's length; None: the path makes none."""

    lengths: NDArray[np.int32]
    ids: NDArray[np.int32] | None = None
    labels: NDArray[np.int32] | None = None


@dataclass(frozen=True)
class Run:
    """What a path made, and what that took."""

    tokens: Tokens
    work: Work
    notes: dict[str, Any] = field(default_factory=dict)
    """Further figures: `disk_bytes`, seconds of parts."""


def guides_path(inputs: Inputs) -> Run:
    """The guide: `datasets.map` over Alpaca examples, one at a time, `num_proc` processes, a cold cache.

    The guide does not say in which pass the chat text is made. Here it is made where it is tokenized: the reading
    with the fewest passes.
    """
    tokenizer = load_tokenizer(inputs)
    with cold_cache(inputs.examples) as (examples, disk):
        tokenize = partial(tokenize_example, tokenizer=tokenizer, cutoff_len=CUTOFF)
        with clock() as work:
            tokenized = examples.map(tokenize, num_proc=inputs.cores, remove_columns=examples.column_names)
        return Run(gathered(tokenized), work, {"disk_bytes": disk()})


def tokenize_example(example: Mapping[str, Any], tokenizer: Any, cutoff_len: int) -> dict[str, list[int]]:
    """The guide's messages, template and `tokenize_func`, step by step."""
    text = tokenizer.apply_chat_template(guides_messages(example), tokenize=False, add_generation_prompt=False)
    full_tokens = tokenizer(text, truncation=False, padding=False)
    full_ids, full_attn = full_tokens["input_ids"], full_tokens["attention_mask"]
    assistant_marker = "<|im_start|>assistant\n"
    before_assistant = text.split(assistant_marker)[0] + assistant_marker
    prompt_len = len(tokenizer(before_assistant, truncation=False, padding=False)["input_ids"])
    labels = [-100] * prompt_len + full_ids[prompt_len:]
    if len(full_ids) > cutoff_len:
        start = len(full_ids) - cutoff_len
        full_ids, full_attn, labels = full_ids[start:], full_attn[start:], labels[start:]
    return {"input_ids": full_ids, "attention_mask": full_attn, "labels": labels}


def guides_messages(example: Mapping[str, Any]) -> list[dict[str, str]]:
    """The guide's `to_chat_messages`."""
    messages = []
    if example.get("system"):
        messages.append({"role": "system", "content": example["system"]})
    for turn in example.get("history") or []:
        messages.append({"role": turn["role"], "content": turn["content"]})
    user_content = example.get("instruction", "")
    if example.get("input"):
        user_content = f"{user_content}\n\n{example['input']}"
    messages.append({"role": "user", "content": user_content})
    messages.append({"role": "assistant", "content": example.get("output", "")})
    return messages


def trl_path(inputs: Inputs) -> Run:
    """TRL: what `SFTTrainer` does to a conversational prompt-completion dataset before it trains.

    The trainer is made around a tiny model and one example; then its own preparation is called, and timed. It
    renders and tokenizes the prompt with the generation prompt, and prompt and completion together; the labels
    begin where the two differ. That the ids are the guide's is found out by comparison, not assumed. It leaves
    three passes on disk (ChatML, tokens, labels), each with the text, and no attention mask.
    """
    from transformers import Qwen3Config, Qwen3ForCausalLM
    from trl import SFTConfig, SFTTrainer

    tokenizer = load_tokenizer(inputs)
    tiny = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=8,
    )
    with cold_cache(inputs.conversations) as (conversations, disk), tempfile.TemporaryDirectory() as out:
        config = SFTConfig(
            out,
            completion_only_loss=True,
            max_length=None,
            dataset_num_proc=inputs.cores,
            report_to="none",
            use_cpu=True,
            bf16=False,
            disable_tqdm=True,
        )
        first = conversations.select([0])
        trainer = SFTTrainer(Qwen3ForCausalLM(tiny), config, train_dataset=first, processing_class=tokenizer)
        before = disk()
        with clock() as work:
            prepared = trainer._prepare_dataset(conversations, tokenizer, config, False, None, "train")
        return Run(gathered(prepared), work, {"disk_bytes": disk() - before})


def encode_batch_path(inputs: Inputs) -> Run:
    """`tokenizers` alone: `encode_batch_fast` on texts that are rendered already, all cores, no labels, no files.

    The seconds include taking the ids out of the encodings; `encode_seconds` do not.
    """
    tokenizer = load_tokenizer(inputs)
    texts = [
        tokenizer.apply_chat_template(guides_messages(example), tokenize=False)
        for example in json.loads(inputs.examples.read_text(encoding="utf-8"))
    ]
    backend = tokenizer.backend_tokenizer
    ids, lengths, encode_seconds = [], [], 0.0
    with clock() as work:
        for start in range(0, len(texts), BATCH):
            with clock() as encode:
                encodings = backend.encode_batch_fast(texts[start : start + BATCH])
            encode_seconds += encode.seconds
            for encoding in encodings:
                ids.append(np.array(encoding.ids, np.int32))
                lengths.append(len(encoding))
        flat = np.concatenate(ids)
    return Run(Tokens(np.array(lengths, np.int32), flat), work, {"encode_seconds": encode_seconds})


def map_lengths(inputs: Inputs) -> Run:
    """Only the lengths: every example rendered and tokenized once in `datasets.map`, then the statistics."""
    tokenizer = load_tokenizer(inputs)
    with cold_cache(inputs.examples) as (examples, disk):
        measure = partial(length_of_example, tokenizer=tokenizer)
        with clock() as work:
            measured = examples.map(measure, num_proc=inputs.cores, remove_columns=examples.column_names)
            lengths = np.array(measured["length"])
            figures = {"min": lengths.min(), "max": lengths.max(), "mean": lengths.mean()}
            figures |= {f"p{p}": np.percentile(lengths, p) for p in (50, 90, 95, 99)}
        notes = {"disk_bytes": disk(), "statistics": {name: float(value) for name, value in figures.items()}}
        return Run(Tokens(lengths.astype(np.int32)), work, notes)


def length_of_example(example: Mapping[str, Any], tokenizer: Any) -> dict[str, int]:
    """How many tokens an example has."""
    text = tokenizer.apply_chat_template(guides_messages(example), tokenize=False, add_generation_prompt=False)
    return {"length": len(tokenizer(text, truncation=False, padding=False)["input_ids"])}


def memcpy(out: NDArray[Any], repeats: int = 7) -> list[float]:
    """Seconds to copy an array of the same bytes by one thread into memory that is there already."""
    target = np.zeros_like(out)
    target.fill(1)  # touched: no page is made while the clock runs
    seconds = []
    for _ in range(repeats):
        with clock() as work:
            np.copyto(target, out)
        seconds.append(work.seconds)
    return seconds


def load_tokenizer(inputs: Inputs) -> Any:
    """The tokenizer, from where Palate finds it."""
    from palate.prompt import tokenizer

    return tokenizer.load_tokenizer(inputs.tokenizer)


@contextmanager
def cold_cache(file: Path) -> Iterator[tuple[Any, Callable[[], int]]]:
    """A JSON file as a dataset in an empty cache of its own, and a function: the bytes that were added there since."""
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:

        def size() -> int:
            return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())

        dataset = load_dataset("json", data_files=str(file), split="train", cache_dir=folder)
        loaded = size()
        yield dataset, lambda: size() - loaded


def gathered(dataset: Any) -> Tokens:
    """The tokens of a dataset as flat arrays."""
    import pyarrow.compute as pc

    table = dataset.with_format("arrow")[:]
    ids, labels = (pc.list_flatten(table[name]).to_numpy().astype(np.int32) for name in ("input_ids", "labels"))
    return Tokens(pc.list_value_length(table["input_ids"]).to_numpy().astype(np.int32), ids, labels)
