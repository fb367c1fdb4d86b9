"""The rows of the table: each model as it scored, calibrated, their mean, and stacked with statistics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate.baselines.registry import BASELINES
from palate.commands.scores import MEASURED, VALIDATION, Model, measured_rows
from palate.config import Config
from palate.console import log
from palate.measure.calibration import Calibration, Floats, sigmoid
from palate.measure.figures import bounds, difference_text, number
from palate.measure.keys import ALONE, BESIDE, CALIBRATED, FINE_TUNED, MARK, MEAN, STACKED, in_words
from palate.report.evaluate import Models
from palate.report.table import ece_text
from palate.samples import Prepared
from palate.score.files import Scored

if TYPE_CHECKING:
    from palate.baselines.platt import Predict
    from palate.baselines.statistics import BaselineData
    from palate.measure.evaluation import Evaluation
    from palate.measure.seeds import OverSeeds
    from palate.measure.stacking import Stack

STATISTICS = ("past", "item", "past-item")
"""The groups of features that a logit is stacked with: few enough for a few hundred rows."""


@dataclass(frozen=True)
class Collected:
    """All scores of an evaluation: of each model the files by what they are of, and its calibration."""

    scored: Mapping[Model, Mapping[str, Scored]]
    calibrations: Mapping[str, Calibration]
    """By the models' keys."""

    @property
    def models(self) -> list[Model]:
        """The models, in the order of the table."""
        return list(self.scored)

    def logit(self, model: Model, what: str = MEASURED) -> Floats:
        """z_yes − z_no, float64."""
        return self.scored[model][what].columns["logit"].astype(np.float64)

    def p(self, model: Model, what: str = MEASURED) -> Floats:
        """P(like) as it is believed: calibrated where there is a calibration."""
        calibration = self.calibrations.get(model.key)
        return sigmoid(self.logit(model, what)) if calibration is None else calibration.p(self.logit(model, what))

    def believed(self, model: Model) -> pl.DataFrame:
        """`row` and `p` of the measured rows."""
        return pl.DataFrame({"row": self.scored[model][MEASURED].columns["row"], "p": self.p(model)})


@dataclass
class TableRows(Models):
    """The models of the table, and how those were made that are made of several."""

    stack: "Stack | None" = None
    beside: "tuple[str, Stack] | None" = None
    """The key of the baseline that the model is stacked with, and that stack."""
    seeds: "OverSeeds | None" = None


def rows_of(
    config: Config,
    data: Prepared,
    collected: Collected,
    name: str,
    known: "BaselineData",
    baselines: "Mapping[str, Predict]",
) -> TableRows:
    """All rows; `name` is what tables call the base model, `baselines` are fitted."""
    rows = TableRows()
    for model in collected.models:
        columns = collected.scored[model][MEASURED].columns
        said = in_words(model.key)
        rows.add(model.key, f"{name}, {said}", pl.DataFrame(columns).with_columns(p=sigmoid(collected.logit(model))))
        calibration = collected.calibrations.get(model.key)
        if calibration is not None and calibration.method != "none":
            label = f"{said}, calibrated ({calibration.method})"
            rows.add(model.key + CALIBRATED, label, collected.believed(model), aside=True)
    adapters = [model for model in collected.models if model.adapter is not None]
    if len(adapters) > 1:
        rows.seeds = _over_seeds(config, data, collected, adapters, known, baselines)
        rows.add(MEAN, f"mean P of {len(adapters)} adapters", _mean(collected, adapters))
    if config.score.stack:
        _add_stacks(rows, config, collected, (adapters or collected.models)[0], known, baselines)
    return rows


def _over_seeds(
    config: Config,
    data: Prepared,
    collected: Collected,
    adapters: Sequence[Model],
    known: "BaselineData",
    baselines: "Mapping[str, Predict]",
) -> "OverSeeds | None":
    """How far the adapters lie apart, as they scored, on the measured rows, and how far they are above the baseline
    that is best on validation; None if one lacks a row."""
    from palate.measure.seeds import over_seeds

    wanted = pl.DataFrame({"row": measured_rows(config, data)})
    found = {}
    for model in adapters:
        columns = pl.DataFrame(collected.scored[model][MEASURED].columns)
        found[model.key.rpartition(MARK)[2]] = wanted.join(columns, on="row", how="inner", maintain_order="left")
    if any(frame.height < wanted.height for frame in found.values()):
        return None
    first = next(iter(found.values()))
    best = _best_on_validation(known, baselines)
    asked = known.asked(config.evaluate.split)[0].take(wanted["row"].to_numpy())
    return over_seeds(
        first["label"].to_numpy(),
        first["user_id"].rank("dense").to_numpy().astype(np.int64),
        {key: sigmoid(frame["logit"].to_numpy().astype(np.float64)) for key, frame in found.items()},
        name=FINE_TUNED,
        against=None if best is None else (best, baselines[best](asked)),
        resamples=config.evaluate.bootstrap,
        seed=config.seed,
    )


def _mean(collected: Collected, adapters: Sequence[Model]) -> pl.DataFrame:
    """The mean of the adapters' P(like) on the rows that the first has, calibrated where they are."""
    first = collected.scored[adapters[0]][MEASURED].columns["row"]
    frames = [collected.believed(model) for model in adapters]
    joined = pl.DataFrame({"row": first})
    for n, frame in enumerate(frames):
        joined = joined.join(frame.rename({"p": f"p{n}"}), on="row", how="left", maintain_order="left")
    return joined.select("row", p=pl.mean_horizontal(pl.exclude("row"), ignore_nulls=False))


