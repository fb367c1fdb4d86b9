"""Sampled negatives as sequences: each is tokenized as its like with another candidate, and shares its history."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tests.examples import mostly_slow
from tests.prompt_rows import prompt_rows
from tests.small import all_small
from tests.titles import TITLES
from tests.tokens.test_dataset import HISTORY, PROMPTS, TOKENIZERS, as_lists, composed, samples_of, whole

from palate.prompt.chat import Chat
from palate.prompt.messages import to_chat_messages
from palate.samples.build import Samples, with_negatives
from palate.samples.lines import renderer
from palate.samples.questions import asked_then
from palate.tokens.shared import SharedHistory

PER_LIKE = 2


def likes_of(names: list[str]) -> Samples:
    """The samples of a log of likes, each with two negatives, with signals of their own."""
    log = samples_of(names)
    draw = np.random.default_rng(0)
    n = log.position.size
    users = pl.Series("user_id", np.arange(log.timeline.height) // 8)
    log = replace(log, timeline=log.timeline.with_columns(users, rating=pl.lit(1.0)), threshold=0.5)
    samples = with_negatives(log, np.repeat(np.arange(n), PER_LIKE), draw.integers(0, len(names), n * PER_LIKE))
    assert log.signals is not None
    signals = pl.concat([log.signals.sample(n, shuffle=True, seed=k) for k in range(1 + PER_LIKE)])
    return replace(samples, signals=signals)


@pytest.mark.parametrize(
    ("name", "prompt"),
    mostly_slow(
        product(all_small(), PROMPTS), [*product(["byte_level_bpe"], PROMPTS), *product(all_small(), ["guide"])]
    ),
)
def test_a_composed_negative_is_the_whole_one(
    name: str, prompt: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chat, samples = Chat(TOKENIZERS[name]), likes_of(TITLES)
    for split, dataset in composed(samples, PROMPTS[prompt], chat, tmp_path, cutoff_len=100_000).items():
        assert as_lists(dataset) == whole(samples, PROMPTS[prompt], chat, split)
        assert dataset.labels.tolist() == samples.label[samples.of(split)].tolist()
    assert "defect" not in caplog.text


@pytest.mark.parametrize("prompt", ["guide", "every context"])
def test_a_negative_reads_as_a_question_at_its_likes_time(prompt: str) -> None:
    samples = likes_of(TITLES)
    negatives = np.flatnonzero(~samples.label)
    assert samples.negative is not None
    anchor = samples.position[negatives]
    questions = asked_then(samples, anchor, samples.negative[negatives])
    asked = renderer(questions.samples, PROMPTS[prompt]).questions(anchor, questions.target, HISTORY)
    said = renderer(samples, PROMPTS[prompt]).examples(negatives)
    assert asked.rows() == said.select(asked.columns).rows()
    assert set(said["output"]) == {"No"}


@pytest.mark.parametrize("truncation", ["history", "left"])
def test_the_negatives_of_a_like_share_its_history(truncation: str, tmp_path: Path) -> None:
    chat, samples = Chat(TOKENIZERS["byte_level_bpe"]), likes_of(TITLES)
    dataset = composed(samples, PROMPTS["guide"], chat, tmp_path, cutoff_len=100_000, truncation=truncation)["train"]
    shared = SharedHistory(dataset, targets=2)
    rows = prompt_rows(samples, PROMPTS["guide"])
    index = samples.of("train")[shared.order]
    position, label = samples.position[index], samples.label[index]
    assert samples.negative is not None
    title = samples.items["title"].gather(np.where(label, 0, samples.negative[index])).to_list()
    packed = shared.pack(shared.pieces())
    for k, (begin, end) in enumerate(shared.pieces().tolist()):
        assert end - begin in (1 + PER_LIKE, 2 * (1 + PER_LIKE))  # one like or two, with their negatives
        shown = rows[position[begin] - HISTORY : position[begin]]
        history = PROMPTS["guide"].history(shown, [row["rating"] for row in shown])
        for j in range(begin, end):
            about = rows[position[j]] if label[j] else {"title": title[j]}
            answer = PROMPTS["guide"].label(bool(label[j]))
            example = PROMPTS["guide"].alpaca(history, PROMPTS["guide"].candidate(about), answer, HISTORY)
            ids, _ = chat.encode_batch([to_chat_messages(example)])[0]
            alone = packed.alone(j)
            assert alone.input_ids.tolist() == ids[:-1]
            assert bool(packed.liked[j]) == label[j]
            assert packed.prompt_of[j] == k


def test_a_long_negative_loses_its_oldest_history(tmp_path: Path) -> None:
    chat, samples = Chat(TOKENIZERS["byte_level_bpe"]), likes_of(TITLES)
    lengths = composed(samples, PROMPTS["guide"], chat, tmp_path, cutoff_len=100_000)["train"].lengths
    cutoff = int(np.median(lengths))
    dataset = composed(samples, PROMPTS["guide"], chat, tmp_path, cutoff_len=cutoff, truncation="history")["train"]
    assert (dataset.lengths < lengths).any()
    for n, row in enumerate(as_lists(dataset)):
        ids, _ = chat.encode_batch([to_chat_messages(dataset.example(n))])[0]
        assert row["input_ids"] == ids
        assert len(ids) <= cutoff
