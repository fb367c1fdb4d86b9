"""`palate tokenize`, as a user gives it and as other programs read what it leaves."""

import hashlib
import json
import os
import signal
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from datasets import DatasetDict, load_from_disk
from tests.acceptance.ratings import write_ratings
from tests.command import palate
from tests.small import small_tokenizer

from palate.prompt.chat import Chat
from palate.prompt.messages import to_chat_messages
from palate.prompt.tokenizer import load_tokenizer
from palate.samples import iter_examples, load_prepared
from palate.store.artifacts import sha256_file
from palate.store.hub import locate

SHARED = Path(__file__).parents[2].parent / "shared"
DATA = SHARED / "data" / "ml-latest-small"
REFERENCE = SHARED / "reference" / "ml-latest-small.qwen3.json"
SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ratings(tmp_path_factory.mktemp("log") / "ratings")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    small_tokenizer().save_pretrained(folder)
    return folder


def tokenize(out: Path, ratings: Path, tokenizer: Path | str, *words: str) -> CompletedProcess[str]:
    return palate("tokenize", "--ratings", ratings, "--tokenizer", tokenizer, "--out", out, *words)


@pytest.fixture(scope="module")
def plain(log: Path, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[int]]]:
    """The ids of every sample, each tokenized whole."""
    folder = tmp_path_factory.mktemp("prepared")
    assert palate("prepare", "--ratings", log, "--out", folder).returncode == 0
    data, chat = load_prepared(folder), Chat(load_tokenizer(str(tokenizer)))
    from palate.prompt.spec import PromptSpec

    found = {}
    for split in SPLITS:
        rows = [row for chunk in iter_examples(data.samples, split, PromptSpec()) for row in chunk.to_dicts()]
        found[split] = [ids for ids, _ in chat.encode_batch([to_chat_messages(row) for row in rows])]
    return found


def arrow_rows(folder: Path) -> list[list[int]]:
    rows = []
    for file in json.loads((folder / "state.json").read_text())["_data_files"]:
        with pa.memory_map(str(folder / file["filename"])) as source:
            rows += pa.ipc.open_stream(source).read_all()["input_ids"].to_pylist()
    return rows


def test_every_reader_finds_every_sample_in_order(
    log: Path, tokenizer: Path, plain: dict[str, list[list[int]]], tmp_path: Path
) -> None:
    out = tmp_path / "T"
    done = tokenize(out, log, tokenizer, "--cutoff-len", "4096")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1

    together = load_from_disk(str(out))
    assert isinstance(together, DatasetDict)
    assert list(together) == list(SPLITS)
    for split in SPLITS:
        assert plain[split]
        assert load_from_disk(str(out / split))["input_ids"][:] == plain[split]
        assert together[split]["input_ids"][:] == plain[split]
        assert arrow_rows(out / split) == plain[split]
    manifest = json.loads((out / "manifest.json").read_text())
    files = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert files == {"manifest.json", *manifest["outputs"]}
    assert all(sha256_file(out / name) == digest for name, digest in manifest["outputs"].items())
    assert manifest["inputs"]["ratings.csv"] == sha256_file(log / "ratings.csv")
    for split in SPLITS:
        stats = manifest["stats"][split]
        assert stats["samples"] == len(plain[split])
        assert stats["tokens"] == sum(map(len, plain[split]))
        assert stats["trained_tokens"] == sum(label != -100 for row in together[split]["labels"] for label in row)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["T"]


