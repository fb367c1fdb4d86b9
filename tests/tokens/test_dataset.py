"""Composed samples against whole ones: every tokenizer, every prompt, titles that are hard on both."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.small import TRIMMING, all_small, small_tokenizer
from tests.titles import TITLES, titles

from palate.hub import locate
from palate.prompt.chat import Chat
from palate.prompt.messages import to_chat_messages
from palate.prompt.spec import PromptSpec
from palate.samples import iter_examples
from palate.samples.build import Samples
from palate.tokens.dataset import Options, TokenDataset, token_datasets
from palate.tokens.plain import label
from palate.tokens.tokenizer import load_tokenizer

HISTORY = 3
PROMPTS = {
    "guide": PromptSpec(),
    "rating first": PromptSpec(history_line="{rating:.0f} {title}", candidate_line="{title}"),
    "bare titles": PromptSpec(history_line="{title}"),
    "many fields": PromptSpec(
        history_line="{n}) {title} [{genres}; {year}]: {rating:.1f} stars",
        candidate_line='"{title}" ({year}, {genres})',
    ),
    "touching": PromptSpec(history_line="{title}{rating:.1f}"),
    "rating twice": PromptSpec(history_line="{rating:.1f} for {title}, {rating:.0f} rounded"),
    "counted": PromptSpec(history_header="The last {history_len}:", history_line="- {title} #{n}"),
    "one candidate": PromptSpec(candidate_line="the same for all"),
}


def tokenizers() -> dict[str, Any]:
    real = {name: load_tokenizer(name) for name in ("qwen3", "smollm2") if locate(name, tokenizer=True).path}
    return {**all_small(), "trimming": small_tokenizer(TRIMMING), **real}


TOKENIZERS = tokenizers()


def samples_of(names: list[str], seed: int = 0, users: int = 4, each: int = 8) -> Samples:
    """Users who rated films of these names at random."""
    draw = np.random.default_rng(seed)
    items = pl.DataFrame(
        {
            "item_id": np.arange(len(names)) * 3 + 1,
            "title": names,
            "genres": [["Drama", "Comedy|Crime", ""][n % 3] for n in range(len(names))],
            "year": [1900 + n for n in range(len(names))],
        }
    )
    rated = np.concatenate([draw.integers(0, len(names), users * each - len(names) % 7), np.arange(len(names) % 7)])
    frame = pl.DataFrame(
        {"item_id": items["item_id"].gather(rated), "rating": draw.choice([0.5, 3.0, 4.5, 10.0], rated.size)}
    )
    position = np.array([u * each + k for u in range(users) for k in range(HISTORY, each)])
    split = (np.arange(position.size) % 5 > 2).astype(np.uint8) * (1 + np.arange(position.size) % 2).astype(np.uint8)
    return Samples(frame, items, position, split, frame["rating"].to_numpy()[position] >= 4, HISTORY)


def composed(samples: Samples, prompt: PromptSpec, chat: Chat, folder: Path, **options: Any) -> dict[str, TokenDataset]:
    data = {"data": str(hash(str(samples.items.to_dicts()) + str(samples.timeline.to_dicts())))}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PALATE_CACHE_DIR", str(folder))
        return token_datasets(samples, prompt, chat, Options(**options), data=data)


def whole(samples: Samples, prompt: PromptSpec, chat: Chat, split: str) -> list[dict[str, list[int]]]:
    rows = [row for chunk in iter_examples(samples, split, prompt) for row in chunk.to_dicts()]
    return [label(encoded, 100_000) for encoded in chat.encode_batch([to_chat_messages(row) for row in rows])]


def as_lists(dataset: TokenDataset) -> list[dict[str, list[int]]]:
    return [{name: values.tolist() for name, values in row.items()} for row in dataset]


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_composed_sample_is_the_whole_one(name: str, prompt: str, tmp_path: Path) -> None:
    chat, samples = Chat(TOKENIZERS[name]), samples_of(TITLES)
    for split, dataset in composed(samples, PROMPTS[prompt], chat, tmp_path, cutoff_len=100_000).items():
        assert as_lists(dataset) == whole(samples, PROMPTS[prompt], chat, split)


@settings(max_examples=20, deadline=None)
@given(
    names=st.lists(titles(), min_size=1, max_size=12), seed=st.integers(0, 99), prompt=st.sampled_from(sorted(PROMPTS))
)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_whatever_the_titles_are(
    name: str, names: list[str], seed: int, prompt: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    chat, samples = Chat(TOKENIZERS[name]), samples_of(names, seed, users=2, each=6)
    folder = tmp_path_factory.mktemp("cache")
    for split, dataset in composed(samples, PROMPTS[prompt], chat, folder, cutoff_len=100_000).items():
        assert as_lists(dataset) == whole(samples, PROMPTS[prompt], chat, split)
