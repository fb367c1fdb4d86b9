"""Offset: fit the factors of the sums of baselines and the models that correct them, or take those of before."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from palate.baselines.platt import Predict
from palate.commands.calibrate import known_calibration, source_of
from palate.commands.correction import Correction, correction_of
from palate.commands.prepare import baseline_data
from palate.commands.scores import VALIDATION, Model, is_fitted_to, validation_key
from palate.config import Config
from palate.console import log
from palate.measure.calibration import Calibration
from palate.measure.offset import FILE, Offset, fit_offset, load_offset, log_odds, write_offset
from palate.models.adapter import corrects
from palate.prompt.chat import Chat
from palate.samples import Prepared
from palate.samples.queries import Queries
from palate.score.files import Scored


def known_fits(
    config: Config, models: Iterable[Model]
) -> tuple[dict[Model, Calibration | None], dict[Model, Offset | None]]:
    """The stored calibrations, and the stored factors of the models that correct a baseline, which have no calibration.

    Raises `InputError` as `load_calibration` and `load_offset` do.
    """
    models = list(models)
    apart = {model: corrects(model.adapter) is not None for model in models}
    known = {model: None if apart[model] else known_calibration(config, model) for model in models}
    factors = {model: load_offset(model.adapter) if model.adapter and apart[model] else None for model in models}
    return known, factors


def offsets_of(
    config: Config, chat: Chat, data: Prepared, scored: Mapping[Model, Mapping[str, Scored]],
    known: Mapping[Model, Offset | None], folder: Path,
) -> dict[str, Correction]:  # fmt: skip
    """The sums of the models that correct a baseline, by key: fitted on validation scores as calibrations are.

    The `known` factors are taken if they were fitted to these scores, or if there are none. Others are kept beside the
    adapter if there are none, else in `folder`.
    """
    found: dict[str, Correction] = {}
    for model, parts in scored.items():
        start = correction_of(config, data, model.adapter, known.get(model))
        if start is None or model.adapter is None:
            continue
        found[model.key] = start
        validation, before = parts.get(VALIDATION), known.get(model)
        if validation is None:
            start.warn()
            continue
        key = validation_key(validation.key, np.asarray(validation.columns["row"]))
        if before is not None and is_fitted_to(before, config, key):
            continue
        baseline = start.predictor(baseline_data(config, data, text=start.reads_text))
        fitted = _fit(config, chat, data, start, baseline, model, validation)
        if fitted is None:
            continue
        place = model.adapter / FILE
        if before is not None:
            log.info("%s was fitted to other scores and stays", place)
        write_offset(place if before is None else folder / f"offset-{model.key}.json", fitted)
        found[model.key] = Correction(fitted, start.state)
    return found


def _fit(
    config: Config, chat: Chat, data: Prepared, start: Correction, baseline: Predict, model: Model,
    validation: Scored,
) -> Offset | None:  # fmt: skip
    """The factors of one model; None, with a log line, for too few rows."""
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
