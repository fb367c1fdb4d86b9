"""Samples of given splits: every row is one, and its history may be short."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tests.small import small_tokenizer

from palate.config import PrepareConfig
from palate.errors import InputError
from palate.prompt.chat import Chat
from palate.prompt.messages import to_chat_messages
from palate.prompt.spec import PromptSpec
from palate.ratings.load import Ratings
from palate.samples import Samples, build_samples, iter_examples, load_prepared, prepare
from palate.tokens.dataset import Options, token_datasets
from palate.tokens.shared import SharedHistory

OPTIONS = PrepareConfig(history_len=3, rating_threshold=0.5, split="given")
PROMPT = PromptSpec(history_line="{n}. {title} ({rating:liked|disliked})")


@pytest.fixture
def ratings() -> Ratings:
    """Five users of 1 to 7 rows, the later ones in val and test."""
    draw = np.random.default_rng(0)
    rows = []
    for user, count in ((4, 7), (2, 1), (9, 3), (1, 5), (3, 6)):
        for n in range(count):
            split = "test" if n >= count - 1 else "val" if n >= count - 2 else "train"
            rows.append((user, int(draw.integers(1, 9)), float(draw.integers(2)), 100 * n + user, split))
    names = ["user_id", "item_id", "rating", "timestamp", "split"]
    items = pl.DataFrame({"item_id": range(1, 9), "title": [f"Film {n} ({1980 + n})" for n in range(1, 9)]})
    return Ratings(pl.DataFrame(rows, schema=names, orient="row"), items, "given", {"all.csv": "0" * 64}, (0.0, 1.0))


def plainly(samples: Samples, index: int) -> dict[str, object]:
    """A sample in Alpaca form, said row by row."""
    at = int(samples.position[index])
    rows = samples.timeline.rows(named=True)
    titles = dict(samples.items.select("item_id", "title").rows())
    past = [row for row in rows[:at] if row["user_id"] == rows[at]["user_id"]][-samples.history_len :]
    history = PROMPT.history([{"title": titles[r["item_id"]]} for r in past], [r["rating"] for r in past])
    answer = PROMPT.label(rows[at]["rating"] == 1.0)
    return PROMPT.alpaca(history, titles[rows[at]["item_id"]], answer, len(past))


def test_every_row_is_a_sample_of_its_split(ratings: Ratings) -> None:
    samples = build_samples(ratings, OPTIONS)

    assert samples.position.size == ratings.frame.height
    assert {split: samples.of(split).size for split in ("train", "val", "test")} == {"train": 13, "val": 4, "test": 5}
    assert samples.histories.tolist() == [0, 1, 2, 3, 3, 0, 0, 1, 2, 3, 3, 3, 0, 1, 2, 3, 3, 3, 3, 0, 1, 2]


def test_short_histories_are_told_as_they_are(ratings: Ratings) -> None:
    samples = build_samples(ratings, OPTIONS)

    for split in ("train", "val", "test"):
        told = [row for chunk in iter_examples(samples, split, PROMPT) for row in chunk.to_dicts()]
        assert told == [{k: v for k, v in plainly(samples, i).items() if k != "history"} for i in samples.of(split)]
    assert "(liked)" in told[-1]["input"] or "(disliked)" in told[-1]["input"]


def test_a_prepared_folder_gives_the_same_samples(ratings: Ratings, tmp_path: Path) -> None:
    samples = build_samples(ratings, OPTIONS)
    prepare(ratings, OPTIONS, PROMPT, 13, tmp_path / "out")

    again = load_prepared(tmp_path / "out").samples

    for name in ("position", "split", "label", "histories"):
        np.testing.assert_array_equal(getattr(again, name), getattr(samples, name))
    raw = pl.read_ndjson(tmp_path / "out" / "test_raw.jsonl")
    assert raw["history"].list.len().to_list() == samples.histories[samples.of("test")].tolist()


def test_two_words_need_labels(ratings: Ratings) -> None:
    from dataclasses import replace

    halves = replace(ratings, frame=ratings.frame.with_columns(rating=pl.col("rating") + 0.5), scale=(0.5, 1.5))
    samples = build_samples(halves, PrepareConfig(history_len=3, rating_threshold=1.0, split="given"))

    with pytest.raises(InputError, match=r"prompt\.history_line: 0\.5 cannot be written as {:liked|disliked}"):
        list(iter_examples(samples, "train", PROMPT))


def test_a_threshold_for_stars_is_refused_for_labels(ratings: Ratings) -> None:
    with pytest.raises(InputError, match=r"prepare\.rating_threshold: 4 makes every answer No"):
        build_samples(ratings, PrepareConfig(split="given"))


@pytest.mark.parametrize("truncation", ["left", "history"])
@pytest.mark.parametrize("cutoff", [90, 1024])
def test_tokens_of_short_histories_are_those_of_the_text(ratings: Ratings, truncation: str, cutoff: int) -> None:
    samples, chat = build_samples(ratings, OPTIONS), Chat(small_tokenizer())
    prompt = PROMPT.model_copy(update={"system": "S", "instruction": "I", "question": "Q?", "history_header": "H:"})
    options = Options(cutoff, truncation, "response")  # type: ignore[arg-type]

    found = token_datasets(samples, prompt, chat, options)

    for split, dataset in found.items():
        assert dataset.tables.reason is None
        rows = [row for chunk in iter_examples(samples, split, prompt) for row in chunk.to_dicts()]
        for index, row in enumerate(rows):
            ids = chat.encode(to_chat_messages(row)).ids
            own = dataset[index]["input_ids"].tolist()
            if len(ids) <= cutoff or truncation == "left":
                assert own == ids[-cutoff:]
            else:
                assert own == chat.encode(to_chat_messages(dataset.example(index))).ids
                assert len(own) <= cutoff
        assert dataset.audit()["samples_cut"] == sum(
            len(chat.encode(to_chat_messages(row)).ids) > cutoff for row in rows
        )


def test_targets_share_the_history_before_the_first_of_them(ratings: Ratings) -> None:
    samples, chat = build_samples(ratings, OPTIONS), Chat(small_tokenizer())
    train = token_datasets(samples, PROMPT, chat, splits=["train"])["train"]

    shared = SharedHistory(train, 2)

    ids, offsets = shared.sequences(np.arange(len(train)))
    position = samples.position[samples.of("train")]
    for k, (begin, end) in enumerate(zip(shared.first[:-1], shared.first[1:], strict=True)):
        anchor = position[shared.order[begin]]
        history = int(samples.histories[anchor])
        for j in range(begin, end):
            target = position[shared.order[j]]
            example = train.tables.examples(np.array([anchor]), history, np.array([target]))[0]
            assert ids[offsets[j] : offsets[j + 1]].tolist() == chat.encode(to_chat_messages(example)).ids
        assert k < len(shared)
