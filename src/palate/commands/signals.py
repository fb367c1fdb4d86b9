"""Signals: compute the fields of the prompt that depend on user and candidate, for samples and for questions."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from palate import __version__
from palate.config import READS_TEXT, Config

if TYPE_CHECKING:
    import polars as pl

    from palate.baselines.kept import Kept
    from palate.baselines.statistics import BaselineData
    from palate.samples.build import Samples
    from palate.samples.signals import Asked


def signals_of(config: Config, samples: "Samples") -> "pl.DataFrame":
    """The signals of samples that the prompt names."""
    from palate.baselines import signals

    return signals.signals_of(signal_data(config, samples), config.prompt)


def signal_data(config: Config, samples: "Samples", guests: int = 0) -> "BaselineData":
    """The data that signals are computed from, with vectors of the items' text if `estimate` reads it."""
    from palate.baselines.statistics import BaselineData
    from palate.text.vectors import vectors_of

    vectors = None
    if read_beside(config):
        vectors = vectors_of(samples.items, config.text, config.model.base, config.run_path)
    return BaselineData.of(samples, config.seed, guests, vectors)


def read_beside(config: Config) -> dict[str, Any]:
    """What the prompt's signals depend on beside its options, the samples and the seed: the encoder of text, if any."""
    if "estimate" not in config.prompt.signals or config.prompt.estimate not in READS_TEXT:
        return {}
    base = {"base": config.model.base} if config.text.encoder == "base" else {}
    return {**config.text.model_dump(mode="json"), **base}


def signalled(config: Config, samples: "Samples") -> "tuple[Samples, dict[str, Any]]":
    """Samples straight from ratings with the signals that the prompt names, and what these depend on."""
    if not config.prompt.signals:
        return samples, {}
    about = {"palate": __version__, "seed": config.seed, **read_beside(config)}
    return replace(samples, signals=signals_of(config, samples)), {"signals": about}


def signals_then(config: Config, samples: "Samples", kept: "Kept") -> "Asked | None":
    """Computes the signals of questions that are asked at the time of a timeline row; None if the prompt names none."""
    from palate.baselines.signals import estimate_state, source_of
    from palate.samples.queries import Queries

    if not config.prompt.signals:
        return None
    known = signal_data(config, samples)
    source = source_of(known, config.prompt, estimate_state(known, config.prompt, kept))
    return lambda position, item: source.of(Queries(position, item))


def signals_now(
    config: Config, samples: "Samples", kept: "Kept", guest: "pl.DataFrame | None" = None
) -> "Asked | None":
    """As `signals_then`, after all of a user's ratings: the row is the end of the user's rows.

    `guest` (see `palate.samples.questions.asked_now`) is one more user.
    """
    import numpy as np

    from palate.baselines.signals import estimate_state, source_of
    from palate.recommend.recommender import ends_of, with_ends
    from palate.samples.queries import Queries

    if not config.prompt.signals:
        return None
    state = estimate_state(signal_data(config, samples), config.prompt, kept)
    known = signal_data(config, with_ends(samples, guest), 0 if guest is None else 1)
    source, ends = source_of(known, config.prompt, state), ends_of(samples)
    return lambda position, item: source.of(Queries(position + np.searchsorted(ends, position), item))
