"""Every truncation against the plain ids that it is said to come to, over cutoffs down to nothing."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.examples import examples, mostly_slow
from tests.prompt_rows import CONTEXT, prompt_rows
from tests.small import TRIMMING, all_small, small_tokenizer
from tests.titles import TITLES
from tests.tokens.test_dataset import HISTORY, PROMPTS, samples_of

from palate.errors import InputError
from palate.prompt.chat import Chat, Encoded
from palate.prompt.item_tokens import FIELD, without_item_tokens
from palate.prompt.messages import to_chat_messages
from palate.prompt.spec import Number, PromptSpec, Text
from palate.samples.build import Samples
from palate.tokens.cut import STRATEGIES, Strategy
from palate.tokens.dataset import Options, TokenDataset, token_datasets
from palate.tokens.plain import IGNORED

TOKENIZERS = {**all_small(), "trimming": small_tokenizer(TRIMMING)}
LONG = 100_000
Row = tuple[list[int], list[int]]
"""Ids and labels of a sample."""


@dataclass(frozen=True)
class Case:
    """Training samples, composed and not cut; and the plain ones with 0, 1, … items, of which they are a choice."""

    chat: Chat
    prompt: PromptSpec
    samples: Samples
    dataset: TokenDataset
    plain: list[list[Encoded]]

    def cutoff(self, pick: int) -> int:
        """One of the cutoffs at which something changes."""
        sizes = {len(e.ids) for tries in self.plain for e in tries}
        response = {len(e.ids) - e.prompt_len for tries in self.plain for e in tries}
        edges = {1, 2, *sizes, *response, *(2 * n for n in response), *((min(sizes) + n) // 2 for n in sizes)}
        near = sorted({size + off for size in edges for off in (-1, 0, 1)} - {-1, 0})
        return near[pick % len(near)]

    def lines(self, sample: int) -> list[str]:
        """The history lines of a training sample."""
        past, _, _ = told(self.samples, sample, HISTORY, self.prompt)
        return [
            self.prompt.history_line.format(
                **{
                    name: Text(v) if isinstance(v, str) else Number(v) if type(v) is float else v
                    for name, v in row.items()
                }
                | {"n": n}
            )
            for n, row in enumerate(past, start=1)
        ]


def told(
    samples: Samples, sample: int, m: int, prompt: PromptSpec
) -> tuple[list[dict[str, Any]], dict[str, Any], bool]:
    """What a prompt with `m` items tells of a training sample: the history, oldest first; the candidate; the label."""
    number = samples.of("train")[sample]
    at = samples.position[number]
    rows = prompt_rows(samples, CONTEXT)[at - m : at + 1]
    if prompt.names_vectors:
        rows = [
            {k: without_item_tokens(v) if isinstance(v, str) and k != FIELD else v for k, v in row.items()}
            for row in rows
        ]
    return rows[:-1], rows[-1], bool(samples.label[number])


def _without(value: Any) -> Any:
    return without_item_tokens(value) if isinstance(value, str) else value


@lru_cache
def case(name: str, prompt: str, hard: bool = True) -> Case:
    chat, spec = Chat(TOKENIZERS[name]), PROMPTS[prompt]
    samples = samples_of(TITLES if hard else [t for t in TITLES if not chat.imitates_control(t)])
    data = {"test": f"truncation {name} {prompt} {hard}"}
    dataset = token_datasets(samples, spec, chat, Options(LONG), data=data, splits=["train"])["train"]
    chat = dataset.chat
    plain = []
    for sample in range(len(dataset)):
        conversations = []
        for m in range(HISTORY + 1):
            past, item, liked = told(samples, sample, m, spec)
            history = spec.history(past, [row["rating"] for row in past])
            conversations.append(to_chat_messages(spec.alpaca(history, spec.candidate(item), spec.label(liked), m)))
        plain.append(chat.encode_batch(conversations))
    return Case(chat, spec, samples, dataset, plain)


def labelled(encoded: Encoded) -> Row:
    return encoded.ids, [IGNORED] * encoded.prompt_len + encoded.ids[encoded.prompt_len :]


def expected(case: Case, cutoff: int, strategy: Strategy) -> list[Row] | str:
    """The rows that truncation leaves, or whom it refuses."""
    rows: list[Row] = []
    for sample, tries in enumerate(case.plain):
        ids, labels = labelled(tries[HISTORY])
        if len(ids) > cutoff:
            candidate = case.prompt.candidate(told(case.samples, sample, 0, case.prompt)[1])
            refused = f"train sample {sample} (candidate {candidate!r}) "
            if strategy == "drop":
                continue
            if strategy in ("right", "error"):
                return refused
            if strategy == "history":
                fitting = [encoded for encoded in tries if len(encoded.ids) <= cutoff]
                if not fitting:
                    return refused
                ids, labels = labelled(fitting[-1])
            else:
                head = cutoff // 2 if strategy == "middle" else 0
                tail = cutoff - head
                if len(ids) - tries[HISTORY].prompt_len > tail:
                    return refused
                ids, labels = ids[:head] + ids[-tail:], labels[:head] + labels[-tail:]
        rows.append((ids, labels))
    return rows or "leaves none"


@examples(25)
@given(prompt=st.sampled_from(sorted(PROMPTS)), pick=st.integers(0, 10**6), strategy=st.sampled_from(STRATEGIES))
@pytest.mark.parametrize("name", mostly_slow(TOKENIZERS, ["byte_level_bpe", "phi3_like", "trimming"]))
def test_what_is_left_is_the_plain_samples_cut_as_the_strategy_says(
    name: str, prompt: str, pick: int, strategy: Strategy
) -> None:
    this = case(name, prompt)
    cutoff = this.cutoff(pick)
    wanted = expected(this, cutoff, strategy)

    if isinstance(wanted, str):
        with pytest.raises(InputError) as refusal:
            this.dataset.under(Options(cutoff, strategy))
        assert wanted in str(refusal.value)
        return
    dataset = this.dataset.under(Options(cutoff, strategy))
    assert [(row["input_ids"].tolist(), row["labels"].tolist()) for row in dataset] == wanted
    assert dataset.lengths.tolist() == [len(ids) for ids, _ in wanted]
    assert dataset.lengths.max() <= cutoff


@examples(25)
@given(
    prompt=st.sampled_from(sorted(PROMPTS)),
    pick=st.integers(0, 10**6),
    strategy=st.sampled_from(STRATEGIES),
    train_on=st.sampled_from(["response", "answer"]),
)
@pytest.mark.parametrize("name", mostly_slow(TOKENIZERS, ["byte_level_bpe", "phi3_like", "trimming"]))
def test_no_sample_ever_loses_part_of_its_response(
    name: str, prompt: str, pick: int, strategy: Strategy, train_on: Any
) -> None:
    this = case(name, prompt)
    try:
        dataset = this.dataset.under(Options(this.cutoff(pick), strategy, train_on))
    except InputError:
        return
    decision = this.chat.decision
    for row, liked in zip(dataset, dataset.labels, strict=True):
        answer = decision.yes_id if liked else decision.no_id
        response = [*decision.lead, answer, *decision.tail]
        assert row["input_ids"].tolist()[-len(response) :] == response
        trained = [label for label in row["labels"].tolist() if label != IGNORED]
        assert trained == (response if train_on == "response" else [answer])


def test_a_header_that_counts_says_the_count_that_is_left() -> None:
    this = case("byte_level_bpe", "counted")
    shorter = max(len(tries[1].ids) for tries in this.plain)
    dataset = this.dataset.under(Options(shorter, "history"))

    for n in range(len(dataset)):
        items = dataset.text(n).count("\n- ")
        assert f"The last {items}:" in dataset.text(n)
        assert items == max(m for m, encoded in enumerate(this.plain[n]) if len(encoded.ids) <= shorter)


def cut_lines(this: Case, sample: int, begin: int, end: int) -> tuple[int, int]:
    """How many lines have text in the tokens `begin` to `end`, found in the text; and if breaks are theirs too."""
    _, item, liked = told(this.samples, sample, HISTORY, this.prompt)
    lines = this.lines(sample)
    example = this.prompt.alpaca("\n".join(lines), this.prompt.candidate(item), this.prompt.label(liked), HISTORY)
    text = this.chat.text(to_chat_messages(example))
    encoding = this.chat.untrimmed.encode(text, add_special_tokens=False)
    assert encoding.ids == this.plain[sample][HISTORY].ids
    gone = encoding.offsets[begin:end]
    at = text.index("\n".join(lines) + this.prompt.frame(len(lines))[1])
    strict = wide = 0
    for line in lines:
        stop = at + len(line)
        # A token that holds the break before the line and its first letter is nobody's in particular ("\n1").
        strict += any(a < stop and b > at and (a >= at or b > at + 1) for a, b in gone)
        wide += any(a < stop + 1 and b > at - 1 for a, b in gone)
        at = stop + 1
    return strict, wide


@examples(25)
@given(
    prompt=st.sampled_from(sorted(PROMPTS)),
    pick=st.integers(0, 10**6),
    strategy=st.sampled_from(["left", "middle", "history", "drop"]),
)
@example(prompt="bare titles", pick=1, strategy="left")
@pytest.mark.parametrize("name", mostly_slow(TOKENIZERS, ["byte_level_bpe", "unigram"]))
def test_the_audit_counts_what_a_count_over_the_text_finds(
    name: str, prompt: str, pick: int, strategy: Strategy
) -> None:
    this = case(name, prompt, hard=False)
    cutoff = this.cutoff(pick)
    (row,) = [row for row in this.dataset.compared([cutoff]) if row["truncation"] == strategy]
    wanted = expected(this, cutoff, strategy)
    if isinstance(wanted, str):
        assert wanted in row["refused"]
        return
    whole = [tries[HISTORY] for tries in this.plain]
    over = [n for n, encoded in enumerate(whole) if len(encoded.ids) > cutoff]
    left = sum(len(ids) for ids, _ in wanted)
    assert row["samples_cut"] == len(over)
    assert row["samples_dropped"] == len(whole) - len(wanted)
    assert row["tokens"] == left
    assert row["tokens_cut"] == sum(len(encoded.ids) for encoded in whole) - left
    assert row["trained_tokens"] == sum(label != IGNORED for _, labels in wanted for label in labels)

    low = high = unknown = 0
    unproved = set(this.dataset.tables.unproved("train").tolist())
    for n in over:
        size = len(whole[n].ids)
        if strategy == "drop":
            low, high = low + HISTORY, high + HISTORY
        elif strategy == "history":
            lost = HISTORY - max(m for m, encoded in enumerate(this.plain[n]) if len(encoded.ids) <= cutoff)
            low, high = low + lost, high + lost
        elif n in unproved:
            unknown += 1
        else:
            head = cutoff // 2 if strategy == "middle" else 0
            strict, wide = cut_lines(this, n, head, size - (cutoff - head))
            low, high = low + strict, high + wide
    if prompt in ("guide", "many fields", "counted"):  # constant text at both ends of a line
        high = low
    assert low <= row["history_items_cut"] <= high
    assert row["samples_with_unknown_items"] == unknown


def test_samples_that_do_not_count_are_neither_cut_nor_refused() -> None:
    this = case("byte_level_bpe", "guide")
    sizes = this.dataset.lengths
    short = np.flatnonzero(sizes <= np.median(sizes))
    cutoff = int(sizes[short].max())
    chosen = this.dataset.select(short[::-1])

    assert [row["input_ids"].tolist() for row in chosen.under(Options(cutoff, "error"))] == [
        this.plain[n][HISTORY].ids for n in short[::-1]
    ]
    assert all(row["samples_cut"] == 0 for row in chosen.compared([cutoff]))
    assert chosen.compared([cutoff])[0]["tokens"] == sizes[short].sum()
    with pytest.raises(InputError):
        this.dataset.under(Options(cutoff, "error"))
