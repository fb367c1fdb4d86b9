"""Compared: paired tests between the rows of the table, and slices of the main model."""

from typing import TYPE_CHECKING

from palate.commands.scores import ZERO_SHOT
from palate.commands.table_rows import ALONE, BESIDE, CALIBRATED, STACKED
from palate.config import Config
from palate.samples import Prepared

if TYPE_CHECKING:
    from palate.measure.evaluation import Evaluation
    from palate.measure.paired import Comparison, SameRows
    from palate.measure.slices import Slices


def best_baseline(found: "Evaluation") -> str | None:
    """The baseline of highest AUC; None where no AUC is defined."""
    baselines = [e for e in found.entries if e.kind == "baseline" and e.metrics.auc is not None]
    return max(baselines, key=lambda entry: entry.metrics.auc or 0.0).key if baselines else None


def believed(found: "Evaluation", key: str) -> str:
    """The row of a model's calibrated P(like), its own if it is not calibrated."""
    keys = {entry.key for entry in found.entries}
    return key + CALIBRATED if key + CALIBRATED in keys else key


def paired_tests(
    config: Config, same: "SameRows", found: "Evaluation", main: str, beside: str | None = None
) -> "Comparison | None":
    """The pairs that a reader asks for; each model as it is believed, so that probabilities are compared fairly.

    `beside` is the baseline that the model is stacked with.
    """
    from palate.measure.paired import compare

    best = best_baseline(found)
    if best is None:
        return None
    keys = [entry.key for entry in found.entries]
    pairs = [(believed(found, entry.key), best) for entry in found.models if not entry.aside]
    if ZERO_SHOT in keys and main != ZERO_SHOT:
        pairs.append((believed(found, main), believed(found, ZERO_SHOT)))
    if believed(found, main) != main:
        pairs.append((believed(found, main), main))
    if {STACKED, ALONE} <= set(keys):
        pairs += [(STACKED, ALONE), (STACKED, believed(found, main))]
    if beside is not None and beside != best:
        pairs.append((BESIDE, beside))
    return compare(same.y, same.users, same.scores, pairs, resamples=config.evaluate.bootstrap, seed=config.seed)


def slices(config: Config, data: Prepared, same: "SameRows", found: "Evaluation", main: str) -> "Slices | None":
    """The main model, as it is believed, against the best baseline, part by part of the rows."""
    from palate.measure.slices import measure_slices

    best, model = best_baseline(found), believed(found, main)
    if best is None:
        return None
    return measure_slices(
        data.samples,
        {key: same.scores[key] for key in (model, best)},
        model=model,
        baseline=best,
        rows=same.rows,
        split=config.evaluate.split,
        resamples=config.evaluate.bootstrap,
        seed=config.seed,
    )
