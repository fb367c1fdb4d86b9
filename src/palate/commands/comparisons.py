"""Compared: paired tests between the rows of the table, and slices of the main model."""

from typing import TYPE_CHECKING

from palate.config import Config
from palate.measure.keys import ALONE, BESIDE, STACKED, ZERO_SHOT
from palate.samples import Prepared

if TYPE_CHECKING:
    from palate.measure.evaluation import Evaluation
    from palate.measure.paired import Comparison, SameRows
    from palate.measure.slices import Slices


def paired_tests(
    config: Config, same: "SameRows", found: "Evaluation", main: str, beside: str | None = None
) -> "Comparison | None":
    """The pairs that a reader asks for; each model as it is believed, so that probabilities are compared fairly.

    `beside` is the baseline that the model is stacked with.
    """
    from palate.measure.paired import compare

    best = found.best_baseline()
    if best is None:
        return None
    keys = [entry.key for entry in found.entries]
    pairs = [(found.believed(entry.key), best.key) for entry in found.models if not entry.aside]
    if ZERO_SHOT in keys and main != ZERO_SHOT:
        pairs.append((found.believed(main), found.believed(ZERO_SHOT)))
    if found.believed(main) != main:
        pairs.append((found.believed(main), main))
    if {STACKED, ALONE} <= set(keys):
        pairs += [(STACKED, ALONE), (STACKED, found.believed(main))]
    if beside is not None and beside != best.key:
        pairs.append((BESIDE, beside))
    return compare(same.y, same.users, same.scores, pairs, resamples=config.evaluate.bootstrap, seed=config.seed)


def slices(config: Config, data: Prepared, same: "SameRows", found: "Evaluation", main: str) -> "Slices | None":
    """The main model, as it is believed, against the best baseline, part by part of the rows."""
    from palate.measure.slices import measure_slices

    best, model = found.best_baseline(), found.believed(main)
    if best is None:
        return None
    return measure_slices(
        data.samples,
        {key: same.scores[key] for key in (model, best.key)},
        model=model,
        baseline=best.key,
        rows=same.rows,
        split=config.evaluate.split,
        resamples=config.evaluate.bootstrap,
        seed=config.seed,
    )
