"""What an evaluation has scored: for each model the rows to measure on, validation rows, and the ablations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from palate.commands.prepare import ablated_tokens, sample_ids, scored_tokens
from palate.commands.score import chosen_rows, key_of, load_scorer, score_with
from palate.config import Config
from palate.console import log
from palate.measure.ablations import has_effect
from palate.measure.calibration import Calibration
from palate.measure.fit_calibration import MIN_ROWS
from palate.measure.keys import FINE_TUNED, MARK, ZERO_SHOT
from palate.measure.offset import Offset
from palate.prompt.chat import Chat
from palate.samples import Prepared
from palate.samples.export import draw
from palate.score.files import Columns, Scored, read_scores
from palate.store.artifacts import sha256_of
from palate.tokens.dataset import TokenDataset

MEASURED = "measured"
VALIDATION = "validation"


@dataclass(frozen=True)
class Model:
    """A model to score with: under which key it is reported, and its adapter (None: the base model alone)."""

    key: str
    adapter: Path | None


def models_of(config: Config, adapters: Sequence[Path]) -> list[Model]:
    """The base model if the config asks for it or nothing else is there, and each adapter, one by one."""
    base = [Model(ZERO_SHOT, None)] if config.evaluate.zero_shot or not adapters else []
    return [*base, *adapted(adapters)]


def adapted(adapters: Sequence[Path]) -> list[Model]:
    """Each adapter as a model: `fine-tuned`, or `fine-tuned@1`, `fine-tuned@2`, … where there are several."""
    if len(adapters) == 1:
        return [Model(FINE_TUNED, adapters[0])]
    return [Model(f"{FINE_TUNED}{MARK}{n}", adapter) for n, adapter in enumerate(adapters, start=1)]


def main_model(models: Sequence[Model]) -> Model:
    """The one that ablations and stacking are of: the first adapter, else the base model."""
    return next((model for model in models if model.adapter is not None), models[0])


def score_files(config: Config, data: Prepared, model: Model, folder: Path, *, ablated: bool) -> dict[str, Path]:
    """The files of scores of a model: `MEASURED`, `VALIDATION` if something is fitted on it, and each ablation."""
    files = {MEASURED: measured_file(config, model, folder)}
    if validation_rows(config, data).size:
        files[VALIDATION] = folder / "scores" / f"validation-{model.key}.parquet"
    for ablation in dict.fromkeys(config.evaluate.ablations if ablated else ()):
        if has_effect(ablation, config.prompt):
            files[ablation] = folder / "scores" / f"{ablation}-{model.key}.parquet"
        else:
            log.info("ablation %s is left out: the prompt does not show what it would hide", ablation)
    return files


def measured_file(config: Config, model: Model, folder: Path) -> Path:
    """The file with the scores of `evaluate.split`."""
    split = config.evaluate.split
    return folder / "scores" / f"{'' if split == 'test' else split + '-'}{model.key}.parquet"


def sum_file(config: Config, model: Model, folder: Path) -> Path:
    """The file with P(like) of the sum of a baseline and a model that corrects it."""
    return measured_file(config, model, folder).with_suffix(".sum.parquet")


def measured_rows(config: Config, data: Prepared) -> NDArray[np.int64]:
    """Which rows of `evaluate.split` are measured, ascending."""
    return chosen_rows(config, data.samples.of(config.evaluate.split).size)


def validation_rows(config: Config, data: Prepared) -> NDArray[np.int64]:
    """Which validation rows calibration, offset and stacking are fitted on, ascending; none if nothing can be fitted.

    Drawn as those of `eval.json` are, with the same seed.
    """
    wanted, available = config.evaluate.calibration_samples, data.samples.of("val").size
    fits = config.score.calibration != "none" or config.score.stack or config.train.offset is not None
    if min(wanted, available) < MIN_ROWS or not fits:
        wanted = 0
    return draw(np.arange(available), wanted, config.seed)


def score_model(
    config: Config, data: Prepared, model: Model, files: Mapping[str, Path], known: Calibration | Offset | None = None
) -> dict[str, Scored]:
    """Score all files of one model, which is loaded once; `row` counts within the split, in ablations too.

    Validation is left out if `known` was fitted to the same scores and nothing else needs them.
    """
    scorer = load_scorer(config, model.adapter)
    splits = [config.evaluate.split, *(["val"] if VALIDATION in files else [])]
    samples = scored_tokens(config, data, scorer.chat, tuple(dict.fromkeys(splits)))
    found = {}
    for what, path in files.items():
        tokens, about, rows = _asked(config, data, scorer.chat, what, samples)
        if what == VALIDATION and known is not None and not config.score.stack:
            key = validation_key(key_of(scorer, config, tokens, model.adapter), rows)
            if is_fitted_to(known, config, key):
                what_was = "offset" if isinstance(known, Offset) else "calibration"
                log.info("validation is not scored again: the %s was fitted to the same scores", what_was)
                continue
        scored = score_with(scorer, config, tokens, about, rows, key_of(scorer, config, tokens, model.adapter), path)
        found[what] = _numbered(config, data, what, scored)
    return found


def read_model(config: Config, data: Prepared, files: Mapping[str, Path]) -> dict[str, Scored]:
    """What `score_model` gave, from its files."""
    return {what: _numbered(config, data, what, read_scores(path)) for what, path in files.items()}


def _numbered(config: Config, data: Prepared, what: str, scored: Scored) -> Scored:
    """The scores with rows of the split; an ablation's file counts the rows that were asked."""
    if what in (MEASURED, VALIDATION):
        return scored
    row = measured_rows(config, data)[scored.columns["row"]]
    return Scored({**scored.columns, "row": row}, scored.key)


def _asked(
    config: Config, data: Prepared, chat: Chat, what: str, samples: Mapping[str, TokenDataset]
) -> tuple[TokenDataset, Columns, NDArray[np.int64]]:
    """The samples that a file is of, who and what they are about, and which of them are scored."""
    split = "val" if what == VALIDATION else config.evaluate.split
    about = sample_ids(data, split)
    if what == VALIDATION:
        return samples[split], about, validation_rows(config, data)
    rows = measured_rows(config, data)
    if what == MEASURED:
        return samples[split], about, rows
    tokens = ablated_tokens(config, data, chat, split, rows, what)
    return tokens, {name: ids[rows] for name, ids in about.items()}, np.arange(rows.size)


def is_fitted_to(fit: Calibration | Offset, config: Config, key: str) -> bool:
    """Whether a calibration or an offset is what the config would have fitted to the scores of a key."""
    fitted_on = fit.fitted_on
    if fitted_on is None or (fitted_on.key, fitted_on.seed) != (key, config.seed):
        return False
    return isinstance(fit, Offset) or fitted_on.asked == config.score.calibration


def validation_key(key: Mapping[str, object], rows: NDArray[np.int64]) -> str:
    """The hash of everything that validation scores depend on; `key` as `key_of` gives it, or as a file holds it."""
    made_from = {name: value for name, value in key.items() if name not in ("rows", "columns", "offset")}
    return sha256_of({**made_from, "rows": rows.tolist()})
