"""Composed Alpaca examples against whole ones: every tokenizer, texts of several forms, titles hard on both."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from datasets import Dataset, Features, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.small import CHATML, TRIMMING, all_small, small_tokenizer
from tests.titles import TITLES, titles

from palate.config import PrepareConfig
from palate.prompt.chat import Chat
from palate.prompt.spec import PromptSpec
from palate.prompt.tokenizer import load_tokenizer
from palate.ratings.load import load_ratings
from palate.samples import iter_examples
from palate.samples.build import build_samples
from palate.store.hub import locate
from palate.tokens import segments
from palate.tokens.plain import conversation
from palate.tokens.segments import encode_examples, measure_examples

SHARED = Path(__file__).parents[3] / "shared"
FEATURES = Features(
    {name: Value("string") for name in ("instruction", "input", "output", "system")}
    | {"history": List(List(Value("string")))}
)


def tokenizers() -> dict[str, Any]:
    real = {name: load_tokenizer(name) for name in ("qwen3", "smollm2") if locate(name, tokenizer=True).path}
    return {**all_small(), "trimming": small_tokenizer(TRIMMING), **real}


CHATS = {name: Chat(tokenizer) for name, tokenizer in tokenizers().items()}


@pytest.fixture(scope="module", autouse=True)
def unchecked() -> Iterator[None]:
    """What the composer would notice by itself, and cover, is to be seen."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "CHECKED", 0)
        yield


def guide(names: list[str]) -> dict[str, Any]:
    lines = "\n".join(f"{n}. {name} (rating ≈ {n % 5}.5)" for n, name in enumerate(names[1:], start=1))
    text = f"User's last watched movies:\n{lines}\n\nCandidate movie:\n{names[0]}\n\nRecommend it? Answer Yes or No."
    return {"instruction": "Predict whether the user will like the movie.", "input": text, "system": "You judge."}


def one_line(names: list[str]) -> dict[str, Any]:
    listed = ", ".join(f'"{name}"' for name in names[1:])
    text = f'User Preference: {listed}\nUser Unpreference: None\nWill the user like "{names[0]}"?'
    return {"instruction": "Given the user's preference, answer Yes or No.", "input": text, "system": None}


def windows(names: list[str]) -> dict[str, Any]:
    return {"instruction": "Films:\r\n" + "\r\n".join(f"- {name}" for name in names) + "\r\nLike them?", "input": None}


def free(names: list[str]) -> dict[str, Any]:
    return {"instruction": " and\tthen; ".join(names), "input": "", "system": ""}


def chinese(names: list[str]) -> dict[str, Any]:
    return {
        "instruction": "用户喜欢以下电影：" + "、".join(f"《{name}》" for name in names) + "。推荐吗?",
        "input": None,
    }


def bare(names: list[str]) -> dict[str, Any]:
    return {"instruction": names[0], "input": names[-1]}


def earlier(names: list[str]) -> dict[str, Any]:
    return {**one_line(names), "history": [[f"And {name}?", "Yes"] for name in names]}


def everywhere(names: list[str]) -> dict[str, Any]:
    return {"instruction": f"A {names[0]} b", "input": names[-1], "output": names[0], "system": names[-1]}


SHAPES = (guide, one_line, windows, free, chinese, bare, earlier, everywhere)


def dataset(rows: list[dict[str, Any]]) -> Dataset:
    blank = {"input": "", "system": "S", "history": []}
    filled = [{"output": "No" if n % 3 else "Yes", **blank, **row} for n, row in enumerate(rows)]
    return Dataset.from_list(filled, features=FEATURES)


def composed(data: Dataset, chat: Chat) -> list[tuple[list[int], int]]:
    found = []
    for batch in encode_examples(data, chat):
        ids, at = batch.compose(batch.total)
        assert batch.total.tolist() == (at[1:] - at[:-1]).tolist()
        found += [(ids[a:b].tolist(), int(b - a - n)) for a, b, n in zip(at[:-1], at[1:], batch.response, strict=True)]
    return found


def whole(data: Dataset, chat: Chat) -> list[tuple[list[int], int]]:
    return [tuple(encoded) for encoded in chat.encode_batch([conversation(row) for row in data.to_list()])]


@pytest.mark.parametrize("name", CHATS)
def test_a_composed_example_is_the_whole_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "ROWS", 50)
    rows = [shape(TITLES[n % 7 : n + 1] + TITLES[n:]) for n in range(0, len(TITLES), 7) for shape in SHAPES]
    data = dataset([row for row in rows for _ in range(2)])

    assert composed(data, CHATS[name]) == whole(data, CHATS[name])


