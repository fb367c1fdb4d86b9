"""The prompts of a training: draws samples from the datasets and groups them into prompts."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from palate.config import Config
from palate.errors import InputError
from palate.models.item_vectors import ItemVectors
from palate.prompt.chat import Chat
from palate.tokens.dataset import TokenDataset
from palate.tokens.packed import Longs, Packed
from palate.tokens.shared import Sequences, SharedHistory, SharedRows, group

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]


class FromBaseline(NamedTuple):
    """What a training takes from a baseline: values of all samples of a split, float64, None for what is not used.

    `vectors` are those of the items, for a prompt with `{item_vector}`.
    """

    taught: Floats | None = None
    """P(like) of each training sample, by `train.teacher`."""
    offset: Floats | None = None
    """Logit of each training sample, by `train.offset` fitted on other users."""
    evaluated: Floats | None = None
    """Logit of each validation sample, by `train.offset` fitted on training."""
    about: Mapping[str, Any] | None = None
    """The entry of `train.offset` in the adapter's `palate.json`."""
    write: Callable[[Path], None] | None = None
    """Writes the fitted baseline of `train.offset` into the adapter's folder."""
    vectors: ItemVectors | None = None
    vectors_data: str = ""
    """A hash of the data that the vectors were fitted on."""


class ShownVectors(NamedTuple):
    """The vectors of the items, and the part of the user of each sample, (samples,) int64 in the dataset's order."""

    vectors: ItemVectors
    part: Longs

    def to_users(self, first: int) -> Callable[[Packed], Packed]:
        """A function that makes training prompts show vectors without their user's ratings.

        `first` is the id of the first item's token.
        """
        return lambda packed: packed.with_items_of(self.part, first, len(self.vectors.values))


class TrainingPrompts(NamedTuple):
    """The prompts to train and evaluate on; `available` counts the samples before the draw.

    `taught` and `offset` (samples,) are those of `FromBaseline` for each sample of `train`, and `evaluated_offset` for
    each of `evaluated`, in the datasets' order. `shown` are the vectors of the items in the prompts. `rated` (samples,)
    says which samples of `train` have a rating; None: all.
    """

    train: SharedHistory
    available: int
    evaluated: SharedHistory | None
    taught: Floats | None = None
    offset: Floats | None = None
    evaluated_offset: Floats | None = None
    shown: ShownVectors | None = None
    rated: NDArray[np.bool_] | None = None

    @property
    def liked(self) -> float:
        """The share of Yes among the samples to train on that have a rating."""
        labels = self.train.source.labels
        return float((labels if self.rated is None else labels[self.rated]).mean())

    @property
    def unrated(self) -> int:
        """The number of unrated pairs to train on."""
        return 0 if self.rated is None else int((~self.rated).sum())


def prompts_of(
    config: Config,
    chat: Chat,
    train: "TokenDataset | Dataset",
    evaluated: "TokenDataset | Dataset | None",
    beside: FromBaseline = FromBaseline(),  # noqa: B008
) -> TrainingPrompts:
    """Draw `train.max_samples` rated samples and group them, and their unrated pairs, into prompts.

    Logs the positive rate.

    Raises `InputError` without training samples, and for options that do not fit the data.
    """
    if len(train) == 0:
        raise InputError("there are no training samples, expected at least one: prepare more data", config.data_path)
    options = config.train
    source = every = _sequences(config, chat, train)
    if options.unrated:
        source = every.select(np.flatnonzero(_is_rated(every)))
    available = len(source)
    before = source.labels.mean()
    if options.max_samples is not None and options.max_samples < len(source):
        rows = draw(source.labels, units(source, options.draw_by, options.targets_per_prompt), options.max_samples,
                    config.train_seed)  # fmt: skip
        source = source.select(rows)
        log.debug(
            "training on %s of %s samples, %.1f %% of them a Yes (of all: %.1f %%), drawn by %s with seed %d",
            f"{len(source):,}", f"{available:,}", 100 * source.labels.mean(), 100 * before, options.draw_by,
            config.train_seed,
        )  # fmt: skip
    else:
        log.debug("training on all %s samples, %.1f %% of them a Yes", f"{len(source):,}", 100 * before)
    rated = None
    if options.unrated:
        source = _with_unrated(every, source)
        rated = _is_rated(source)
        log.debug("and on %s unrated pairs of theirs", f"{int((~rated).sum()):,}")
    shared = SharedHistory(source, options.targets_per_prompt)
    if options.targets_per_prompt > 1:
        together, apart = int(shared.tokens(shared.pieces()).sum()), int(shared.needed.sum())
        log.debug(
            "%s prompts of up to %d targets, %.0f tokens and %.0f more a target: %s an epoch for %s, %.1f × fewer",
            f"{len(shared):,}", options.targets_per_prompt, shared.prefix.mean(),
            (shared.needed - np.repeat(shared.prefix, shared.sizes)).mean(), f"{together:,}", f"{apart:,}",
            apart / together,
        )  # fmt: skip
    taught, offset = (_of(source, values) for values in (beside.taught, beside.offset))
    part = None if beside.vectors is None else _of(source, beside.vectors.part)
    shown = None if beside.vectors is None or part is None else ShownVectors(beside.vectors, part)
    if evaluated is None or len(evaluated) == 0:
        return TrainingPrompts(shared, len(train), None, taught, offset, shown=shown, rated=rated)
    measured = _sequences(config, chat, evaluated)
    evaluated_offset = _of(measured, beside.evaluated)
    return TrainingPrompts(shared, len(train), SharedHistory(measured), taught, offset, evaluated_offset, shown, rated)


