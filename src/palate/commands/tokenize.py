"""Tokenize: the token datasets written out, for trainers that read them from disk."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from palate import console
from palate.commands.prepare import (
    chat_of,
    evaluation_part,
    portable_options,
    prepared,
    sample_ids,
    samples_of,
    scored_tokens,
    token_options,
    tokens_of,
)
from palate.commands.signals import signalled
from palate.config import Config
from palate.console import log
from palate.errors import WorkError
from palate.progress import track
from palate.prompt.tokenizer import tokenizer_identity
from palate.samples.prepared import TABLES
from palate.samples.split import SPLITS
from palate.store.artifacts import atomic_folder, write_json, write_manifest
from palate.store.places import check_folder
from palate.tokens.arrow import TOKEN_BYTES, Chunk, describe, write_dataset
from palate.tokens.dataset import Options, TokenDataset, token_datasets
from palate.tokens.portable import STAGE as PORTABLE
from palate.tokens.portable import write_portable

STAGE = "tokenize"


def tokenize(
    config: Config,
    out: Path | None = None,
    *,
    splits: Sequence[str] | None = None,
    from_ratings: bool = False,
    as_json: bool = False,
) -> dict[str, Any]:
    """Write the token datasets of some splits (None: all) to `out`, and return the manifest.

    Each split is a folder that `datasets.load_from_disk` reads, users ascending, then time; `out` itself is a
    `DatasetDict`. It takes the place of an earlier one when all is written. Raises `InputError` if `out` holds
    anything else, and as `token_datasets` does.
    """
    console.start_logging()
    out = (out or config.run_path / "tokens").expanduser().resolve()
    check_folder(out, "palate tokenize", (STAGE, PORTABLE))
    wanted = [split for split in SPLITS if splits is None or split in splits]
    chat = chat_of(config)
    options = token_options(config)
    if from_ratings:
        samples, made_from, name = samples_of(config)
        samples, more = signalled(config, samples)
        made_from |= more
        datasets = token_datasets(samples, config.prompt, chat, options, data=made_from, name=name, splits=wanted)
        inputs = made_from.pop("ratings")
    else:
        data = prepared(config)
        made_from, name = data.manifest["options"]["prepare"], data.manifest["stats"]["name"]
        datasets = tokens_of(config, data, chat, wanted)
        inputs = {table: data.manifest["outputs"][table] for table in TABLES}
    if config.prompt.names_vectors:
        log.warning("the tokens of items have ids above the tokenizer's: a trainer must add %s embeddings for them",
                    f"{next(iter(datasets.values())).chat.items:,}")  # fmt: skip
    stats = {split: _stats(dataset) for split, dataset in datasets.items()}
    with atomic_folder(out, whole=True) as folder:
        _check_space(out, folder, sum(each["tokens"] for each in stats.values()))
        for split, dataset in datasets.items():
            description = f"{name}, {split}: tokens of {config.tokenizer_name}"
            about: dict[str, Any] = {"split": split, "name": name, "description": description}
            if config.engine.name == "ray":
                from palate.cluster.tokens import write_shards

                describe(folder / split, write_shards(folder / split, dataset, config.engine), **about)
            else:
                write_dataset(folder / split, _chunks(dataset), **about)
        write_json(folder / "dataset_dict.json", {"splits": wanted})
        log.info("hashing what was written")
        manifest = write_manifest(
            folder,
            STAGE,
            inputs={**inputs, **tokenizer_identity(chat.tokenizer)},
            options={
                "prepare": made_from,
                "prompt": config.prompt.model_dump(mode="json"),
                "tokenizer": config.tokenizer_name,
                **asdict(options),
            },
            stats=stats,
        )
    if as_json:
        console.print_json({"folder": str(out), **manifest})
    else:
        _tell(out, stats, options)
    return manifest


def _check_space(out: Path, folder: Path, tokens: int) -> None:
    """Raise `WorkError` if the disk of `folder` has no room for the tokens."""
    free = shutil.disk_usage(folder).free
    if free < tokens * TOKEN_BYTES:
        need = f"{tokens * TOKEN_BYTES / 1e9:.1f} GB are needed for {tokens:,} tokens"
        raise WorkError(f"{out}: cannot be written: {need}, {free / 1e9:.1f} GB are free")


def _tell(out: Path, stats: Mapping[str, Mapping[str, Any]], options: Options) -> None:
    """Print what was written, and log what truncation took."""
    each = ", ".join(f"{found['samples']:,} {split}" for split, found in stats.items())
    tokens = sum(found["tokens"] for found in stats.values())
    line = f"tokenized {each} samples in {out}: {tokens:,} tokens"
    console.out.print(line, highlight=False, soft_wrap=True)
    for split, found in stats.items():
        lost = found["truncation"]
        if lost["samples_cut"]:
            what = "left out" if options.truncation == "drop" else f"cut ({options.truncation})"
            log.warning(
                "%s: %s samples are over %d tokens and were %s, %s tokens in all",
                *(split, f"{lost['samples_cut']:,}", options.cutoff_len, what, f"{lost['tokens_cut']:,}"),
            )


def tokenize_portable(config: Config, out: Path | None = None, *, as_json: bool = False) -> dict[str, Any]:
    """Write the portable token folder of the config's prepared data to `out`, and return its manifest.

    It holds what `palate train` and `palate score` need where there is neither Polars nor the ratings.
    """
    console.start_logging()
    out = (out or config.run_path / "portable").expanduser().resolve()
    check_folder(out, "palate tokenize", (STAGE, PORTABLE))
    chat = chat_of(config)
    data = prepared(config)
    tokens = tokens_of(config, data, chat, ("train", "val"))
    datasets = {
        "train": tokens["train"],
        "eval": evaluation_part(config, tokens["val"]),
        "test": scored_tokens(config, data, chat)["test"],
    }
    with atomic_folder(out, whole=True) as folder:
        options = portable_options(config) | {"tokenizer": config.tokenizer_name}
        manifest = write_portable(folder, datasets, sample_ids(data), chat, options, data.manifest)
    if as_json:
        console.print_json({"folder": str(out), **manifest})
        return manifest
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    each = ", ".join(f"{len(dataset):,} {name}" for name, dataset in datasets.items())
    line = f"wrote {each} samples to {out}: {size / 1e6:.1f} MB; train with `palate train --config … --data {out.name}`"
    console.out.print(line, highlight=False, soft_wrap=True)
    return manifest


def _stats(dataset: TokenDataset) -> dict[str, Any]:
    """What is written of a split, and what truncation took from the whole of it."""
    trained = len(dataset) if dataset.options.train_on == "answer" else dataset.whole_lengths.response.sum()
    return {
        "samples": len(dataset),
        "tokens": int(dataset.lengths.sum(dtype="int64")),
        "trained_tokens": int(trained),
        "truncation": dataset.audit(),
    }


def _chunks(dataset: TokenDataset) -> Iterator[Chunk]:
    for batch in track(dataset.batches(), len(dataset), f"writing {dataset.split}"):
        yield dataset.ragged(batch)