def _add_stacks(
    rows: TableRows,
    config: Config,
    collected: Collected,
    model: Model,
    known: "BaselineData",
    baselines: "Mapping[str, Predict]",
) -> None:
    """The model's logit beside statistics, these alone, and beside a baseline's logit; all fitted on validation."""
    from palate.measure.stacking import MIN_ROWS, fit_stack

    parts = collected.scored[model]
    if VALIDATION not in parts:
        log.info("%s is not stacked: there are no validation scores of it", model.key)
        return
    liked, row = parts[VALIDATION].columns["label"], parts[MEASURED].columns["row"]
    places = (("val", parts[VALIDATION].columns["row"]), (config.evaluate.split, row))

    def stacked(names: tuple[str, ...], fitted_on: Floats, asked: Floats) -> "Stack | None":
        return fit_stack(collected.logit(model, VALIDATION), fitted_on, liked, names, collected.logit(model), asked)

    (names, fitted_on), (_, asked) = (statistics_of(known, *place) for place in places)
    stack = stacked(names, fitted_on, asked)
    if stack is None:
        log.info(
            "%s is not stacked: %d validation rows, expected %d with both answers", model.key, len(liked), MIN_ROWS
        )
        return
    said = in_words(model.key)
    rows.add(STACKED, f"stacked: {said} + statistics", pl.DataFrame({"row": row, "p": stack.stacked}))
    rows.add(ALONE, "the same statistics alone", pl.DataFrame({"row": row, "p": stack.alone}), aside=True)
    rows.pairs += [(STACKED, ALONE), (STACKED, model.key)]
    rows.stack = stack

    best = _best_on_validation(known, baselines)
    if best is None:
        return
    fitted_on, asked = (logit_of(baselines[best], known, *place)[:, None] for place in places)
    if (beside := stacked((best,), fitted_on, asked)) is not None:
        rows.add(BESIDE, f"stacked: {said} + {BASELINES[best]}", pl.DataFrame({"row": row, "p": beside.stacked}))
        rows.pairs.append((BESIDE, best))
        rows.beside = best, beside


def _best_on_validation(known: "BaselineData", baselines: "Mapping[str, Predict]") -> str | None:
    """The baseline of the smallest log loss on all validation rows: chosen without a look at the measured rows.

    None without validation rows.
    """
    from palate.measure.fit_calibration import log_losses

    asked, liked = known.drawn("val")
    if not len(asked):
        return None
    return min(baselines, key=lambda key: float(log_losses(liked, baselines[key](asked)).mean()))


def logit_of(predict: "Predict", known: "BaselineData", split: str, rows: NDArray[Any]) -> Floats:
    """What a baseline says of some rows of a split, in log odds (n,)."""
    p = np.clip(predict(known.asked(split)[0].take(rows)), 1e-9, 1 - 1e-9)
    logit: Floats = np.log(p / (1 - p))
    return logit


def statistics_of(known: "BaselineData", split: str, rows: NDArray[Any]) -> tuple[tuple[str, ...], Floats]:
    """Names (k) and values (n, k) of what is known of some rows of a split: of item, user and history."""
    from palate.baselines.features import features_of

    names, values = features_of(known, known.asked(split)[0].take(rows), STATISTICS)
    return tuple(names), values.astype(np.float64)


def notes(config: Config, found: "Evaluation", collected: Collected, rows: TableRows) -> list[str]:
    """What a reader must know of how these rows came about."""
    said = []
    for key, calibration in collected.calibrations.items():
        fitted = calibration.fitted_on
        if calibration.method == "none":
            if fitted.asked == "auto":
                said.append(
                    f"The {in_words(key)} model is not calibrated: on {fitted.rows:,} validation rows of "
                    f"{fitted.users:,} users nothing is clearly better than what it says."
                )
            continue
        raw, after = found.entry(key).metrics, found.entry(key + CALIBRATED).metrics
        if raw.log_loss is None or after.log_loss is None or raw.ece is None or after.ece is None:
            continue
        said.append(
            f"Calibration of the {in_words(key)} model ({calibration.method}, fitted on "
            f"{fitted.rows:,} validation rows of {fitted.users:,} users): log loss {raw.log_loss:.3f} → "
            f"{after.log_loss:.3f}, ECE {ece_text(raw)} → {ece_text(after)}; the order, and with it the AUC, stays."
        )
    apart = None if rows.seeds is None else rows.seeds.spread["auc"]
    if rows.seeds is not None and apart is not None:
        over = "" if apart.interval is None else f", 95 % over users and adapters {bounds(apart.interval)}"
        said.append(
            f"AUC of {len(rows.seeds.seeds)} adapters: {apart.mean:.3f} ± {apart.sd:.3f} (sd), "
            f"{apart.low:.3f} to {apart.high:.3f}{over}."
        )
        gap = rows.seeds.differences.get("auc")
        if rows.seeds.against is not None and gap is not None:
            over = "" if gap.interval is None else ", 95 % over users and adapters"
            said.append(
                f"AUC of {len(rows.seeds.seeds)} adapters minus that of {BASELINES[rows.seeds.against]}, the best "
                f"baseline on validation, with sd {number(gap.sd)}{over}: "
                f"{difference_text(gap.mean, gap.interval, gap.detectable, prose=True)}."
            )
    split = config.evaluate.split
    if split == "val":
        used = [*(["calibration"] if collected.calibrations else []), *(["stacking"] if rows.stack else [])]
        said.append(
            "These are validation rows: the baselines' probabilities"
            + "".join(f", the {name}" for name in used)
            + " were fitted on such rows, and what is said of them here is too good. The test split is for that."
        )
    elif split == "train":
        said.append(
            "These are training rows: the model, the item and user means and the baselines have seen their answers, "
            "and nothing here says how they do on others."
        )
    return said
