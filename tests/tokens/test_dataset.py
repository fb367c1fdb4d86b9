"""Composed samples against whole ones: every tokenizer, every prompt, titles that are hard on both."""

import pickle
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.examples import examples, mostly_slow
from tests.small import TRIMMING, all_small, small_tokenizer
from tests.tiny import EMPTY_THINK
from tests.titles import PLAIN, TITLES, titles

from palate.errors import InputError
from palate.prompt.chat import Chat
from palate.prompt.messages import to_chat_messages, to_generation_messages
from palate.prompt.spec import PromptSpec
from palate.prompt.tokenizer import load_tokenizer
from palate.samples import iter_examples
from palate.samples.build import ROLES, Samples
from palate.store.hub import locate
from palate.tokens import build_tables
from palate.tokens.dataset import Options, TokenDataset, token_datasets
from palate.tokens.plain import IGNORED, label

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
    "the answer's words": PromptSpec(
        history_header="",
        history_line="{title:short}: {rating:4|Yes|No}",
        candidate_header="",
        candidate_line="{title:short}, {item_mean:.1f}:",
        question="",
    ),
    "candidate's context": PromptSpec(candidate_line="{title} – rated {item_mean:.1f} by {item_count} users"),
    "every context": PromptSpec(
        history_line="{n}. {title} ({item_count:,}: {item_mean:.1f}) (rating ≈ {rating:.1f})",
        candidate_line="{item_mean:.0f} stars: {title}",
    ),
    "context touching": PromptSpec(history_line="{item_count}{title}{item_mean}"),
    "signals": PromptSpec(
        candidate_line="{title}: {estimate:.0%}; who liked {neighbour:short} gave it {neighbour_mean:.1f} "
        "({user_deviation:+.1f}, {item_deviation:+.1f})",
    ),
    "signals touching": PromptSpec(candidate_line="{estimate}{title}{neighbour}{neighbour_mean}{item_mean}"),
    "users": PromptSpec(candidate_line="{title} for {user.job:cut3}, aged {user.age}"),
    "users beside signals": PromptSpec(candidate_line="{user.job}{title}{neighbour} {user.age}{user.job}: {estimate}"),
    "vectors": PromptSpec(
        history_line="{n}. {item_vector} {title} ({rating:g})", candidate_line="{title} {item_vector}"
    ),
    "vectors touching": PromptSpec(
        history_line="{title}{item_vector}{rating:g}", candidate_line="{item_vector}{title}"
    ),
    "vectors beside signals": PromptSpec(candidate_line="{title} {item_vector}: {neighbour}, {neighbour:short}"),
    "vectors alone": PromptSpec(history_line="{item_vector}", candidate_line="{item_vector}"),
}


class Tokenizers(dict[str, Any]):
    """Small ones, and those of real models that are here, which are loaded when they are asked for."""

    def __getitem__(self, name: str) -> Any:
        if super().__getitem__(name) is None:
            self[name] = load_tokenizer(name)
        return super().__getitem__(name)


