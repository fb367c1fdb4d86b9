"""The rows of the table: each model, calibrated, the adapters' mean, and stacked with statistics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate.baselines.features import features_of
from palate.baselines.platt import Predict
from palate.baselines.registry import BASELINES, fit_baselines
from palate.baselines.statistics import BaselineData
from palate.commands.correction import Correction
from palate.commands.prepare import baseline_data, kept_baselines
from palate.commands.scores import MEASURED, VALIDATION, Model, main_model
from palate.config import Config
from palate.console import log
from palate.measure.calibration import Calibration, Floats, sigmoid
from palate.measure.evaluation import Evaluation
from palate.measure.figures import bounds, difference_text, number
from palate.measure.keys import ALONE, BESIDE, CALIBRATED, FINE_TUNED, MARK, MEAN, STACKED, in_words
from palate.measure.metrics import nats
from palate.measure.offset import Offset, log_odds
from palate.measure.paired import SameRows
from palate.measure.rows import Models
from palate.measure.seeds import OverSeeds, over_seeds
from palate.measure.stacking import MIN_ROWS, Stack, fit_stack
from palate.report.table import ece_text
from palate.samples import Prepared
from palate.score.files import Scored

STATISTICS = ("past", "item", "past-item")
"""The groups of features that a logit is stacked with: few enough for a few hundred rows."""


@dataclass(frozen=True)
class Collected:
    """The inputs of an evaluation: scores of each model by kind, calibrations, and baselines."""

    config: Config
    data: Prepared
    scored: Mapping[Model, Mapping[str, Scored]]
    calibrations: Mapping[str, Calibration]
    """By model key."""
    offsets: Mapping[str, Correction] = field(default_factory=dict)
    """The baselines that models correct, by model key."""

    @cached_property
    def known(self) -> BaselineData:
        """The data that baselines learn from."""
        text = self.config.evaluate.baselines == "all" or any(each.reads_text for each in self.offsets.values())
        return baseline_data(self.config, self.data, text=text)

    @cached_property
    def baselines(self) -> Mapping[str, Predict]:
        """The fitted baselines, kept in the run's folder, and those that models correct."""
        fitted = fit_baselines(self.known, self.config.evaluate.baselines, kept_baselines(self.config, self.data))
        return fitted | {each.offset.baseline: each.predictor(self.known) for each in self.offsets.values()}

    @property
    def models(self) -> list[Model]:
        """The models, in the order of the table."""
        return list(self.scored)

    @property
    def adapters(self) -> list[Model]:
        """The models with an adapter."""
        return [model for model in self.scored if model.adapter is not None]

    def logit(self, model: Model, what: str = MEASURED) -> Floats:
        """z_yes − z_no, float64."""
        return self.scored[model][what].columns["logit"].astype(np.float64)

    def p(self, model: Model, what: str = MEASURED) -> Floats:
        """P(like) without calibration; that of the sum, if the model corrects a baseline."""
        offset = self.offsets.get(model.key)
        if offset is None:
            return sigmoid(self.logit(model, what))
        split = "val" if what == VALIDATION else self.config.evaluate.split
        queries = self.known.of_split(split)[0].take(self.scored[model][what].columns["row"])
        return sigmoid(offset.logit(self.known, queries, self.logit(model, what)))

    def calibrated(self, model: Model) -> pl.DataFrame:
        """`row` and `p` of the measured rows, calibrated if the model has a calibration."""
        calibration = self.calibrations.get(model.key)
        p = self.p(model) if calibration is None else calibration.p(self.logit(model))
        return pl.DataFrame({"row": self.scored[model][MEASURED].columns["row"], "p": p})

    def of_baseline(self, key: str, split: str, rows: NDArray[Any]) -> Floats:
        """P(like) of a baseline for some rows of a split."""
        return self.baselines[key](self.known.of_split(split)[0].take(rows))

    @cached_property
    def best_on_validation(self) -> str | None:
        """The baseline with the smallest log loss on all validation rows; the measured rows have no influence.

        None without validation rows.
        """
        queries, liked = self.known.drawn("val")
        if not len(queries):
            return None
        return min(self.baselines, key=lambda key: float(nats(liked, self.baselines[key](queries)).mean()))


