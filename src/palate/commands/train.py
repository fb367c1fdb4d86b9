"""Train: fine-tune the base model on the prepared data."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palate import console
from palate.cluster.training import in_workers
from palate.commands.item_vectors import vectors_for_training
from palate.commands.prepare import (
    baseline_data,
    check_model,
    evaluation_part,
    kept_baselines,
    portable,
    prepared,
    tokens_of,
)
from palate.commands.unrated import rated_sample, taught, tokens_with_unrated
from palate.config import Config, write_config
from palate.errors import InputError
from palate.models.adapter import check_own, pin
from palate.models.load import model_folder
from palate.prompt.chat import Chat
from palate.prompt.item_tokens import FIELD
from palate.store.artifacts import MANIFEST, sweep, writing
from palate.store.places import LOG
from palate.train.processes import join, leave

if TYPE_CHECKING:
    from palate.train.training_prompts import FromBaseline


def train(config: Config) -> Path:
    """Fine-tune on the prepared data, with each seed; returns the adapter's folder, `adapter` in the run's."""
    console.start_logging()
    if config.engine.name == "local":
        return train_here(config)
    adapter: Path = in_workers(partial(train_here, config), config.engine, config.run_path)
    return adapter


def train_here(config: Config) -> Path:
    """As `train`, in this process, which may be one of several."""
    processes = join()
    check_own(config.run_path / "adapter")
    with processes.in_turn():
        chat = check_model(config)
        train, evaluated, manifest = _training_data(config, chat)
        beside = _beside(config)
        from palate.commands.seeds import train_seeds
        from palate.plan.predict import fitted
        from palate.train.finetune import train as finetune

        model_folder(config.model)
    if processes.is_first:
        begin(config, config.run_path)
    if config.train.seeds > 1:
        adapter = train_seeds(config, train, evaluated, manifest, beside)
    else:
        result = finetune(
            config,
            train,
            evaluated,
            config.run_path,
            beside=beside,
            data_manifest=manifest,
            console=console.err,
            fitted=fitted,
        )
        adapter = result.adapter
    if processes.is_first:
        pin(config.run_path)
    leave()
    return adapter


def _training_data(config: Config, chat: Chat) -> tuple[Any, Any, dict[str, Any] | None]:
    """What to train on, what to evaluate on, and the manifest of both."""
    carried = portable(config, chat)
    if carried is not None:
        return carried.dataset("train", chat), carried.dataset("eval", chat), carried.data_manifest
    from palate.commands import data_option

    alpaca = data_option.alpaca_of(config)
    if alpaca is not None:
        return *data_option.training_data(config, alpaca), None
    data = prepared(config)
    tokens = tokens_of(config, data, chat, ("train", "val"))
    train = tokens["train"]
    if config.train.unrated:
        train = tokens_with_unrated(config, data.samples, chat, str(data.manifest["stats"]["name"]))
    return train, evaluation_part(config, tokens["val"]), data.manifest


def _beside(config: Config) -> "FromBaseline | None":
    """What `train.teacher`, `train.offset` and `{item_vector}` take from the ratings; None without any of them."""
    found = _from_baseline(config)
    if not config.prompt.names_vectors:
        return found
    _check_ratings(config, f"prompt: {{{FIELD}}}", "another prompt")
    from palate.train.training_prompts import FromBaseline

    ratings = prepared(config)
    vectors, data = vectors_for_training(config, ratings)
    if config.train.unrated:
        vectors = replace(vectors, part=vectors.part[rated_sample(config, ratings.samples)])
    return (found or FromBaseline())._replace(vectors=vectors, vectors_data=data)


def _check_ratings(config: Config, option: str, expected: str) -> None:
    """Raise `InputError` for data without ratings."""
    from palate.commands import data_option
    from palate.tokens.portable import is_portable

    if is_portable(config.data_path) or data_option.alpaca_of(config) is not None:
        raise InputError(f"learns from ratings, which {config.data_path} does not have, expected {expected}", option)


def _from_baseline(config: Config) -> "FromBaseline | None":
    """What `train.teacher` or `train.offset` says of the samples; None without either."""
    teacher, offset = config.train.teacher, config.train.offset
    option, key = ("train.teacher", teacher) if teacher is not None else ("train.offset", offset)
    if key is None:
        return None
    _check_ratings(config, option, "null")
    from palate.baselines.registry import RANKERS, cross_fitted
    from palate.commands.correction import offset_training
    from palate.train.training_prompts import FromBaseline

    if RANKERS[key].lacks_package:
        raise InputError(f"{key} needs {RANKERS[key].needs}: pip install 'palate[train]'", option)
    data = prepared(config)
    known, kept = baseline_data(config, data, text=RANKERS[key].reads_text), kept_baselines(config, data)
    if config.train.unrated:
        return FromBaseline(taught=taught(config, known, kept))
    apart = cross_fitted(RANKERS[key], known, kept)
    return FromBaseline(taught=apart) if teacher is not None else offset_training(config, data, known, apart)


def begin(config: Config, folder: Path) -> None:
    """Open a folder of results: the log, and the resolved config unless `palate run` left its own.

    What killed processes left hidden in it and in the run's goes.
    """
    console.start_logging(folder / LOG)
    for left in {folder, config.run_path}:
        with writing(left):
            sweep(left)
    if not (folder / MANIFEST).is_file():
        write_config(config, folder / "config.yaml")