def _is_rated(source: Sequences) -> NDArray[np.bool_]:
    """Whether each sample is that of a rating, not an unrated pair, (n,) bool; raises `InputError` for other data."""
    if not isinstance(source, TokenDataset):
        raise InputError("draws items that a user never rated, which needs ratings, expected 0", "train.unrated")
    tables, split = source.tables, source.split
    is_rated: NDArray[np.bool_] = (tables.target(split) == tables.position(split))[source.numbers]
    return is_rated


def _with_unrated(every: Sequences, rated: Sequences) -> TokenDataset:
    """The samples of `every` at the rows of those of `rated`, which are drawn from them."""
    assert isinstance(every, TokenDataset)
    assert isinstance(rated, TokenDataset)
    position = every.tables.position(every.split)
    return every.select(np.flatnonzero(np.isin(position[every.numbers], position[rated.numbers])))


def _of(source: Sequences, values: NDArray[Any] | None) -> NDArray[Any] | None:
    """A split's values of a dataset's samples, in its order."""
    if values is None:
        return None
    assert isinstance(source, TokenDataset)
    return values[source.numbers]


def draw(liked: NDArray[np.bool_], unit: Longs, wanted: int, seed: int) -> Longs:
    """Draw `wanted` samples in whole units, stratified by the units' positive rate; ascending (wanted,) int64.

    `liked` is (n,) bool; `unit` (n,) int64 is the number, from 0, of each sample's unit. Units are sorted by positive
    rate, ties at random, then sampled at a fixed interval from a random offset (systematic sampling). The positive
    rate of the draw is close to that of all samples, and equal if a unit is one sample. The function adds units, or
    cuts the last one short, until there are `wanted` samples.
    """
    rng = np.random.default_rng(seed)
    size, yes = np.bincount(unit), np.bincount(unit, weights=liked)
    shuffled = rng.permutation(size.size)
    order = shuffled[np.argsort((yes / size)[shuffled], kind="stable")]
    count = min(size.size, max(1, round(wanted / size.mean())))
    chosen = order[((rng.random() + np.arange(count)) * size.size / count).astype(np.int64)]
    others = rng.permutation(np.setdiff1d(order, chosen))
    chosen = np.concatenate([rng.permutation(chosen), others])
    enough = int(np.searchsorted(np.cumsum(size[chosen]), wanted)) + 1
    place = np.full(size.size, enough)
    place[chosen[:enough]] = np.arange(min(enough, chosen.size))
    rows = np.argsort(place[unit], kind="stable")[:wanted]  # cuts the last unit short
    return np.sort(rows)


def units(source: Sequences, by: str, targets: int) -> Longs:
    """The number of each sample's unit of the draw, (n,) int64; see `TrainConfig.draw_by`."""
    n = len(source)
    if by == "sample" or (by == "prompt" and targets == 1):
        return np.arange(n)
    if not isinstance(source, TokenDataset):
        raise InputError(f"is {by!r}, expected 'sample': these examples have no user column", "train.draw_by")
    position = source.tables.position(source.split)[source.numbers]
    users = source.tables.users
    if by == "user":
        return np.unique(np.searchsorted(users, position, side="right"), return_inverse=True)[1].astype(np.int64)
    order = np.argsort(position, kind="stable")
    first = group(position[order], users, targets)
    unit = np.empty(n, np.int64)
    unit[order] = np.repeat(np.arange(first.size - 1), np.diff(first))
    return unit


def _sequences(config: Config, chat: Chat, data: "TokenDataset | Dataset | Any") -> Sequences:
    """A dataset as sequences; tokenizes Alpaca examples."""
    if isinstance(data, TokenDataset):
        return data
    from palate.tokens.cache import content_hash, preprocess_datasets_parallel

    if config.train.train_on != "response" or config.tokens.truncation != "left":
        raise InputError(
            "Alpaca files of other programs need tokens.truncation=left and train.train_on=response",
            config.data_path,
        )
    tokens = preprocess_datasets_parallel({"data": data}, chat.tokenizer, config.tokens.cutoff_len)["data"]
    columns = tokens.with_format("numpy")
    rows = list(zip(columns["input_ids"][:], columns["labels"][:], strict=True))
    return SharedRows(rows, len(chat.decision.lead), chat.decision.yes_id, content_hash(tokens))
