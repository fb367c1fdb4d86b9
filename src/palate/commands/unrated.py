"""Unrated pairs: the tokens of a training that has some, and the teacher's probabilities of them."""

from typing import TYPE_CHECKING

from palate.commands.prepare import token_options
from palate.config import Config
from palate.prompt.chat import Chat

if TYPE_CHECKING:
    from palate.baselines.kept import Kept
    from palate.baselines.statistics import BaselineData
    from palate.samples.build import Samples
    from palate.samples.queries import Scores
    from palate.tokens.dataset import TokenDataset
    from palate.tokens.packed import Longs


def tokens_with_unrated(config: Config, samples: "Samples", chat: Chat, name: str) -> "TokenDataset":
    """The training samples, each followed by its unrated pairs; `samples` have the signals that the prompt names."""
    from palate.baselines.signals import signals_in_training
    from palate.commands.signals import signal_data
    from palate.samples.unrated import unrated_pairs, with_signals
    from palate.tokens.dataset import token_datasets

    both = _with_unrated(config, samples)
    if samples.signals is not None:
        pairs = signals_in_training(signal_data(config, samples), config.prompt, unrated_pairs(both))
        both = with_signals(both, samples.signals, pairs)
    name = f"{name}, unrated pairs"
    return token_datasets(both, config.prompt, chat, token_options(config), name=name, splits=("train",))["train"]


def taught(config: Config, known: "BaselineData", kept: "Kept") -> "Scores":
    """P(like) by the teacher of each sample of `tokens_with_unrated`, float64 (n,), by a fit on other users."""
    from palate.baselines.registry import RANKERS, cross_fitted
    from palate.samples.queries import Queries

    assert config.train.teacher is not None
    queries = Queries.of_samples(_with_unrated(config, known.samples), "train")
    return cross_fitted(RANKERS[config.train.teacher], known, kept, queries=queries)


def rated_sample(config: Config, samples: "Samples") -> "Longs":
    """The training sample at whose time each sample of `tokens_with_unrated` is, (n,) int64."""
    from palate.samples import unrated

    return unrated.rated_sample(_with_unrated(config, samples))


def _with_unrated(config: Config, samples: "Samples") -> "Samples":
    from palate.samples.unrated import with_unrated

    return with_unrated(samples, config.train.unrated, config.seed)
