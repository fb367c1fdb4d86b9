"""The option --data: the config for tables with splits, and Alpaca files to train on and to score."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError

from palate.commands.data_path import EXPECTED, DataPath, source_of
from palate.commands.prepare import prepare_data, ratings_of
from palate.config import Config
from palate.console import log
from palate.errors import InputError
from palate.store.artifacts import MANIFEST
from palate.store.keys import recorded
from palate.store.manifest import PREPARE_AGAIN, SamplesManifest, read_manifest
from palate.validation import wrong

if TYPE_CHECKING:
    from datasets import Dataset

    from palate.alpaca.reader import AlpacaFile

Section = TypeVar("Section", bound=BaseModel)

LABEL_LINE = "{n}. {title} ({rating:liked|disliked})"
"""The history line for tables of labels, which have no ratings."""
LABEL_THRESHOLD = 0.5


def adopted(config: Config, given: str | None = None) -> Config:
    """The config for the data that `data_dir` names; keeps values that the user set.

    Of Alpaca files the answers are taken, of tables that they have splits, and whether they have labels; the
    latter are prepared into the run's folder. A folder that was prepared from such tables has options of its own.
    `given` is the path as it was typed, which must hold something. Raises `InputError` for data that cannot be read.
    """
    if config.data_dir is None:
        return config
    path = Path(config.data_dir)
    if given is not None and not path.exists():
        raise InputError(f"does not exist, {EXPECTED}", path)
    source = source_of(path)
    if source is None:
        if given is not None and not (path / MANIFEST).is_file():
            raise InputError(f"holds no data that Palate reads, {EXPECTED}", path)
        return _of_manifest(config)
    named = _named(config, source)
    if source.kind == "tables":
        found = of_tables(named.model_copy(update={"data_dir": None}), source.path)
        _prepare_again_if_changed(found)
        return found
    from palate.alpaca.answers import Answers, answers_of

    files = read_files(source)
    if named.prompt.signals:
        raise InputError(
            f"names {{{named.prompt.signal_fields[0]}}}, which Alpaca files do not have, as their prompts are text "
            "already: expected a line without it",
            "prompt.candidate_line",
        )
    answers = answers_of(list(files.values()), Answers(config.prompt.yes, config.prompt.no))
    return named.model_copy(update={"prompt": config.prompt.model_copy(update=answers._asdict())})


def of_tables(config: Config, path: Path) -> Config:
    """The config that prepares tables with splits: their path, and for labels the threshold and history line."""
    from palate.ratings.splits import SCALE_OF_LABELS

    config = config.model_copy(
        update={
            "ratings": config.ratings.model_copy(update={"source": str(path)}),
            "prepare": config.prepare.model_copy(update={"split": "given"}),
        }
    )
    if ratings_of(config).scale != SCALE_OF_LABELS:
        return config
    return config.model_copy(
        update={
            "prepare": _unless_set(config.prepare, {"rating_threshold": LABEL_THRESHOLD}),
            "prompt": _unless_set(config.prompt, {"history_line": LABEL_LINE}),
        }
    )


def to_prepare(config: Config, path: Path) -> Config:
    """The config for `palate prepare --data`; raises `InputError` for data that need no preparing."""
    if not path.exists():
        raise InputError("does not exist, expected tables with splits", path)
    source = source_of(path)
    if source is None or source.kind == "alpaca":
        what = "is ready" if source is not None or (path / MANIFEST).is_file() else "holds no tables with splits"
        remedy = "give it to train and evaluate as --data" if what == "is ready" else "expected train, valid and test"
        raise InputError(f"{what}: {remedy}", path)
    return of_tables(_named(config, source), source.path)


def alpaca_of(config: Config) -> DataPath | None:
    """The Alpaca files that the config's data are; None if they are something else."""
    source = source_of(Path(config.data_dir)) if config.data_dir is not None else None
    return source if source is not None and source.kind == "alpaca" else None


def training_data(config: Config, source: DataPath) -> "tuple[Dataset, Dataset | None]":
    """The training examples of Alpaca files, and at most `prepare.max_eval` validation examples."""
    from datasets import Dataset

    from palate.alpaca.answers import Answers, labels_of, written
    from palate.samples.export import draw

    if "train" not in source.files:
        raise InputError("holds no training examples, expected a folder with train.json", source.path)
    answers = Answers(config.prompt.yes, config.prompt.no)
    found = {}
    for split, file in read_files(source).items():
        frame = file.frame.with_columns(written(labels_of(file.frame, answers), answers))
        if split == "val" and frame.height > config.prepare.max_eval:
            frame = frame[draw(np.arange(frame.height), config.prepare.max_eval, config.seed)]
        found[split] = Dataset.from_polars(frame.drop("user_id", "item_id", strict=False))
    return found["train"], found.get("val")


def read_files(source: DataPath) -> "dict[str, AlpacaFile]":
    """Read the Alpaca files by split; raises `InputError` for their first defect."""
    from palate.alpaca.reader import read_alpaca

    return {split: read_alpaca(path) for split, path in source.files.items()}


def _of_manifest(config: Config) -> Config:
    """The options of a folder that was prepared from tables with splits or likes, where the config sets no others."""
    path = config.data_path / MANIFEST
    options = read_manifest(path, PREPARE_AGAIN, SamplesManifest)["options"] if path.is_file() else {}
    reading = options.get("ratings", {})
    likes = {name: reading[name] for name in ("likes", "negatives_per_like") if name in reading}
    if not isinstance(options.get("prepare"), dict) or (options["prepare"].get("split") != "given" and not likes):
        return config
    found = {name: options[name] for name in ("prepare", "prompt")} | ({"ratings": likes} if likes else {})
    try:
        return config.model_copy(update={name: _unless_set(getattr(config, name), found[name]) for name in found})
    except ValidationError as error:
        raise InputError(f"options: {' '.join(wrong(error.errors()[0]))}; {PREPARE_AGAIN}", path) from None


def _unless_set(section: Section, values: dict[str, Any]) -> Section:
    """A section with these values, except for keys that the user set."""
    unset = {name: value for name, value in values.items() if name not in section.model_fields_set}
    return type(section).model_validate(section.model_dump() | unset)


def _named(config: Config, source: DataPath) -> Config:
    """The config with the data's name, unless it has one of its own: a run for each data set that is tried."""
    name = re.sub(r"[^\w.-]", "-", source.name) or "palate"
    return config if "name" in config.model_fields_set else config.model_copy(update={"name": name})


def _prepare_again_if_changed(config: Config) -> None:
    """Prepare the run's data again if the tables changed."""
    path = config.data_path / MANIFEST
    if path.is_file() and recorded(path).get("inputs") != dict(ratings_of(config).inputs):
        log.info("again: the tables changed")
        prepare_data(config)
