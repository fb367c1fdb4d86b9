"""Offset: the baseline that an adapter corrects, and the factors of the sum."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from palate.commands.calibrate import known_calibration, source_of
from palate.commands.prepare import kept_baselines, made_from_of
from palate.commands.scores import VALIDATION, Model, is_fitted_to, validation_key
from palate.config import Config
from palate.console import log
from palate.errors import InputError
from palate.measure.calibration import Calibration, Floats
from palate.measure.offset import FILE, Offset, fit_offset, load_offset, log_odds, write_offset
from palate.samples import Prepared
from palate.score.files import Scored
from palate.store.artifacts import sha256_of

if TYPE_CHECKING:
    from palate.baselines.platt import Predict, State
    from palate.baselines.statistics import BaselineData
    from palate.prompt.chat import Chat
    from palate.samples.queries import Queries, Scores
    from palate.train.training_prompts import FromBaseline

STATE = "baseline.npz"
"""The fitted baseline in the folder of an adapter that corrects it."""


@dataclass(frozen=True)
class Corrected:
    """A fitted baseline, and the sum of its logit and a language model's."""

    offset: Offset
    state: "State"

    def warn(self) -> None:
        """Log that the factors were not fitted on validation."""
        if self.offset.fitted_on is None:
            log.info("alpha is that of the training: `palate evaluate` fits it on validation")

    def describe(self) -> dict[str, Any]:
        """What a sum depends on beside the language model's logit and the ratings."""
        return {"baseline": self.offset.baseline, "alpha": self.offset.alpha, "intercept": self.offset.intercept}

    def predictor(self, known: "BaselineData") -> "Predict":
        """P(like) by the baseline alone, of queries of `known`: the ratings that it was fitted on."""
        from palate.baselines.registry import RANKERS

        return RANKERS[self.offset.baseline].predictor(known, self.state)

    def logit(self, known: "BaselineData", queries: "Queries", z: Floats) -> Floats:
        """The sum's logit of queries (n,), of which the language model's is `z` (n,)."""
        return self.offset.added(self.predictor(known)(queries), z)


def _data_of(config: Config, data: Prepared) -> str:
    """A hash of all that decides a baseline's numbers, its key excepted."""
    return sha256_of(made_from_of(data) | {"seed": config.seed})


def offset_training(config: Config, data: Prepared, known: "BaselineData", apart: "Scores") -> "FromBaseline":
    """What a training with `train.offset` takes from the baseline; `apart` are the cross-fitted P(like)."""
    from palate.baselines.kept import write_state
    from palate.baselines.registry import RANKERS, fit_one
    from palate.train.training_prompts import FromBaseline

    key = str(config.train.offset)
    state = fit_one(RANKERS[key], known, kept_baselines(config, data))
    queries, _ = known.of_split("val")
    return FromBaseline(
        offset=log_odds(apart),
        evaluated=log_odds(RANKERS[key].predictor(known, state)(queries)),
        about={"baseline": key, "data": _data_of(config, data)},
        write=lambda folder: write_state(folder / STATE, state),
    )


def corrected(config: Config, data: Prepared, adapter: Path | None, fitted: Offset | None = None) -> Corrected | None:
    """The baseline that an adapter corrects; None for another adapter.

    The factors are `fitted`, else those beside the adapter, else those of the training. Raises `InputError` if the
    baseline's file is missing or damaged, or if it was fitted on other ratings.
    """
    from palate.baselines.kept import read_state
    from palate.baselines.registry import RANKERS
    from palate.models.adapter import corrects

    about = corrects(adapter)
    if about is None or adapter is None:
        return None
    if about["baseline"] not in RANKERS:
        raise InputError(f"corrects the unknown baseline {about['baseline']!r}, expected one of Palate's", adapter)
    if about["data"] != _data_of(config, data):
        raise InputError(
            f"corrects a {about['baseline']} baseline of other ratings than {data.folder}, expected those that it was "
            "trained on",
            adapter,
        )
    state = read_state(adapter / STATE)
    if state is None:
        raise InputError(f"is missing or damaged, expected the {about['baseline']} baseline", adapter / STATE)
    offset = fitted or load_offset(adapter)
    if offset is None:
        offset = Offset(about["baseline"], about["alpha"], about["intercept"])
    return Corrected(offset, state)


