"""Prompts of several targets against the sequences that they stand for, tokenized whole."""

from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.examples import examples, mostly_slow
from tests.prompt_rows import prompt_rows
from tests.small import all_small
from tests.titles import TITLES, titles
from tests.tokens.test_dataset import HISTORY, PROMPTS, TOKENIZERS, composed, samples_of

from palate.errors import InputError
from palate.prompt.chat import Chat
from palate.prompt.messages import to_chat_messages
from palate.prompt.spec import PromptSpec
from palate.samples.build import Samples
from palate.tokens.dataset import TokenDataset
from palate.tokens.packed import Packed
from palate.tokens.shared import SharedHistory, SharedRows, group


def with_users(samples: Samples, each: int = 8) -> Samples:
    users = pl.Series("user_id", np.arange(samples.timeline.height) // each)
    return replace(samples, timeline=samples.timeline.with_columns(users))


def datasets(samples: Samples, prompt: str, tokenizer: str, folder: Path, **options: Any) -> TokenDataset:
    chat = Chat(TOKENIZERS[tokenizer], PROMPTS[prompt].yes, PROMPTS[prompt].no)
    return composed(samples, PROMPTS[prompt], chat, folder, **options)["train"]


def said(samples: Samples, prompt: PromptSpec, chat: Chat, anchor: int, target: int, items: int) -> tuple[Any, int]:
    """The ids of one sequence, said as plainly as can be, and how many of them come before the response."""
    rows = prompt_rows(samples, prompt)
    shown = rows[anchor - items : anchor]
    history = prompt.history(shown, [row["rating"] for row in shown])
    liked = rows[target]["rating"] >= 4
    example = prompt.alpaca(history, prompt.candidate(rows[target]), prompt.label(liked), items)
    return chat.encode_batch([to_chat_messages(example)])[0]


def check(shared: SharedHistory, samples: Samples, prompt: PromptSpec, packed: Packed, items: Any = None) -> None:
    """Every target of `packed`, alone, is the sequence that is tokenized whole."""
    tokens = shared.source
    assert isinstance(tokens, TokenDataset)
    position = tokens.tables.position("train")[tokens.numbers]
    users = samples.timeline["user_id"].to_numpy()
    for i, number in enumerate(packed.samples.tolist()):
        target = int(position[number])
        mates = packed.samples[packed.prompt_of == packed.prompt_of[i]]
        assert len({users[position[mate]] for mate in mates}) == 1
        anchor = int(position[mates].min())
        assert target - anchor < shared.targets
        shown = HISTORY if items is None else items(int(packed.prompt_of[i]))
        ids, before = said(samples, prompt, tokens.chat, anchor, target, shown)
        alone = packed.alone(i)
        response = ids[before:]
        if tokens.answer_only:
            assert alone.targets.tolist() == [response[tokens.lead]]
            assert alone.input_ids.tolist() == ids[: before + tokens.lead]
        else:
            assert alone.targets.tolist() == response
            assert alone.input_ids.tolist() == ids[:-1]
        assert alone.at.tolist() == [alone.input_ids.size - alone.targets.size + k for k in range(alone.targets.size)]
        assert alone.position_ids.tolist() == list(range(len(alone)))
        assert alone.targets[alone.decision[0]] == response[tokens.lead]
        assert packed.targets[packed.decision[i]] == response[tokens.lead]
        assert bool(packed.liked[i]) == bool(samples.timeline["rating"][target] >= 4)


@pytest.mark.parametrize(
    ("tokenizer", "prompt", "train_on"),
    mostly_slow(
        product(
            TOKENIZERS, ["guide", "rating first", "many fields", "every context", "signals"], ["response", "answer"]
        ),
        [
            *product(all_small(), ["guide"], ["response"]),
            *product(["byte_level_bpe"], ["rating first", "many fields", "every context"], ["response", "answer"]),
            ("trimming", "many fields", "response"),
            ("qwen3", "every context", "answer"),
            *product(["byte_level_bpe", "phi3_like"], ["signals"], ["response"]),
        ],
    ),
)
def test_each_target_is_the_sequence_that_it_would_be_alone(
    tokenizer: str, prompt: str, train_on: str, tmp_path: Path
) -> None:
    samples = with_users(samples_of(TITLES[:40]))
    tokens = datasets(samples, prompt, tokenizer, tmp_path, train_on=train_on)
    for targets in (1, 2, 4, 100):
        shared = SharedHistory(tokens, targets)
        packed = shared.pack(shared.pieces())
        assert sorted(packed.samples.tolist()) == list(range(len(tokens)))
        assert len(packed) == shared.tokens(shared.pieces()).sum()
        check(shared, samples, PROMPTS[prompt], packed)


@examples(25)
@given(
    names=st.lists(titles(), min_size=3, max_size=8, unique=True), seed=st.integers(0, 99), targets=st.integers(2, 6)
)
def test_so_it_is_for_any_title(
    names: list[str], seed: int, targets: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    samples = with_users(samples_of(names, seed))
    tokens = datasets(samples, "guide", "byte_level_bpe", tmp_path_factory.mktemp("cache"))
    shared = SharedHistory(tokens, targets)
    check(shared, samples, PROMPTS["guide"], shared.pack(shared.pieces()))


def test_one_target_a_prompt_is_the_dataset_itself(tmp_path: Path) -> None:
    tokens = datasets(with_users(samples_of(TITLES[:20])), "guide", "gpt2_like", tmp_path, cutoff_len=90)
    packed = SharedHistory(tokens).pack([[2, 3], [0, 1]])
    rows = [tokens[2], tokens[0]]
    assert packed.input_ids.tolist() == [*rows[0]["input_ids"][:-1], *rows[1]["input_ids"][:-1]]
    assert (packed.prefix == packed.prefix_end).all()


def test_a_part_of_a_prompt_keeps_its_history(tmp_path: Path) -> None:
    samples = with_users(samples_of(TITLES[:20]))
    shared = SharedHistory(datasets(samples, "guide", "gpt2_like", tmp_path), 4)
    k = int(shared.sizes.argmax())
    begin, end = shared.pieces()[k].tolist()
    whole, part = shared.pack([[begin, end]]), shared.pack([[begin + 1, end]])
    assert len(part) == shared.tokens([[begin + 1, end]])[0]
    for i in range(1, end - begin):
        assert whole.alone(i).input_ids.tolist() == part.alone(i - 1).input_ids.tolist()


@pytest.mark.parametrize("tokenizer", ["gpt2_like", "phi3_like"])
def test_too_long_prompts_lose_their_oldest_items(tokenizer: str, tmp_path: Path) -> None:
    samples = with_users(samples_of(TITLES[:40]))
    prompt = PROMPTS["guide"]
    whole = SharedHistory(datasets(samples, "guide", tokenizer, tmp_path), 4)
    cutoff = int(np.median(whole.lengths))
    tokens = datasets(samples, "guide", tokenizer, tmp_path, cutoff_len=cutoff, truncation="history")
    shared = SharedHistory(tokens, 4)
    packed = shared.pack(shared.pieces())
    assert shared.lengths.max() <= cutoff
    items = shared._items
    assert items.min() < items.max() == HISTORY
    check(shared, samples, prompt, packed, items=lambda k: int(items[k]))
    for k in np.flatnonzero(items < HISTORY):  # one item more would not have fitted
        begin, end = shared.pieces()[k].tolist()
        anchor = int(shared._target[begin])
        more = [
            said(samples, prompt, tokens.chat, anchor, int(shared._target[j]), int(items[k]) + 1)[0]
            for j in range(begin, end)
        ]
        assert max(map(len, more)) > cutoff


@pytest.mark.parametrize("tokenizer", ["gpt2_like", "phi3_like"])
def test_on_the_left_all_targets_of_a_prompt_lose_the_same(tokenizer: str, tmp_path: Path) -> None:
    samples = with_users(samples_of(TITLES[:40]))
    whole = SharedHistory(datasets(samples, "guide", tokenizer, tmp_path), 4)
    cutoff = int(np.median(whole.lengths))
    shared = SharedHistory(datasets(samples, "guide", tokenizer, tmp_path, cutoff_len=cutoff), 4)
    assert shared.lengths.max() == cutoff
    for k, (begin, end) in enumerate(shared.pieces().tolist()):
        over = max(0, int(whole.lengths[begin:end].max()) - cutoff)
        before, after = whole.pack([[begin, end]]), shared.pack([[begin, end]])
        for i in range(end - begin):
            assert after.alone(i).input_ids.tolist() == before.alone(i).input_ids.tolist()[over:], k


def test_what_would_leave_nothing_to_share_is_refused(tmp_path: Path) -> None:
    samples = with_users(samples_of(TITLES[:20]))
    tokens = datasets(samples, "guide", "gpt2_like", tmp_path, truncation="middle")
    with pytest.raises(InputError, match=r"tokens.truncation: with 'middle' the targets of a prompt would share"):
        SharedHistory(tokens, 2)
    strict = datasets(samples, "guide", "gpt2_like", tmp_path, truncation="left", cutoff_len=20)
    with pytest.raises(InputError, match="cutoff_len than 20"):
        SharedHistory(strict, 4)
    rows = SharedRows([([1, 2, 3], [-100, -100, 3])], 0, 3, "x")
    with pytest.raises(InputError, match=r"train.targets_per_prompt: these examples do not name their user"):
        SharedHistory(rows, 2)


@given(
    users=st.lists(st.lists(st.booleans(), min_size=1, max_size=30), min_size=1, max_size=6),
    targets=st.integers(1, 8),
)
def test_prompts_are_of_one_user_and_of_targets_that_are_near(users: list[list[bool]], targets: int) -> None:
    starts = np.cumsum([0, *map(len, users)])
    positions = np.array(
        [s + k for s, kept in zip(starts, users, strict=False) for k, on in enumerate(kept) if on], np.int64
    )
    first = group(positions, starts[:-1], targets)
    assert first[0] == 0
    assert first[-1] == positions.size
    for a, b in pairwise(first.tolist()):
        mine = positions[a:b]
        assert mine[-1] - mine[0] < targets
        assert np.searchsorted(starts, mine[0], "right") == np.searchsorted(starts, mine[-1], "right")
    whole = sum(-(-sum(kept) // targets) for kept in users if all(kept))
    if all(all(kept) for kept in users):
        assert first.size - 1 == whole  # nobody's ratings are in more prompts than they need


def test_the_mask_is_what_its_definition_says(tmp_path: Path) -> None:
    samples = with_users(samples_of(TITLES[:20]))
    shared = SharedHistory(datasets(samples, "guide", "gpt2_like", tmp_path), 3)
    packed = shared.pack(shared.pieces()[:4])
    mask, (prompt, block) = packed.mask(), packed.owners()
    for q in range(0, len(packed), 7):
        for k in range(0, len(packed), 5):
            sees = k <= q and prompt[k] == prompt[q] and (block[k] == -1 or block[k] == block[q])
            assert mask[q, k] == sees
    # Seen tokens stand at positions 0, 1, 2, …, as they would in a sequence alone.
    for q in range(len(packed)):
        assert packed.position_ids[mask[q]].tolist() == list(range(mask[q].sum()))


def test_rows_made_elsewhere_are_prompts_of_one_target() -> None:
    rows = [([5, 6, 7, 8, 9], [-100, -100, 7, 8, 9]), ([4, 5, 1, 2], [-100, 5, 1, 2])]
    shared = SharedHistory(SharedRows(rows, 1, 8, "x"))
    packed = shared.pack([[0, 1], [1, 2]])
    assert packed.liked.tolist() == [True, False]
    assert packed.targets.tolist() == [7, 8, 9, 5, 1, 2]
    assert packed.at.tolist() == [1, 2, 3, 4, 5, 6]
    assert packed.input_ids.tolist() == [5, 6, 7, 8, 4, 5, 1]
    assert packed.targets[packed.decision].tolist() == [8, 1]
