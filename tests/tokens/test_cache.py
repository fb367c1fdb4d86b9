import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

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
    caplog.set_level(logging.INFO, logger="palate")
    return caplog


def tokens(data: Dataset, tokenizer: Any, folder: Path, cutoff: int = 64, num_proc: int | None = None) -> Dataset:
    return preprocess_datasets_parallel({"train": data}, tokenizer, cutoff, num_proc, folder)["train"]


def test_rows_are_those_of_tokenize_func_in_order(tokenizer: Any, tmp_path: Path) -> None:
    data = examples()
    result = tokens(data, tokenizer, tmp_path, cutoff=40)

    assert result.to_list() == [tokenize_func(row, tokenizer, 40) for row in data]
    assert {name: str(f.feature.dtype) for name, f in result.features.items()} == {
        "input_ids": "int32",
        "attention_mask": "int8",
        "labels": "int32",
    }


def test_several_processes_give_what_one_gives(tokenizer: Any, tmp_path: Path) -> None:
    data = examples(5_200)

    assert (
        tokens(data, tokenizer, tmp_path / "two", num_proc=2)["input_ids"][:]
        == tokens(data, tokenizer, tmp_path / "one", num_proc=1)["input_ids"][:]
    )


def test_the_same_again_is_a_hit_and_a_change_says_what_changed(
    tokenizer: Any, tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    first = tokens(examples(), tokenizer, tmp_path)
    assert "cache miss, nothing kept yet" in said.text
    said.clear()
    assert tokens(examples(), tokenizer, tmp_path).to_list() == first.to_list()
    assert "cache hit" in said.text
    assert "miss" not in said.text

    tokens(examples(), tokenizer, tmp_path, cutoff=32)
    assert "cache miss, cutoff_len changed" in said.text
    tokens(examples(13), tokenizer, tmp_path)
    assert "cache miss, these samples are new" in said.text
    tokenizer.chat_template = tokenizer.chat_template.replace("user", "human").replace("content'] +", "content'] ~")
    tokens(examples(), tokenizer, tmp_path)
    assert "cache miss, chat template changed" in said.text


def test_a_damaged_entry_is_made_again(tokenizer: Any, tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    whole = tokens(examples(), tokenizer, tmp_path).to_list()
    arrow = next(tmp_path.glob("*/*.arrow"))
    arrow.write_bytes(arrow.read_bytes()[:-100])

    assert tokens(examples(), tokenizer, tmp_path).to_list() == whole
    assert "the entry is damaged" in said.text


def test_what_an_interruption_leaves_is_no_hit(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: pytest.LogCaptureFixture
) -> None:
    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Dataset, "save_to_disk", interrupt)
        with pytest.raises(KeyboardInterrupt):
            tokens(examples(), tokenizer, tmp_path)

    assert list(tmp_path.iterdir()) == []
    assert len(tokens(examples(), tokenizer, tmp_path)) == 12


def test_two_may_build_the_same_entry_at_once(tokenizer: Any, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: tokens(examples(), tokenizer, tmp_path).to_list(), range(4)))

    assert all(result == results[0] for result in results)
    assert len(list(tmp_path.iterdir())) == 1


def test_the_content_hash_is_of_the_rows_alone(tmp_path: Path) -> None:
    data = examples()
    path = tmp_path / "x.jsonl"
    data.to_json(path)
    again = Dataset.from_json(str(path), cache_dir=str(tmp_path / "cache"))

    assert content_hash(data) == content_hash(again)
    assert content_hash(data.select([3, 1]).select([1])) == content_hash(data.select([1]))
    assert content_hash(data.select([1, 3])) != content_hash(data.select([3, 1]))
