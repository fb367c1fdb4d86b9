"""The written folder through its readers: `load_from_disk`, Arrow alone, and what trainers make of its rows."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from datasets import Features, List, Value, load_from_disk

from palate.tokens.arrow import STATE, Chunk, write_dataset

Rows = list[tuple[list[int], list[int]]]


def rows(count: int, seed: int = 0) -> Rows:
    draw = np.random.default_rng(seed)
    ids = [draw.integers(0, 150_000, draw.integers(1, 60)).tolist() for _ in range(count)]
    return [(row, [-100] * (len(row) - 1) + row[-1:]) for row in ids]


def chunks(samples: Rows, size: int) -> Iterator[Chunk]:
    for start in range(0, len(samples), size):
        some = samples[start : start + size]
        ids, labels = (np.array([t for sample in some for t in sample[k]], np.int32) for k in range(2))
        yield ids, labels, np.cumsum([0, *(len(row) for row, _ in some)], dtype=np.int64)


def as_rows(dataset: Any) -> Rows:
    return list(zip(dataset["input_ids"], dataset["labels"], strict=True))


@pytest.mark.parametrize(("size", "shard_bytes"), [(7, 500 << 20), (7, 2000), (1000, 2000), (1, 1)])
def test_the_folder_is_read_as_what_was_written(tmp_path: Path, size: int, shard_bytes: int) -> None:
    samples = rows(100)

    assert write_dataset(tmp_path / "t", chunks(samples, size), split="train", shard_bytes=shard_bytes) == 100

    dataset = load_from_disk(str(tmp_path / "t"))
    assert as_rows(dataset) == samples
    assert dataset["attention_mask"][:] == [[1] * len(row) for row, _ in samples]
    assert dataset.features == Features(
        input_ids=List(Value("int32")), attention_mask=List(Value("int8")), labels=List(Value("int32"))
    )
    assert dataset.data.schema == dataset.features.arrow_schema
    assert dataset.split == "train"
    files = [Path(file["filename"]) for file in dataset.cache_files]  # none if it were read into memory
    assert [file.name for file in files] == [f"data-{n:05d}-of-{len(files):05d}.arrow" for n in range(len(files))]
    assert {file.name for file in (tmp_path / "t").iterdir()} == {STATE, "dataset_info.json", *(f.name for f in files)}
    longest = 9 * max(len(row) for row, _ in samples)
    assert all(file.stat().st_size < max(shard_bytes, longest) + 100 * 1024 for file in files)


def test_the_folder_is_the_one_that_the_library_would_write(tmp_path: Path) -> None:
    write_dataset(tmp_path / "ours", chunks(rows(20), 7))
    dataset = load_from_disk(str(tmp_path / "ours"))
    dataset.save_to_disk(str(tmp_path / "theirs"))

    ours, theirs = (json.loads((tmp_path / side / STATE).read_text()) for side in ("ours", "theirs"))
    assert len(ours.pop("_fingerprint")) == len(theirs.pop("_fingerprint"))  # the library hashes what was done to it
    assert ours == theirs
    ours, theirs = (json.loads((tmp_path / side / "dataset_info.json").read_text()) for side in ("ours", "theirs"))
    for column in ours["features"].values():
        assert column.pop("_type") == "Sequence"  # which 2.x and 3.x read too
    for column in theirs["features"].values():
        assert column.pop("_type") == "List"
    assert ours == theirs
    file = "data-00000-of-00001.arrow"
    with pa.OSFile(str(tmp_path / "ours" / file)) as ours, pa.OSFile(str(tmp_path / "theirs" / file)) as theirs:
        assert pa.ipc.open_stream(ours).read_all().equals(pa.ipc.open_stream(theirs).read_all())


def test_arrow_reads_a_shard_without_the_library(tmp_path: Path) -> None:
    samples = rows(20)
    write_dataset(tmp_path, chunks(samples, 7))

    with pa.memory_map(str(tmp_path / "data-00000-of-00001.arrow")) as file:
        table = pa.ipc.open_stream(file).read_all()

    assert table.num_rows == 20
    assert table["input_ids"].to_pylist() == [row for row, _ in samples]


def test_the_fingerprint_is_that_of_the_samples(tmp_path: Path) -> None:
    def fingerprint(samples: Rows, size: int) -> str:
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        write_dataset(folder, chunks(samples, size))
        return str(load_from_disk(str(folder))._fingerprint)

    samples = rows(50)
    moved = [(samples[0][0] + samples[1][0], samples[0][1] + samples[1][1]), *samples[2:]]

    same = {fingerprint(samples, 7), fingerprint(samples, 50)}
    assert len(same) == 1
    assert fingerprint(samples[::-1], 7) not in same
    assert fingerprint(moved, 7) not in same
    assert fingerprint([(row, row) for row, _ in samples], 7) not in same


def test_no_samples_are_a_dataset_too(tmp_path: Path) -> None:
    assert write_dataset(tmp_path / "t", []) == 0
    assert write_dataset(tmp_path / "u", chunks(rows(0), 5)) == 0

    dataset = load_from_disk(str(tmp_path / "t"))
    assert len(dataset) == 0
    assert dataset.column_names == ["input_ids", "attention_mask", "labels"]


def test_what_breaks_off_is_no_dataset(tmp_path: Path) -> None:
    def breaking() -> Iterator[Chunk]:
        yield from chunks(rows(10), 5)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_dataset(tmp_path, breaking(), shard_bytes=100)

    assert not (tmp_path / STATE).exists()
    assert not list(tmp_path.glob("data-*"))
    with pytest.raises(FileNotFoundError):
        load_from_disk(str(tmp_path))


def test_collators_take_the_rows(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from tests.small import small_tokenizer
    from transformers import DataCollatorForSeq2Seq
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    samples = rows(5)
    write_dataset(tmp_path, chunks(samples, 5))
    dataset = load_from_disk(str(tmp_path))
    tokenizer = small_tokenizer()
    expected = torch.full((5, max(len(row) for row, _ in samples)), -100)
    for n, (_, labels) in enumerate(samples):
        expected[n, : len(labels)] = torch.tensor(labels)

    for collator in (DataCollatorForSeq2Seq(tokenizer), DataCollatorForLanguageModeling(pad_token_id=0)):
        for rows_of in (dataset, dataset.with_format("torch"), dataset.with_format("numpy")):
            batch = collator([rows_of[n] for n in range(5)])
            assert torch.equal(batch["labels"], expected)
            assert {batch[name].dtype for name in ("input_ids", "attention_mask", "labels")} == {torch.int64}
            assert batch["attention_mask"].sum() == sum(len(row) for row, _ in samples)


MEASURE = """
import resource, sys
from pathlib import Path
import numpy as np
from palate.tokens.arrow import write_dataset

ids = np.arange(400_000, dtype=np.int32)
offsets = np.arange(0, 400_001, 400, dtype=np.int64)

def chunks(n):
    for _ in range(n):
        yield ids.copy(), ids.copy(), offsets

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

write_dataset(Path(sys.argv[1]) / "few", chunks(5), shard_bytes=4 << 20)
before = peak()
write_dataset(Path(sys.argv[1]) / "many", chunks(100), shard_bytes=4 << 20)
print(peak() - before)
"""


def test_memory_does_not_grow_with_the_samples(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True, check=True, timeout=120
    )

    written = sum(file.stat().st_size for file in (tmp_path / "many").iterdir())
    assert written > 350e6
    assert int(done.stdout) < 20e6