def refuse_without_ratings(adapter: Path | None, place: Path) -> None:
    """Raise `InputError` for an adapter that corrects a baseline, where only prompts are at hand."""
    from palate.models.adapter import corrects

    about = corrects(adapter)
    if about is not None:
        raise InputError(
            f"corrects a {about['baseline']} baseline, whose ratings {place} does not have, expected a prepared folder",
            adapter or "",
        )


def known_fits(
    config: Config, models: Iterable[Model]
) -> tuple[dict[Model, Calibration | None], dict[Model, Offset | None]]:
    """The stored calibrations, and the stored factors of the models that correct a baseline, which have no calibration.

    Raises `InputError` as `load_calibration` and `load_offset` do.
    """
    from palate.models.adapter import corrects

    models = list(models)
    apart = {model: corrects(model.adapter) is not None for model in models}
    known = {model: None if apart[model] else known_calibration(config, model) for model in models}
    factors = {model: load_offset(model.adapter) if model.adapter and apart[model] else None for model in models}
    return known, factors


def offsets_of(
    config: Config, chat: "Chat", data: Prepared, scored: Mapping[Model, Mapping[str, Scored]],
    known: Mapping[Model, Offset | None], folder: Path,
) -> dict[str, Corrected]:  # fmt: skip
    """The sums of the models that correct a baseline, by key: fitted on validation scores as calibrations are.

    The `known` factors are taken if they were fitted to these scores, or if there are none. Others are kept beside the
    adapter if nothing lies there, else in `folder`.
    """
    from palate.baselines.statistics import BaselineData

    found: dict[str, Corrected] = {}
    for model, parts in scored.items():
        start = corrected(config, data, model.adapter, known.get(model))
        if start is None or model.adapter is None:
            continue
        found[model.key] = start
        validation, before = parts.get(VALIDATION), known.get(model)
        if validation is None:
            continue
        key = validation_key(validation.key, np.asarray(validation.columns["row"]))
        if before is not None and is_fitted_to(before, config, key):
            continue
        baseline = start.predictor(BaselineData.of(data.samples, config.seed))
        fitted = _fit(config, chat, data, start, baseline, model, validation)
        if fitted is None:
            continue
        place = model.adapter / FILE
        if before is not None:
            log.info("%s was fitted to other scores and stays", place)
        write_offset(place if before is None else folder / f"offset-{model.key}.json", fitted)
        found[model.key] = Corrected(fitted, start.state)
    return found


def _fit(
    config: Config, chat: "Chat", data: Prepared, start: Corrected, baseline: "Predict", model: Model,
    validation: Scored,
) -> Offset | None:  # fmt: skip
    """The factors of one model; None, with a log line, for too few rows."""
    from palate.samples.queries import Queries

    columns = validation.columns
    queries = Queries.of_samples(data.samples, "val").take(columns["row"])
    fitted = fit_offset(
        start.offset.baseline,
        (log_odds(baseline(queries)), columns["logit"].astype(np.float64)),
        columns["label"],
        columns["user_id"],
        source=source_of(config, chat, validation.key),
        key=validation_key(validation.key, np.asarray(columns["row"])),
        seed=config.seed,
    )
    if fitted is None:
        log.info("%s: alpha is that of the training: too few validation rows to fit it", model.key)
    else:
        log.info("%s: alpha %.3f beside %s, fitted on %d validation rows", model.key, fitted.alpha, fitted.baseline,
                 len(columns["row"]))  # fmt: skip
    return fitted