@dataclass
class TableRows(Models):
    """The models of the table, and the fits behind the combined ones."""

    stack: Stack | None = None
    beside: tuple[str, Stack] | None = None
    """The key of the baseline that the model is stacked with, and that stack."""
    seeds: OverSeeds | None = None


def rows_of(collected: Collected, name: str) -> TableRows:
    """All rows; `name` is what tables call the base model."""
    rows = TableRows()
    for model in collected.models:
        columns, words = collected.scored[model][MEASURED].columns, in_words(model.key)
        offset = collected.offsets.get(model.key)
        label = f"{name}, {words}" if offset is None else f"{offset.offset.baseline} + {name}, {words}"
        rows.add(model.key, label, pl.DataFrame(columns).with_columns(p=collected.p(model)))
        if offset is not None:
            rows.pairs.append((model.key, offset.offset.baseline))
            rows.corrected[model.key] = offset.offset.baseline
        calibration = collected.calibrations.get(model.key)
        if calibration is not None and calibration.method != "none":
            label = f"{words}, calibrated ({calibration.method})"
            rows.add(model.key + CALIBRATED, label, collected.calibrated(model), aside=True)
    adapters = collected.adapters
    if len(adapters) > 1:
        rows.add(MEAN, f"mean P of {len(adapters)} adapters", _mean(collected, adapters))
    if collected.config.score.stack:
        _add_stacks(rows, collected, main_model(collected.models))
    return rows


def adapters_apart(collected: Collected, same: SameRows) -> OverSeeds | None:
    """The spread of several adapters, and their differences to the baseline that is best on validation."""
    adapters = collected.adapters
    if len(adapters) < 2:
        return None
    best = collected.best_on_validation
    return over_seeds(
        same.y,
        same.users,
        {model.key.rpartition(MARK)[2]: same.scores[model.key] for model in adapters},
        name=FINE_TUNED,
        against=None if best is None else (best, same.scores[best]),
        resamples=collected.config.evaluate.bootstrap,
        seed=collected.config.seed,
    )


def _mean(collected: Collected, adapters: Sequence[Model]) -> pl.DataFrame:
    """The mean of the adapters' P(like), calibrated if they are, on the rows of the first."""
    joined = collected.calibrated(adapters[0])
    for n, model in enumerate(adapters[1:]):
        joined = joined.join(collected.calibrated(model), on="row", how="left", maintain_order="left", suffix=str(n))
    return joined.select("row", p=pl.mean_horizontal(pl.exclude("row"), ignore_nulls=False))


def _add_stacks(rows: TableRows, collected: Collected, model: Model) -> None:
    """Add the stacks, fitted on validation: logit and statistics, statistics alone, logit and best baseline."""
    parts, known, best = collected.scored[model], collected.known, collected.best_on_validation
    if VALIDATION not in parts:
        log.info("%s is not stacked: there are no validation scores of it", model.key)
        return
    liked, row = parts[VALIDATION].columns["label"], parts[MEASURED].columns["row"]
    places = (("val", parts[VALIDATION].columns["row"]), (collected.config.evaluate.split, row))

    def stacked(names: Sequence[str], fitted_on: Floats, measured: Floats) -> Stack | None:
        logits = collected.logit(model, VALIDATION), collected.logit(model)
        return fit_stack(logits[0], fitted_on, liked, tuple(names), logits[1], measured)

    (names, fitted_on), (_, measured) = (
        features_of(known, known.of_split(split)[0].take(at), STATISTICS) for split, at in places
    )
    stack = stacked(names, fitted_on.astype(np.float64), measured.astype(np.float64))
    if stack is None:
        log.info(
            "%s is not stacked: %d validation rows, expected %d with both answers", model.key, len(liked), MIN_ROWS
        )
        return
    words = in_words(model.key)
    rows.add(STACKED, f"stacked: {words} + statistics", pl.DataFrame({"row": row, "p": stack.stacked}))
    rows.add(ALONE, "the same statistics alone", pl.DataFrame({"row": row, "p": stack.alone}), aside=True)
    rows.pairs += [(STACKED, ALONE), (STACKED, model.key)]
    rows.stack = stack
    if best is None:
        return
    odds = [log_odds(collected.of_baseline(best, *place))[:, None] for place in places]
    if (beside := stacked((best,), *odds)) is not None:
        rows.add(BESIDE, f"stacked: {words} + {BASELINES[best]}", pl.DataFrame({"row": row, "p": beside.stacked}))
        rows.pairs.append((BESIDE, best))
        rows.beside = best, beside


