import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from palate.errors import InputError
from palate.tokens import cache
from palate.tokens.cache import content_hash, preprocess_datasets_parallel
from palate.tokens.plain import tokenize_func


def examples(n: int = 12) -> Dataset:
    return Dataset.from_list(
        [
            {"instruction": "I", "input": f"Film {i}", "output": "No" if i % 2 else "Yes", "system": "S"}
            for i in range(n)
        ]
    )


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    logging.getLogger("palate").propagate = True
    caplog.set_level(logging.DEBUG, logger="palate")
    return caplog


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the test's entries are."""
    monkeypatch.setenv("PALATE_CACHE_DIR", str(tmp_path))
    return tmp_path / "preprocessed"


def tokens(data: Dataset, tokenizer: Any, cutoff: int = 64, num_proc: int | None = None) -> Dataset:
    return preprocess_datasets_parallel({"train": data}, tokenizer, cutoff, num_proc)["train"]


def test_rows_are_those_of_tokenize_func_in_order(tokenizer: Any, kept: Path) -> None:
    data = examples()
    result = tokens(data, tokenizer, cutoff=40)

    assert result.to_list() == [tokenize_func(row, tokenizer, 40) for row in data]
    assert {name: str(f.feature.dtype) for name, f in result.features.items()} == {
        "input_ids": "int32",
        "attention_mask": "int8",
        "labels": "int32",
    }
    assert tokens(data.select([]), tokenizer).features == result.features


def test_a_response_that_does_not_fit_is_an_error(tokenizer: Any, kept: Path) -> None:
    with pytest.raises(InputError) as composed:
        tokens(examples(), tokenizer, cutoff=1)
    with pytest.raises(InputError) as plain:
        tokenize_func(examples()[0], tokenizer, 1)

    assert str(composed.value) == str(plain.value)
    assert list(kept.iterdir()) == []


def test_the_same_again_is_a_hit_and_a_change_says_what_changed(
    tokenizer: Any, kept: Path, said: pytest.LogCaptureFixture
) -> None:
    first = tokens(examples(), tokenizer)
    assert "cache miss, no earlier entry" in said.text
    said.clear()
    assert tokens(examples(), tokenizer, num_proc=2).to_list() == first.to_list()
    assert "cache hit" in said.text
    assert "miss" not in said.text

    tokens(examples(), tokenizer, cutoff=32)
    assert "cache miss, cutoff_len changed" in said.text
    tokens(examples(13), tokenizer)
    assert "cache miss, data changed: these samples are new" in said.text
    said.clear()
    template = tokenizer.chat_template
    tokenizer.chat_template = template.replace("content'] +", "content'] ~")  # renders the same
    tokens(examples(), tokenizer)
    assert "cache miss, chat template's text changed" in said.text
    tokenizer.chat_template = template.replace("content'] +", "content'] + '.' +")
    tokens(examples(), tokenizer)
    assert "cache miss, chat template and chat template's text changed" in said.text


def test_a_damaged_entry_is_made_again(tokenizer: Any, kept: Path, said: pytest.LogCaptureFixture) -> None:
    whole = tokens(examples(), tokenizer).to_list()
    arrow = next(kept.glob("*/*.arrow"))
    arrow.write_bytes(arrow.read_bytes()[:-100])

    assert tokens(examples(), tokenizer).to_list() == whole
    assert "the entry is damaged" in said.text


def test_what_an_interruption_leaves_is_no_hit(tokenizer: Any, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cache, "encode_examples", interrupt)
        with pytest.raises(KeyboardInterrupt):
            tokens(examples(), tokenizer)

    assert list(kept.iterdir()) == []
    assert len(tokens(examples(), tokenizer)) == 12


def test_two_may_build_the_same_entry_at_once(tokenizer: Any, kept: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: tokens(examples(), tokenizer).to_list(), range(4)))

    assert all(result == results[0] for result in results)
    assert len(list(kept.iterdir())) == 1


def test_the_content_hash_is_of_the_rows_alone(tmp_path: Path) -> None:
    data = examples()
    path = tmp_path / "x.jsonl"
    data.to_json(path)
    again = Dataset.from_json(str(path), cache_dir=str(tmp_path / "cache"))

    assert content_hash(data) == content_hash(again)
    assert content_hash(data.select([3, 1]).select([1])) == content_hash(data.select([1]))
    assert content_hash(data.select([1, 3])) != content_hash(data.select([3, 1]))