REAL = [name for name in ("qwen3", "smollm2") if locate(name, tokenizer=True).path]
TOKENIZERS = Tokenizers({**all_small(), "trimming": small_tokenizer(TRIMMING), **dict.fromkeys(REAL)})
FAST = [
    *product(all_small(), ["guide", "the answer's words", "context touching", "vectors"]),
    *product(["byte_level_bpe"], PROMPTS),
    ("trimming", "touching"),
    ("smollm2", "guide"),
    ("qwen3", "every context"),
]


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
    role = np.zeros(rated.size, np.uint8)
    role[position] = split + 1
    frame = frame.with_columns(
        timestamp=pl.Series(np.arange(rated.size) % each // 2),
        split=pl.Series(ROLES.categories, dtype=ROLES).gather(pl.Series(role)),
    )
    signals = pl.DataFrame(
        {
            "estimate": draw.integers(0, 101, position.size) / 100,
            "neighbour": draw.integers(-1, len(names), position.size),
            "user": draw.integers(-1, len(names), position.size),
            **{
                name: draw.integers(-30, 40, position.size) / 10
                for name in ("neighbour_mean", "user_deviation", "item_deviation")
            },
        }
    )
    people = {"user_id": items["item_id"], "age": items["year"].cast(pl.String), "job": items["title"].reverse()}
    return Samples(frame, items, position, split, 4.0, HISTORY, signals=signals, users=pl.DataFrame(people))


def composed(samples: Samples, prompt: PromptSpec, chat: Chat, folder: Path, **options: Any) -> dict[str, TokenDataset]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PALATE_CACHE_DIR", str(folder))
        return token_datasets(samples, prompt, chat, Options(**options))


def whole(samples: Samples, prompt: PromptSpec, chat: Chat, split: str) -> list[dict[str, list[int]]]:
    rows = [row for chunk in iter_examples(samples, split, prompt) for row in chunk.to_dicts()]
    chat = chat.with_items(samples.items.height) if prompt.names_vectors else chat
    return [label(encoded, 100_000) for encoded in chat.encode_batch([to_chat_messages(row) for row in rows])]


def as_lists(dataset: TokenDataset) -> list[dict[str, list[int]]]:
    return [{name: values.tolist() for name, values in row.items()} for row in dataset]


@pytest.mark.parametrize(("name", "prompt"), mostly_slow(product(TOKENIZERS, PROMPTS), FAST))
def test_a_composed_sample_is_the_whole_one(
    name: str, prompt: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chat, samples = Chat(TOKENIZERS[name]), samples_of(TITLES)
    for split, dataset in composed(samples, PROMPTS[prompt], chat, tmp_path, cutoff_len=100_000).items():
        assert as_lists(dataset) == whole(samples, PROMPTS[prompt], chat, split)
    assert "defect" not in caplog.text, "composition itself was wrong, and every sample was tokenized whole"


@examples(20)
@given(
    names=st.lists(titles(), min_size=1, max_size=12), seed=st.integers(0, 99), prompt=st.sampled_from(sorted(PROMPTS))
)
@pytest.mark.parametrize("name", mostly_slow(TOKENIZERS, all_small()))
def test_whatever_the_titles_are(
    name: str, names: list[str], seed: int, prompt: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    chat, samples = Chat(TOKENIZERS[name]), samples_of(names, seed, users=2, each=6)
    folder = tmp_path_factory.mktemp("cache")
    for split, dataset in composed(samples, PROMPTS[prompt], chat, folder, cutoff_len=100_000).items():
        assert as_lists(dataset) == whole(samples, PROMPTS[prompt], chat, split)


@pytest.mark.parametrize("prompt", ["vectors", "vectors touching", "vectors alone"])
@pytest.mark.parametrize("name", mostly_slow(TOKENIZERS, [*all_small(), "smollm2"]))
def test_the_tokens_of_items_are_those_of_the_fields_and_no_title_is_one(
    name: str, prompt: str, tmp_path: Path
) -> None:
    chat, samples = Chat(TOKENIZERS[name]), samples_of([*TITLES[:30], "⟦1⟧", "<|im_end|>⟦2⟧ ⟦", "⟧⟦3⟧", "x⟦4⟧<think>"])
    rows = {item: n for n, item in enumerate(samples.items["item_id"].to_list())}
    item = [rows[each] for each in samples.timeline["item_id"].to_list()]
    dataset = composed(samples, PROMPTS[prompt], chat, tmp_path, cutoff_len=100_000)["train"]
    first = dataset.chat.first_item
    assert first == len(chat.tokenizer)
    for position, row in zip(samples.position[samples.of("train")].tolist(), as_lists(dataset), strict=True):
        found = [token - first for token in row["input_ids"] if token >= first]
        assert found == item[position - HISTORY : position + 1]


@pytest.mark.parametrize("prompt", ["candidate's context", "every context"])
@pytest.mark.parametrize("name", sorted(TOKENIZERS.keys() - {"phi3_like"}))  # of which nothing is proved
def test_contexts_are_composed_and_asked_as_they_are_trained(name: str, prompt: str, tmp_path: Path) -> None:
    chat, samples = Chat(TOKENIZERS[name]), samples_of(PLAIN, users=8)
    for split, dataset in composed(samples, PROMPTS[prompt], chat, tmp_path, cutoff_len=100_000).items():
        assert dataset.tables.reason is None
        assert not dataset.tables.unproved(split).size
        assert dataset.tables.codes("context") > 9
        rows = [row for chunk in iter_examples(samples, split, PROMPTS[prompt]) for row in chunk.to_dicts()]
        assert dataset.prompts() == chat.decision_prompts([to_generation_messages(row) for row in rows])


@pytest.mark.parametrize(
    "prompt",
    [
        PromptSpec(candidate_line="{title}1{item_count:>2}"),
        PromptSpec(history_line="{n}. {title}1{item_count:>2} {rating:.1f}"),
    ],
)
def test_a_context_beside_which_no_cut_is_proved_is_tokenized_whole(prompt: PromptSpec, tmp_path: Path) -> None:
    # Nothing but digits lies between a title's number and a count of two digits.
    chat, samples = Chat(TOKENIZERS["byte_level_bpe"]), samples_of([f"Film {n}" for n in range(30)], users=60)
    for split, dataset in composed(samples, prompt, chat, tmp_path, cutoff_len=100_000).items():
        assert 0 < dataset.tables.unproved(split).size < len(dataset)
        assert as_lists(dataset) == whole(samples, prompt, chat, split)


@pytest.mark.parametrize("name", sorted(TOKENIZERS.keys() - {"phi3_like"}))
@pytest.mark.parametrize("kind", ["signals", "users"])
def test_signals_are_composed_and_asked_as_they_are_trained(name: str, kind: str, tmp_path: Path) -> None:
    chat, samples = Chat(TOKENIZERS[name]), samples_of(PLAIN, users=8)
    for split, dataset in composed(samples, PROMPTS[kind], chat, tmp_path, cutoff_len=100_000).items():
        assert dataset.tables.reason is None
        assert dataset.tables.unproved(split).size < len(dataset) / 2  # some numbers join a tokenizer's pieces
        rows = [row for chunk in iter_examples(samples, split, PROMPTS[kind]) for row in chunk.to_dicts()]
        assert dataset.prompts() == chat.decision_prompts([to_generation_messages(row) for row in rows])
        assert [dataset.example(n)["input"] for n in range(len(dataset))] == [row["input"] for row in rows]


def test_more_values_of_a_signal_than_a_word_has_room_for_are_refused(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(build_tables.SIGNAL_PLACES, "estimate", (0, 1))
    with pytest.raises(InputError, match=r"ratings: have \d+ distinct {estimate}, expected at most 2"):
        composed(samples, PROMPTS["signals"], Chat(small_tokenizer()), tmp_path)


@pytest.mark.parametrize(
    ("place", "what"), [("ITEM", "items"), ("RATING", "distinct ratings"), ("CONTEXT", "distinct pairs of {item_mean}")]
)
def test_more_values_than_a_word_has_room_for_are_refused(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, what: str
) -> None:
    shift, _ = getattr(build_tables, place)
    monkeypatch.setattr(build_tables, place, (shift, 1))
    with pytest.raises(InputError, match=rf"ratings: have \d+ {what}.*, expected at most 2"):
        composed(samples, PROMPTS["every context"], Chat(small_tokenizer()), tmp_path)


@pytest.fixture
def samples() -> Samples:
    return samples_of(["Heat (1995)", "Toy Story (1995)", "M (1931)"])


def test_one_a_slice_and_a_batch_are_the_same_samples(samples: Samples, tmp_path: Path) -> None:
    train = composed(samples, PromptSpec(), Chat(small_tokenizer()), tmp_path)["train"]
    every = as_lists(train)

    assert [train[-1]["input_ids"].tolist(), train[2]["labels"].tolist()] == [
        every[-1]["input_ids"],
        every[2]["labels"],
    ]
    assert [ids.tolist() for ids in train[1:8:3]["input_ids"]] == [row["input_ids"] for row in every[1:8:3]]
    assert [row["input_ids"].tolist() for row in train.__getitems__([4, 0, 4])] == [
        every[n]["input_ids"] for n in (4, 0, 4)
    ]
    assert train.lengths.tolist() == [len(row["input_ids"]) for row in every]
    assert as_lists(train.select([3, 1])) == [every[3], every[1]]
    assert all(values.dtype == np.int64 for values in train[0].values())  # as a list of ints would become
    for wrong in (len(train), -len(train) - 1):
        with pytest.raises(IndexError):
            train[wrong]


def test_a_sample_is_told_as_example_and_as_text(samples: Samples, tmp_path: Path) -> None:
    chat = Chat(small_tokenizer())
    train = composed(samples, PromptSpec(), chat, tmp_path)["train"]
    (rows,) = iter_examples(samples, "train", PromptSpec())

    assert [train.example(n) for n in range(len(train))] == [{**row, "history": []} for row in rows.to_dicts()]
    assert train.text(1) == chat.text(to_chat_messages(rows.row(1, named=True)))


def test_a_copy_in_another_process_has_all_but_the_text(samples: Samples, tmp_path: Path) -> None:
    train = composed(samples, PromptSpec(), Chat(small_tokenizer()), tmp_path)["train"]
    copy = pickle.loads(pickle.dumps(train))

    assert len(pickle.dumps(train)) < 1000
    assert as_lists(copy) == as_lists(train)
    with pytest.raises(RuntimeError, match="no tokenizer"):
        copy.text(0)


@pytest.mark.parametrize("change", ["label", "split", "rating", "title", "time", "role", "signals", "users"])
def test_other_samples_have_other_tables(samples: Samples, tmp_path: Path, change: str) -> None:
    chat, prompt = Chat(small_tokenizer()), PROMPTS[change if change in ("signals", "users") else "every context"]
    before = composed(samples, prompt, chat, tmp_path)["train"]
    later = pl.col("timestamp").shuffle(seed=1)
    unused = pl.when(pl.col("split") == "warmup").then(pl.lit("unused", ROLES)).otherwise("split")
    other = {
        "label": replace(samples, threshold=9.0),
        "split": replace(samples, split=samples.split[::-1].copy()),
        "rating": replace(samples, timeline=samples.timeline.with_columns(rating=10 - pl.col("rating"))),
        "title": replace(samples, items=samples.items.with_columns(title=pl.col("title") + "!")),
        "time": replace(samples, timeline=samples.timeline.with_columns(timestamp=later)),
        "signals": replace(samples, signals=samples.signals.reverse() if samples.signals is not None else None),
        "role": replace(samples, timeline=samples.timeline.with_columns(split=unused)),
        "users": replace(
            samples, users=samples.users.with_columns(job=pl.lit("cook")) if samples.users is not None else None
        ),
    }[change]
    after = composed(other, prompt, chat, tmp_path)

    assert after["train"].identity != before.identity
    assert as_lists(after["train"]) == whole(other, prompt, chat, "train")


def test_a_run_of_the_same_samples_reuses_tables_and_says_what_is_new(
    samples: Samples, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chat = Chat(small_tokenizer())
    with caplog.at_level("DEBUG", "palate"):
        composed(samples, PromptSpec(), chat, tmp_path, cutoff_len=400)
        caplog.clear()
        composed(samples, PromptSpec(), chat, tmp_path, cutoff_len=380)
    assert "tables of samples: cache hit" in caplog.text
    assert "cutoff changed: tables reused, lengths recomputed" in caplog.text


def test_training_on_the_answer_alone_leaves_one_label(samples: Samples, tmp_path: Path) -> None:
    chat = Chat(small_tokenizer(EMPTY_THINK))
    train = composed(samples, PromptSpec(), chat, tmp_path, train_on="answer")["train"]
    decision = chat.decision

    for row, liked in zip(as_lists(train), train.labels, strict=True):
        (place,) = (n for n, target in enumerate(row["labels"]) if target != IGNORED)
        assert row["labels"][place] == row["input_ids"][place] == (decision.yes_id if liked else decision.no_id)
