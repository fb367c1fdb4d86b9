"""Calibrate: fits on the validation scores, or reads the calibration that was fitted to the same scores."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from palate.commands.scores import MEASURED, VALIDATION, Model, is_fitted_to, validation_key
from palate.config import Config
from palate.console import log
from palate.measure.calibration import (
    FILE,
    Calibration,
    CalibrationSource,
    load_calibration,
    prompt_hash,
    write_calibration,
)
from palate.measure.fit_calibration import MIN_ROWS, fit_calibration
from palate.models.adapter import corrects
from palate.prompt.chat import Chat
from palate.prompt.tokenizer import tokenizer_identity
from palate.score.files import Scored


def source_of(config: Config, chat: Chat, key: Mapping[str, Any]) -> CalibrationSource:
    """Whose logits those are that have this key of a score file."""
    prompt = config.prompt.model_dump(mode="json")
    return CalibrationSource(
        model=str(key.get("model", key.get("served_model"))),
        adapter=dict(key["adapter"]),
        prompt=prompt_hash(prompt, tokenizer_identity(chat.tokenizer), chat.decision.describe(chat.tokenizer)),
        server=key.get("server"),
    )


def calibration_folder(config: Config, model: Model) -> Path:
    """The folder that holds a model's calibration: the adapter's, or the run's for the base model."""
    return model.adapter or config.run_path


def known_calibration(config: Config, model: Model) -> Calibration | None:
    """The stored calibration; raises `InputError` as `load_calibration` does."""
    return None if config.score.calibration == "none" else load_calibration(calibration_folder(config, model))


def fit(config: Config, chat: Chat, model: Model, validation: Scored | None) -> Calibration | None:
    """Fit the method of `score.calibration`; None, with a log line, for too few rows."""
    if validation is None:
        log.info("%s is not calibrated: a fit needs %d validation scores", model.key, MIN_ROWS)
        return None
    columns = validation.columns
    found = fit_calibration(
        columns["logit"],
        columns["label"],
        columns["user_id"],
        source=source_of(config, chat, validation.key),
        choice=config.score.calibration,
        seed=config.seed,
        key=validation_key(validation.key, np.asarray(columns["row"])),
    )
    if found is None:
        log.info(
            "%s is not calibrated: %d validation rows, expected %d with both answers",
            *(model.key, len(columns["row"]), MIN_ROWS),
        )
        return None
    if found.method == "none":
        log.info("%s stays uncalibrated: no calibration does better on held-out validation users", model.key)
    else:
        log.info("%s: calibration %s, fitted on %d validation rows", model.key, found.method, found.fitted_on.rows)
    return found


def calibrations_of(
    config: Config,
    chat: Chat,
    scored: Mapping[Model, Mapping[str, Scored]],
    known: Mapping[Model, Calibration | None],
    folder: Path,
) -> dict[str, Calibration]:
    """The calibrations of models that were scored, by key.

    The `known` one is taken if it was fitted to these validation scores, or if there are none. Else one is fitted, and
    kept where the model's belongs if there is none; otherwise in `folder`, where results are: what a run or
    somebody else fitted is never replaced by an evaluation.

    Raises `InputError` if the known one has to be taken and is of another model.
    """
    if config.score.calibration == "none":
        return {}
    found = {
        model.key: _calibration_of(config, chat, model, scored[model], known.get(model), folder)
        for model in scored
        if corrects(model.adapter) is None  # `offsets_of` fits those
    }
    return {key: calibration for key, calibration in found.items() if calibration is not None}


def _calibration_of(
    config: Config, chat: Chat, model: Model, parts: Mapping[str, Scored], known: Calibration | None, folder: Path
) -> Calibration | None:
    """The calibration of one model, as `calibrations_of` says."""
    place, validation = calibration_folder(config, model) / FILE, parts.get(VALIDATION)
    if validation is None and known is not None:
        known.check(source_of(config, chat, parts[MEASURED].key), place)
        return known
    if validation is not None and known is not None:
        key = validation_key(validation.key, np.asarray(validation.columns["row"]))
        if is_fitted_to(known, config, key):
            return known
    found = fit(config, chat, model, validation)
    if found is not None:
        own = folder / (FILE if model.adapter is None else f"calibration-{model.key}.json")
        if known is not None:
            log.info("%s was fitted to other scores and stays; this evaluation's calibration is %s", place, own)
        write_calibration(place if model.adapter is not None and known is None else own, found)
    return found