def test_the_same_command_writes_the_same_bytes(log: Path, tokenizer: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert tokenize(tmp_path / name, log, tokenizer).returncode == 0

    a, b = ((tmp_path / name / "manifest.json").read_bytes() for name in ("a", "b"))
    assert a == b


def test_options_decide_what_is_written(
    log: Path, tokenizer: Path, plain: dict[str, list[list[int]]], tmp_path: Path
) -> None:
    cutoff = int(np.median([len(row) for row in plain["val"]]))
    options = ["--truncation", "drop", "--train-on", "answer", "--cutoff-len", str(cutoff), "--split", "val"]
    done = tokenize(tmp_path / "T", log, tokenizer, *options, "--json")
    assert done.returncode == 0, done.stderr

    told = json.loads(done.stdout)
    dataset = load_from_disk(str(tmp_path / "T"))
    assert list(dataset) == ["val"]
    assert dataset["val"]["input_ids"][:] == [row for row in plain["val"] if len(row) <= cutoff]
    trained = [[label for label in row if label != -100] for row in dataset["val"]["labels"]]
    assert {len(labels) for labels in trained} == {1}
    audit = told["stats"]["val"]["truncation"]
    assert audit["samples_dropped"] == len(plain["val"]) - len(dataset["val"]) > 0
    assert told["stats"]["val"]["trained_tokens"] == len(dataset["val"])
    assert told["options"]["truncation"] == "drop"
    assert told["folder"] == str(tmp_path / "T")


def test_prepared_data_of_a_config_gives_the_same(
    log: Path, tokenizer: Path, plain: dict[str, list[list[int]]], tmp_path: Path
) -> None:
    recipe = {
        "run_dir": str(tmp_path / "run"),
        "ratings": {"source": str(log)},
        "tokens": {"tokenizer": str(tokenizer), "cutoff_len": 4096},
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(recipe))

    done = palate("tokenize", "--config", tmp_path / "c.yaml")
    assert done.returncode == 0, done.stderr

    written = load_from_disk(str(tmp_path / "run" / "tokens"))
    assert {split: written[split]["input_ids"][:] for split in SPLITS} == plain
    assert (tmp_path / "run" / "data" / "manifest.json").is_file()


def test_an_earlier_one_is_replaced_whole(log: Path, tokenizer: Path, tmp_path: Path) -> None:
    out = tmp_path / "T"
    assert tokenize(out, log, tokenizer).returncode == 0
    (out / "train" / "cache-0123456789abcdef.arrow").write_bytes(b"of a map over the old one")
    assert tokenize(out, log, tokenizer, "--split", "test").returncode == 0

    assert sorted(p.name for p in out.iterdir()) == ["dataset_dict.json", "manifest.json", "test"]
    assert [p.name for p in tmp_path.iterdir()] == ["T"]


def test_a_split_without_samples_is_an_empty_dataset(log: Path, tokenizer: Path, tmp_path: Path) -> None:
    done = tokenize(tmp_path / "T", log, tokenizer, "--set", "prepare.val_ratio=0")
    assert done.returncode == 0, done.stderr

    dataset = load_from_disk(str(tmp_path / "T"))
    assert len(dataset["val"]) == 0
    assert dataset["val"].features == dataset["train"].features


def refused(done: CompletedProcess[str], *words: str) -> None:
    error = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2, done.stderr
    assert error == done.stderr.splitlines()[-1:]
    assert all(word in error[0] for word in words), error
    assert done.stdout == ""


def test_wrong_input_is_told_in_a_line_and_nothing_is_written(log: Path, tokenizer: Path, tmp_path: Path) -> None:
    out = tmp_path / "T"
    (tmp_path / "file").write_text("mine")

    refused(tokenize(out, log, "no-such-tokenizer"), "no-such-tokenizer", "no such tokenizer")
    refused(tokenize(out, tmp_path / "none", tokenizer), "none")
    for truncation, why in (("history", "without a history"), ("right", "response"), ("error", "to fit")):
        short = tokenize(out, log, tokenizer, "--cutoff-len", "90", "--truncation", truncation)
        refused(short, "train sample 0", "Film", "cutoff_len is 90", why)
    refused(tokenize(out, log, tokenizer, "--cutoff-len", "7"), "--cutoff-len", "7", "8")
    refused(tokenize(out, log, tokenizer, "--truncation", "top"), "--truncation", "'top'", "'left'")
    refused(tokenize(tmp_path / "file" / "T", log, tokenizer), "file", "expected a folder")
    refused(tokenize(tmp_path / "file", log, tokenizer), "file", "expected a folder")
    refused(palate("tokenize", "--tokenizer", tokenizer, "--out", out, cwd=tmp_path), "runs/palate/data")
    if os.geteuid() != 0:  # to whom everything is open
        (tmp_path / "closed").mkdir(mode=0o500)
        refused(tokenize(tmp_path / "closed" / "T", log, tokenizer), "closed", "cannot be written")

    assert not out.exists()
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "closed") == ["file"]


def test_what_is_not_ours_is_left_alone(log: Path, tokenizer: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert palate("prepare", "--ratings", log, "--out", other).returncode == 0
    before = {p.name: p.stat().st_mtime_ns for p in other.iterdir()}
    refused(tokenize(other, log, tokenizer), "other: holds dataset_info.json", "palate tokenize")
    assert {p.name: p.stat().st_mtime_ns for p in other.iterdir()} == before

    out = tmp_path / "T"
    out.mkdir()
    assert tokenize(out, log, tokenizer).returncode == 0
    (out / "train" / "notes.txt").write_text("mine")
    refused(tokenize(out, log, tokenizer), "T: holds train/notes.txt")
    assert len(load_from_disk(str(out))) == 3


@pytest.mark.parametrize("earlier", [False, True])
def test_ctrl_c_leaves_what_was_there(
    earlier: bool, log: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C between the first split's samples and what comes after them, however fast the machine."""
    out = tmp_path / "out" / "T"
    if earlier:
        assert tokenize(out, log, tokenizer, "--split", "val").returncode == 0
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    rename = os.rename

    def interrupt(old: Any, new: Any, **where: Any) -> None:
        if os.fspath(new).endswith("train/data-00000-of-00001.arrow"):
            os.kill(os.getpid(), signal.SIGINT)
        rename(old, new, **where)

    monkeypatch.setattr(os, "rename", interrupt)
    done = tokenize(out, log, tokenizer)

    assert done.returncode == 130, done.stderr
    assert done.stderr.splitlines()[-1] == "interrupted; nothing half-written was kept"
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before
    assert [p.name for p in out.parent.iterdir()] == (["T"] if earlier else [])


@pytest.mark.skipif(not REFERENCE.is_file() or not DATA.is_dir(), reason="../shared is not beside the project")
@pytest.mark.skipif(locate("qwen3", tokenizer=True).path is None, reason="the data package of qwen3 is absent")
def test_every_token_of_ml_latest_small_is_the_references(tmp_path: Path) -> None:
    reference = json.loads(REFERENCE.read_text(encoding="utf-8"))
    done = tokenize(tmp_path / "T", DATA, "qwen3")
    assert done.returncode == 0, done.stderr

    for split in SPLITS:
        ids, lengths, expected = hashlib.sha256(), hashlib.sha256(), reference[split]
        column = load_from_disk(str(tmp_path / "T" / split)).data["input_ids"]
        for chunk in column.chunks:
            ids.update(chunk.flatten().to_numpy().astype("<i4").tobytes())
            lengths.update(chunk.value_lengths().to_numpy().astype("<i4").tobytes())
        assert len(column) == expected["samples"]
        assert ids.hexdigest() == expected["sha256_input_ids"]
        assert lengths.hexdigest() == expected["sha256_lengths"]