@settings(max_examples=20, deadline=None)
@given(
    lists=st.lists(st.lists(titles(), min_size=1, max_size=5), min_size=1, max_size=6),
    shapes=st.lists(st.sampled_from(SHAPES), min_size=1, max_size=3),
)
@pytest.mark.parametrize("name", CHATS)
def test_whatever_the_texts_are(name: str, lists: list[list[str]], shapes: list[Any]) -> None:
    data = dataset([shape(names) for names in lists for shape in shapes for _ in range(2)])

    assert composed(data, CHATS[name]) == whole(data, CHATS[name])


@pytest.mark.parametrize("shape", [guide, one_line, windows, free, chinese])
def test_no_example_of_the_usual_form_is_tokenized_whole(shape: Any) -> None:
    chat = CHATS["byte_level_bpe"]
    (batch,) = encode_examples(dataset([shape([f"Film {n} (1995)", "Heat"]) for n in range(20)]), chat)

    assert not batch._whole


def test_the_last_ids_are_kept() -> None:
    chat, data = CHATS["byte_level_bpe"], dataset([guide([f"Film {n}", *TITLES[:9]]) for n in range(6)])
    (batch,) = encode_examples(data, chat)
    kept = batch.total // [1, 2, 3, 4, 5, 6]
    ids, at = batch.compose(kept)

    for n, (encoded, _) in enumerate(whole(data, chat)):
        assert ids[at[n] : at[n + 1]].tolist() == encoded[-kept[n] :]


@pytest.mark.parametrize("change", ["| upper", "| replace('&', 'and')", "~ message['content']"])
def test_a_template_that_changes_what_is_said_is_not_composed(change: str) -> None:
    template = CHATML.replace("message['content']", f"(message['content'] {change})")
    chat, data = Chat(small_tokenizer(template)), dataset([guide(["Film", "Heat & Dust"])] * 4)

    assert composed(data, chat) == whole(data, chat)


def test_columns_of_other_types_are_tokenized_whole() -> None:
    chat = CHATS["byte_level_bpe"]
    messages = [{"role": "user", "content": "A film"}, {"role": "assistant", "content": "Yes"}]
    missing = [{"instruction": f"Film {n} of it", "output": "Yes"} for n in range(3)]
    for data in (Dataset.from_list([{"messages": messages}] * 3), Dataset.from_list(missing)):
        assert composed(data, chat) == whole(data, chat)


def test_what_is_learned_is_forgotten_when_it_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "ROWS", 4)
    monkeypatch.setattr(segments, "ROOM", 100)
    monkeypatch.setattr(segments, "PLACES", 16)
    chat, data = CHATS["byte_level_bpe"], dataset([guide([f"Film {n}", "Heat"]) for n in range(20)])

    assert composed(data, chat) == whole(data, chat)


def test_text_that_does_not_repeat_is_tokenized_whole(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(segments, "FEW", 10)
    monkeypatch.setattr(segments, "ROWS", 20)
    caplog.set_level("INFO", logger="palate")
    chat = CHATS["byte_level_bpe"]
    rows = [{"instruction": " ".join(f"word{40 * n + k}" for k in range(40))} for n in range(40)]
    data = dataset(rows + [guide(["Film", "Heat"])] * 20)
    batches = list(encode_examples(data, chat))

    assert [len(batch._whole) for batch in batches] == [20, 20, 0]
    assert caplog.text.count("whole examples are faster") == 1
    assert composed(data, chat) == whole(data, chat)


def test_lengths_are_those_of_whole_examples() -> None:
    chat, data = CHATS["gpt2_like"], dataset([free(TITLES[n : n + 3]) for n in range(9)])
    lengths, expected = measure_examples(data, chat), whole(data, chat)

    assert lengths.total.tolist() == [len(ids) for ids, _ in expected]
    assert lengths.response.tolist() == [len(ids) - prompt_len for ids, prompt_len in expected]
    assert len(measure_examples(data.select([]), chat)) == 0


@pytest.mark.skipif(not SHARED.is_dir() or "qwen3" not in CHATS, reason="needs ../shared and the tokenizer of qwen3")
def test_the_real_examples_are_those_of_the_reference() -> None:
    reference = json.loads((SHARED / "reference" / "ml-latest-small.qwen3.json").read_text(encoding="utf-8"))["train"]
    samples = build_samples(load_ratings(SHARED / "data" / "ml-latest-small"), PrepareConfig())
    data = Dataset(
        pl.concat(iter_examples(samples, "train", PromptSpec())).to_arrow(compat_level=pl.CompatLevel.oldest())
    )
    digest = hashlib.sha256()
    for batch in encode_examples(data, CHATS["qwen3"]):
        digest.update(batch.compose(batch.total)[0].astype("<i4").tobytes())

    assert digest.hexdigest() == reference["sha256_input_ids"]