def _alpha(key: str, offset: Offset) -> str:
    """A sentence on how much of a model's logit its sum with a baseline takes."""
    what = f"The weight alpha of the {in_words(key)} model's logit beside {BASELINES[offset.baseline]} is"
    if offset.fitted_on is None or offset.slope is None:
        return f"{what} {number(offset.alpha)}, that of the training: it was not fitted on validation."
    over = "" if offset.interval is None else f", 95 % over users {bounds(offset.interval)}"
    fitted = f"fitted on {offset.fitted_on.rows:,} validation rows of {offset.fitted_on.users:,} users"
    if offset.alpha:
        return f"{what} {number(offset.alpha)} ({fitted}{over})."
    why = "is negative" if offset.slope <= 0 else "does no better on users left out of the fit"
    return f"{what} 0, so that the sum is the baseline: {number(offset.slope)} {why} ({fitted}{over})."


def notes(found: Evaluation, collected: Collected, rows: TableRows) -> list[str]:
    """Sentences on calibration, adapters and the split, for the verdict."""
    sentences = []
    for key, calibration in collected.calibrations.items():
        fitted = calibration.fitted_on
        if calibration.method == "none":
            if fitted.asked == "auto":
                sentences.append(
                    f"The {in_words(key)} model is not calibrated: no calibration is clearly better on "
                    f"{fitted.rows:,} validation rows of {fitted.users:,} users."
                )
            continue
        raw, after = found.entry(key).metrics, found.entry(key + CALIBRATED).metrics
        if raw.log_loss is None or after.log_loss is None or raw.ece is None or after.ece is None:
            continue
        sentences.append(
            f"Calibration of the {in_words(key)} model ({calibration.method}, fitted on "
            f"{fitted.rows:,} validation rows of {fitted.users:,} users): log loss {raw.log_loss:.3f} → "
            f"{after.log_loss:.3f}, ECE {ece_text(raw)} → {ece_text(after)}; order and AUC stay the same."
        )
    sentences += [_alpha(key, each.offset) for key, each in collected.offsets.items()]
    apart = None if rows.seeds is None else rows.seeds.spread["auc"]
    if rows.seeds is not None and apart is not None:
        over = "" if apart.interval is None else f", 95 % over users and adapters {bounds(apart.interval)}"
        sentences.append(
            f"AUC of {len(rows.seeds.seeds)} adapters: {apart.mean:.3f} ± {apart.sd:.3f} (sd), "
            f"{apart.low:.3f} to {apart.high:.3f}{over}."
        )
        gap = rows.seeds.differences.get("auc")
        if rows.seeds.against is not None and gap is not None:
            over = "" if gap.interval is None else ", 95 % over users and adapters"
            sentences.append(
                f"AUC of {len(rows.seeds.seeds)} adapters minus that of {BASELINES[rows.seeds.against]}, the best "
                f"baseline on validation, with sd {number(gap.sd)}{over}: "
                f"{difference_text(gap.mean, gap.interval, gap.detectable, prose=True)}."
            )
    split = found.split
    if split == "val":
        used = [*(["calibration"] if collected.calibrations else []), *(["stacking"] if rows.stack else [])]
        sentences.append(
            "These are validation rows: the baselines' probabilities"
            + "".join(f", the {name}" for name in used)
            + " were fitted on such rows, so these figures are too good. Use the test split."
        )
    elif split == "train":
        sentences.append(
            "These are training rows: the model, the item and user means and the baselines have seen their answers, "
            "so these figures do not hold for other rows."
        )
    return sentences
