"""Lengths: how many tokens the samples have, before anything is trained on them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from palate import console
from palate.artifacts import MANIFEST, sha256_file, sha256_of
from palate.config import Config
from palate.console import log
from palate.errors import InputError
from palate.hub import cache_dir
from palate.progress import track
from palate.prompt.chat import Chat
from palate.stages.data import chat_of, prepare_options, prepared, ratings_of
from palate.tokens import show
from palate.tokens.lengths import Lengths, digest, lengths_path, load_lengths, measure, save_lengths

BATCH = 1000


def show_lengths(
    config: Config,
    *,
    split: str = "train",
    from_ratings: bool = False,
    examples: int = 0,
    as_json: bool = False,
    plot: Path | None = None,
) -> None:
    """Measure the `train` or `eval` examples and print what they come to, or JSON."""
    console.start_logging()
    if plot is not None and plot.suffix not in show.PLOTS:
        raise InputError(f"{plot.name!r} names no format, expected {', '.join(show.PLOTS)}", "--plot")
    chat = chat_of(config)
    source = RatingsExamples(config, split) if from_ratings else FileExamples(config, split)
    lengths = measured(source, chat)
    cutoff = config.tokens.cutoff_len
    if as_json:
        print(json.dumps(summary(lengths, config), ensure_ascii=False, indent=2))
    else:
        for number, example in enumerate(source.first(examples), start=1):
            console.out.print(show.example_panels(example, chat, cutoff, f"Example {number} of {examples}"))
        console.out.print(show.lengths_table(lengths, f"{source.name}: tokens of {config.tokenizer_name}"))
        console.out.print()
        console.out.print(show.truncation_table(lengths, cutoff))
    if plot is not None:
        show.plot_lengths(lengths, cutoff, plot, source.name)
        log.info("histogram: %s", plot)


def summary(lengths: Lengths, config: Config) -> dict[str, Any]:
    """Everything that is known of the lengths, for `--json`, the run's folder and the report."""
    cutoff = config.tokens.cutoff_len
    return {
        "tokenizer": config.tokenizer_name,
        "samples": len(lengths),
        "tokens": int(lengths.total.sum(dtype="int64")),
        "masked_share": lengths.masked_share(),
        "stats": lengths.statistics(),
        "cutoff_len": cutoff,
        "truncation": lengths.truncation(cutoff),
        "alternatives": lengths.alternatives(cutoff),
        "sha256_lengths": digest(lengths),
        "lengths": lengths.counts(),
    }


class FileExamples:
    """The examples of `train.json` or `eval.json`, in batches."""

    def __init__(self, config: Config, split: str) -> None:
        from palate.tokens.examples import load_examples

        path = config.data_path / f"{split}.json"
        # An Alpaca file of other origin has no manifest, and is taken as it is.
        if (config.data_path / MANIFEST).is_file() or not path.is_file():
            prepared(config)
        self.name = str(path)
        self.dataset = load_examples(path)
        self.identity = sha256_file(path)

    def __len__(self) -> int:
        return len(self.dataset)

    def first(self, n: int) -> list[dict[str, Any]]:
        """The first `n` examples."""
        rows: list[dict[str, Any]] = self.dataset.select(range(min(n, len(self)))).to_list()
        return rows

    def __iter__(self) -> Iterator[Sequence[Mapping[str, Any]]]:
        for start in range(0, len(self), BATCH):
            yield self.dataset.select(range(start, min(start + BATCH, len(self)))).to_list()


class RatingsExamples:
    """The same examples straight from the ratings, nothing written."""

    def __init__(self, config: Config, split: str) -> None:
        from palate.samples import build_samples

        ratings = ratings_of(config)
        self.prompt = config.prompt
        self.split = "val" if split == "eval" else split
        self.samples = build_samples(ratings, config.prepare)
        self.name = f"{ratings.name}, {split}"
        self.identity = sha256_of([dict(ratings.inputs), prepare_options(config), self.split])

    def __len__(self) -> int:
        return len(self.samples.of(self.split))

    def first(self, n: int) -> list[dict[str, Any]]:
        """The first `n` examples, at most one batch."""
        return [dict(example) for example in next(iter(self), [])][:n] if n else []

    def __iter__(self) -> Iterator[Sequence[Mapping[str, Any]]]:
        from palate.samples import iter_examples

        for chunk in iter_examples(self.samples, self.split, self.prompt):
            for batch in chunk.iter_slices(BATCH):
                yield batch.to_dicts()


def measured(source: FileExamples | RatingsExamples, chat: Chat) -> Lengths:
    """Lengths from an earlier time, or measured now with a progress bar."""
    if not len(source):
        raise InputError("has no examples to measure", source.name)
    path = lengths_path(cache_dir() / "lengths", source.identity, chat.tokenizer)
    kept = load_lengths(path)
    if kept is not None:
        log.info("lengths: measured before for the same data, tokenizer and template (%s)", path)
        return kept
    lengths = measure(track(source, len(source), "tokenizing"), chat)
    save_lengths(lengths, path)
    return lengths
