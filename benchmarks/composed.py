"""Palate's way to tokens, in the pieces that the benchmarks time; each is called in a fresh process.

Libraries, tokenizer and compiled kernel are loaded beforehand; nothing of the data is: the cache is empty.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from baselines import CUTOFF, Inputs, Run, Tokens, memcpy
from palate.config import PrepareConfig
from palate.prompt.chat import Chat
from palate.prompt.spec import PromptSpec
from palate.prompt.tokenizer import load_tokenizer
from palate.ratings.load import load_ratings
from palate.samples import build_samples
from palate.samples.split import SPLITS
from palate.tokens.dataset import Options, TokenDataset, token_datasets
from palate.tokens.tables import Plain
from report import clock, private_memory

BATCH = 32


@contextmanager
def cold(inputs: Inputs) -> Iterator[tuple[Chat, Path]]:
    """A tokenizer, and an empty cache of its own."""
    import polars
    import torch  # noqa: F401 - as every process that trains has

    from palate.tokens import kernel, tables

    chat = Chat(load_tokenizer(inputs.tokenizer))
    _ = chat.decision
    polars.DataFrame({"a": [1]}).lazy().collect()  # starts its threads
    nothing, ids = np.zeros(0, np.int64), np.zeros(kernel.BLOCK, np.int32)
    kept = np.zeros(0, np.int32)
    f, plain = tables.NO_FRAGMENTS, tables.Plain.none()
    word = f.start
    tables.sample_lengths(word, f, nothing, 0)
    kernel.compose(
        word, nothing, nothing, nothing, nothing, f.steps, f.first, f.start, f.length, f.tokens, plain.start,
        plain.tokens, kept, kept, 0, kept, -1, ids, ids[:0], nothing,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PALATE_CACHE_DIR"] = folder
        yield chat, Path(folder)


def ready(inputs: Inputs, chat: Chat, memory: int | None = None) -> dict[str, TokenDataset]:
    """From `ratings.csv` to datasets that can be asked."""
    ratings = load_ratings(inputs.ratings, memory=memory)
    samples = build_samples(ratings, PrepareConfig())
    data = {"ratings": dict(ratings.inputs)}
    found = token_datasets(samples, PromptSpec(), chat, Options(CUTOFF), data=data, name=ratings.name)
    left = inputs.limit
    if left is None:
        return found
    for split in SPLITS:
        found[split] = found[split].select(np.arange(min(left, len(found[split]))))
        left -= len(found[split])
    return found


def palate_path(inputs: Inputs) -> Run:
    """Ratings to tables, then every sample composed once, a thousand at a time: ids, attention mask, labels."""
    with cold(inputs) as (chat, folder):
        with clock() as work:
            with clock() as building:
                datasets = ready(inputs, chat)
            for split in SPLITS:
                for batch in datasets[split].batches(1000):
                    ids, labels, _ = datasets[split].ragged(batch)
                    mask = np.ones(ids.size, np.int8)
                    assert ids.size == labels.size == mask.size
        parts = [datasets[split].ragged() for split in SPLITS]
        notes = {"disk_bytes": size(folder), "ready_seconds": building.seconds}
        return Run(gathered(parts), work, notes)


def palate_lengths(inputs: Inputs) -> Run:
    """Ratings to the statistics of `palate lengths`, nothing composed."""
    with cold(inputs) as (chat, folder):
        with clock() as work:
            datasets = ready(inputs, chat)
            lengths = [datasets[split].whole_lengths for split in SPLITS]
            statistics = [of_split.statistics() for of_split in lengths if len(of_split)]
        notes = {"disk_bytes": size(folder), "statistics": statistics}
        return Run(Tokens(np.concatenate([of_split.total for of_split in lengths])), work, notes)


def kernel_times(inputs: Inputs, repeats: int = 7) -> dict[str, list[float]]:
    """Seconds of composing all samples into memory that is there, and of copying as much; one thread."""
    from palate.tokens import kernel

    with cold(inputs) as (chat, _):
        dataset = ready(inputs, chat)["train"]
        ids, offsets = dataset.ids()
        whole = np.diff(offsets).astype(np.int32)
        response, tables = dataset.whole_lengths.response, dataset.tables
        f = tables.fragments
        assert f is not None
        position = np.array(tables.position("train")[: whole.size])
        items = np.full(whole.size, tables.history_len, np.int64)
        plain, nothing = np.full(whole.size, -1, np.int64), Plain.none()
        out = np.zeros(ids.size + kernel.BLOCK, np.int32)
        labels, mask = np.zeros(ids.size, np.int32), np.zeros(ids.size, np.int8)
        found: dict[str, list[float]] = {"ids": [], "ids, labels, mask": []}
        for _ in range(repeats):
            for what, written in (("ids", labels[:0]), ("ids, labels, mask", labels)):
                with clock() as work:
                    kernel.compose(
                        tables.word, position, position, items, plain, f.steps, f.first, f.start, f.length, f.tokens,
                        nothing.start, nothing.tokens, whole, whole, 0, response, -1, out, written, offsets,
                    )  # fmt: skip
                    if written.size:
                        mask.fill(1)
                found[what].append(work.seconds)
        assert np.array_equal(out[: ids.size], ids)
        found["copy of the ids"] = memcpy(ids, repeats)
        copies = zip(memcpy(ids, repeats), memcpy(labels, repeats), memcpy(mask, repeats), strict=True)
        found["copy of ids, labels, mask"] = [sum(each) for each in copies]
        return found


def loader_times(inputs: Inputs, batches: int = 300) -> dict[str, list[float]]:
    """Seconds of a shuffled batch of 32 from torch's DataLoader in the training process, composed and collated."""
    from torch.utils.data import DataLoader
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    with cold(inputs) as (chat, _):
        dataset = ready(inputs, chat)["train"]
        collate = {"composed": list, "composed and padded by TRL": DataCollatorForLanguageModeling(pad_token_id=0)}
        found: dict[str, list[float]] = {}
        for name, function in collate.items():
            loader = iter(DataLoader(dataset, BATCH, shuffle=True, collate_fn=function))
            next(loader)
            found[name] = []
            for _ in range(min(batches, len(dataset) // BATCH - 1)):
                with clock() as work:
                    next(loader)
                found[name].append(work.seconds)
        return found


def grow(ratings: str, tokenizer: str, memory: int | None) -> Mapping[str, Any]:
    """Ratings to ready datasets, nothing composed: seconds, peak memory, disk, and of what size."""
    inputs = Inputs(Path(), Path(), tokenizer, 1, ratings, None)
    with cold(inputs) as (chat, folder):
        with clock() as work, private_memory() as private:
            datasets = ready(inputs, chat, memory)
        samples = sum(map(len, datasets.values()))
        tokens = sum(int(dataset.lengths.sum(dtype=np.int64)) for dataset in datasets.values())
        found = {"seconds": work.seconds, "processor": work.processor, "peak": work.peak, "private": private[0]}
        found |= {"disk": size(folder), "samples": samples, "tokens": tokens}
        return found | {"unproved": sum(datasets["train"].tables.meta["plain"].values())}


def read_csv(path: str) -> tuple[float, float]:
    """Seconds, and seconds of all threads, that Polars takes to read the ratings' CSV and nothing else."""
    import polars

    polars.DataFrame({"a": [1]}).lazy().collect()
    with clock() as work:
        frame = polars.read_csv(path)
    assert frame.height
    return work.seconds, work.processor


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def gathered(parts: list[Any]) -> Tokens:
    lengths = np.concatenate([np.diff(part.offsets) for part in parts]).astype(np.int32)
    ids, labels = (np.concatenate([part[n] for part in parts]) for n in (0, 1))
    return Tokens(lengths, ids, labels)
