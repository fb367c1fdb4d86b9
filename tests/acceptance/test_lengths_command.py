"""`palate lengths` on prepared data, on ratings and on Alpaca files of other origin, against the plain path."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.ratings import write_ratings
from tests.small import byte_level_bpe

from palate.cli import main
from palate.prompt.chat import Chat
from palate.prompt.messages import to_chat_messages
from palate.tokens.plain import IGNORED, label


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ratings, a tokenizer, and data prepared from them."""
    folder = tmp_path_factory.mktemp("lengths")
    write_ratings(folder / "ratings")
    byte_level_bpe.__wrapped__().save_pretrained(folder / "tokenizer")
    options = ["--val-ratio", "0.2", "--max-eval", "7", "--out", str(folder / "data")]
    assert main(["prepare", "--ratings", str(folder / "ratings"), *options]) == 0
    return folder


def found(folder: Path, capsys: pytest.CaptureFixture[str], *words: str, data: str = "data") -> Any:
    """What `--json` prints."""
    return json.loads(printed(folder, capsys, "--json", *words, data=data))


def printed(folder: Path, capsys: pytest.CaptureFixture[str], *words: str, data: str = "data") -> str:
    of = ["--set", f"data_dir={folder / data}", "--set", "prepare.val_ratio=0.2", "--set", "prepare.max_eval=7"]
    capsys.readouterr()
    assert main(["lengths", *of, "--tokenizer", str(folder / "tokenizer"), *words]) == 0
    return capsys.readouterr().out


def plain(folder: Path, name: str) -> list[dict[str, list[int]]]:
    chat = Chat(byte_level_bpe())
    rows = json.loads((folder / "data" / name).read_text())
    return [label(encoded, 10**6) for encoded in chat.encode_batch([to_chat_messages(row) for row in rows])]


@pytest.mark.parametrize("split", ["train", "eval"])
def test_prepared_data_is_measured_as_its_files_would_be(
    folder: Path, split: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = plain(folder, f"{split}.json")
    lengths = [len(row["input_ids"]) for row in rows]
    summary = found(folder, capsys, "--split", split)

    assert summary["lengths"] == {str(n): lengths.count(n) for n in sorted(set(lengths))}
    assert summary["tokens"] == sum(lengths)
    trained = sum(value != IGNORED for row in rows for value in row["labels"])
    assert summary["masked_share"] == pytest.approx(1 - trained / sum(lengths))
    assert summary["mask"]["trained_tokens"] == trained
    assert summary["mask"]["samples_composed"] == len(rows)


def test_ratings_and_alpaca_files_give_the_numbers_of_prepared_data(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "other").mkdir(exist_ok=True)
    for name in ("train.json", "eval.json"):
        shutil.copy(folder / "data" / name, folder / "other")
    ratings = ["--ratings", str(folder / "ratings")]
    for split in ("train", "eval"):
        summary = found(folder, capsys, "--split", split)
        assert found(folder, capsys, "--split", split, *ratings) == summary
        alpaca = found(folder, capsys, "--split", split, data="other")
        assert alpaca["sha256_lengths"] == summary["sha256_lengths"]
        assert (alpaca["masked_share"], alpaca["strategies"], alpaca["mask"]) == (summary["masked_share"], [], None)
    sizes = {split: found(folder, capsys, "--split", split)["samples"] for split in ("val", "test")}
    assert sizes == {split: found(folder, capsys, "--split", split, *ratings)["samples"] for split in sizes}
    assert sizes["val"] > 7
    other = ["--tokenizer", str(folder / "tokenizer"), "--set", f"data_dir={folder / 'other'}"]
    assert main(["lengths", *other, "--split", "val"]) == 2


def test_truncations_are_compared_at_every_cutoff_that_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lengths = [len(row["input_ids"]) for row in plain(folder, "train.json")]
    low, high = min(lengths), max(lengths) - 1
    named = ["--cutoff-len", str(high), "--cutoff-len", str(low), "--set", "tokens.truncation=history"]
    summary = found(folder, capsys, *named)

    rows = {(row["cutoff_len"], row["truncation"]): row for row in summary["strategies"]}
    assert summary["cutoff_len"] == high
    assert rows[high, "left"]["samples_cut"] == lengths.count(high + 1)
    assert rows[low, "left"]["samples_cut"] == sum(n > low for n in lengths)
    assert rows[low, "history"]["history_items_cut"] >= sum(n > low for n in lengths)
    assert "train sample" in rows[low, "right"]["refused"]
    assert rows[2048, "error"]["samples_cut"] == 0
    assert summary["mask"]["tokens"] == rows[high, "history"]["tokens"]

    text = printed(folder, capsys, *named)
    assert f"What tokens.truncation would do at {low}" in text
    assert "history ←" in text
    assert main(["lengths", "--cutoff-len", "512", "--cutoff-len", "3"]) == 2
    assert "--cutoff-len: 3 is too short" in capsys.readouterr().err


def test_what_truncation_refuses_is_measured_all_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused = ["--cutoff-len", "64", "--set", "tokens.truncation=error"]

    assert "train sample 0" in found(folder, capsys, *refused)["mask"]["refused"]
    assert "refused: train sample 0" in " ".join(printed(folder, capsys, *refused).split())


def test_examples_are_those_that_are_trained_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = plain(folder, "train.json")[0]
    size, response = len(first["input_ids"]), sum(value != IGNORED for value in first["labels"])
    cutoff = ["--cutoff-len", str(size - 20), "--show-examples", "1"]

    left = printed(folder, capsys, *cutoff)
    assert f"{size - 20} tokens: {size - 20 - response} masked" in left
    assert "Film" in left
    history = printed(folder, capsys, *cutoff, "--set", "tokens.truncation=history", "--set", "train.train_on=answer")
    assert "1 trained" in history
    assert "User's last 14 watched movies:" in history or "User's last 13 watched movies:" in history
