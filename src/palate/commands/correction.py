"""Correction: the baseline that an adapter corrects, beside the adapter, and the sum of both logits."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from palate.baselines.kept import read_state, write_state
from palate.baselines.platt import Predict, State
from palate.baselines.registry import RANKERS, fit_one
from palate.baselines.statistics import BaselineData
from palate.commands.prepare import kept_baselines, made_from_of, text_vectors
from palate.config import Config
from palate.console import log
from palate.errors import InputError
from palate.measure.calibration import Floats
from palate.measure.offset import Offset, load_offset, log_odds
from palate.models.adapter import corrects
from palate.samples import Prepared
from palate.samples.queries import Queries, Scores
from palate.store.artifacts import sha256_of
from palate.train.training_prompts import FromBaseline

STATE = "baseline.npz"
"""The fitted baseline in the folder of an adapter that corrects it."""


@dataclass(frozen=True)
class Correction:
    """A fitted baseline, and the sum of its logit and a language model's."""

    offset: Offset
    state: State

    @property
    def reads_text(self) -> bool:
        """Whether the baseline reads the items' text."""
        return RANKERS[self.offset.baseline].reads_text

    def warn(self) -> None:
        """Log that the factors were not fitted on validation."""
        if self.offset.fitted_on is None:
            log.info("alpha is that of the training: `palate evaluate` fits it on validation")

    def describe(self) -> dict[str, Any]:
        """What a sum depends on beside the language model's logit and the ratings."""
        return {"baseline": self.offset.baseline, "alpha": self.offset.alpha, "intercept": self.offset.intercept}

    def predictor(self, known: BaselineData) -> Predict:
        """P(like) by the baseline alone, of queries of `known`: the ratings that it was fitted on."""
        return RANKERS[self.offset.baseline].predictor(known, self.state)

    def logit(self, known: BaselineData, queries: Queries, z: Floats) -> Floats:
        """The sum's logit of queries (n,), of which the language model's is `z` (n,)."""
        return self.offset.added(self.predictor(known)(queries), z)


def _data_of(config: Config, data: Prepared, key: str) -> str:
    """A hash of all that decides the numbers of the baseline `key`, the key itself excepted."""
    made_from = made_from_of(data) | {"seed": config.seed}
    if RANKERS[key].reads_text:
        vectors = text_vectors(config, data)
        if vectors is None:
            raise InputError(f"is null, expected the encoder of the texts that {key} reads", "text.encoder")
        made_from["text"] = vectors.identity
    return sha256_of(made_from)


def offset_training(config: Config, data: Prepared, known: BaselineData, apart: Scores) -> FromBaseline:
    """What a training with `train.offset` takes from the baseline; `apart` are the cross-fitted P(like)."""
    key = str(config.train.offset)
    state = fit_one(RANKERS[key], known, kept_baselines(config, data))
    queries, _ = known.of_split("val")
    return FromBaseline(
        offset=log_odds(apart),
        evaluated=log_odds(RANKERS[key].predictor(known, state)(queries)),
        about={"baseline": key, "data": _data_of(config, data, key)},
        write=lambda folder: write_state(folder / STATE, state),
    )


def correction_of(
    config: Config, data: Prepared, adapter: Path | None, fitted: Offset | None = None
) -> Correction | None:
    """The baseline that an adapter corrects; None for another adapter.

    The factors are `fitted`, else those beside the adapter, else those of the training. Raises `InputError` if the
    baseline's file is missing or damaged, or if it was fitted on other ratings.
    """
    about = corrects(adapter)
    if about is None or adapter is None:
        return None
    if about["baseline"] not in RANKERS:
        raise InputError(f"corrects the unknown baseline {about['baseline']!r}: update Palate, or train again", adapter)
    baseline = RANKERS[about["baseline"]]
    if baseline.lacks_package:
        what = f"corrects a {baseline.key} baseline, which needs {baseline.needs}: pip install 'palate[train]'"
        raise InputError(what, adapter)
    if about["data"] != _data_of(config, data, baseline.key):
        raise InputError(
            f"corrects a {baseline.key} baseline of other ratings than {data.folder}, expected those that it was "
            "trained on",
            adapter,
        )
    state = read_state(adapter / STATE)
    if state is None:
        raise InputError(f"is missing or damaged, expected the {about['baseline']} baseline", adapter / STATE)
    offset = fitted or load_offset(adapter)
    if offset is None:
        offset = Offset(about["baseline"], about["alpha"], about["intercept"])
    if offset.baseline != about["baseline"] or not np.isfinite((offset.alpha, offset.intercept)).all():
        found = f"alpha {offset.alpha:g} and intercept {offset.intercept:g} of {offset.baseline}"
        raise InputError(f"has {found}, expected finite numbers of {about['baseline']}; train again", adapter)
    return Correction(offset, state)
