"""Answer: whether to use the model, what the test could have detected, and what makes the answer unsafe."""

from collections.abc import Iterator
from dataclasses import dataclass

from palate.measure.bootstrap import Interval, detectable
from palate.measure.evaluation import Entry, Evaluation
from palate.measure.figures import bounds, number
from palate.measure.keys import COMBINED, FINE_TUNED
from palate.measure.verdict import name_in_prose

COARSE = 0.05
"""If the test detects only larger differences of AUC, it has too few rows."""
EQUAL = 0.0005
"""An interval of the difference of AUC within this of zero: the two sort alike."""
FINE = 0.03
"""The difference of AUC that the advice on more rows aims at."""


@dataclass(frozen=True)
class Answer:
    """The first line of the report and of the terminal's summary."""

    use: bool
    """Whether the rows show that the model beats the best baseline."""
    sentence: str
    warnings: list[str]


def answer(evaluation: Evaluation) -> Answer | None:
    """Whether to use the main model, by its AUC minus that of the best baseline; None if there is nothing to compare.

    The main model is the first adapter, else the first model.
    """
    models = [entry for entry in evaluation.models if not entry.aside]
    main = next((entry for entry in models if entry.key.startswith(FINE_TUNED)), models[0] if models else None)
    best = evaluation.best_baseline()
    if main is None or best is None or main.metrics.auc is None or best.metrics.auc is None:
        return None
    pairs = {d.first: d for d in evaluation.differences if d.metric == "auc" and d.second == best.key}
    between = pairs[main.key].interval if main.key in pairs else None
    warnings = [*_few_rows(evaluation, between), *(text for entry in models for text in _upside_down(entry))]
    value, name, other = main.metrics.auc - best.metrics.auc, name_in_prose(main), name_in_prose(best)
    if between is None:
        return Answer(
            False,
            f"Do not use {name} yet: without an interval, no difference to {other} is more than chance.",
            warnings,
        )
    if max(-between.low, between.high) < EQUAL:
        how = "as" if between.high > between.low else "exactly as"
        nearly = f", within {EQUAL:g} of AUC" if how == "as" else ""
        return Answer(False, f"Do not use {name}: it sorts these rows {how} {other} does{nearly}.", warnings)
    could = f"With {_rows(evaluation)} the test could have detected a difference of {_size(detectable(between))}."
    if between.low > 0:
        sentence = f"Use {name}: its AUC is {number(value)} above that of {other}, the best baseline. {could}"
        return Answer(True, sentence, warnings)
    combined = [key for key, d in pairs.items() if key in COMBINED and d.interval is not None and d.interval.low > 0]
    alone = " alone" if combined else ""
    rest = " Together with simple statistics it does beat it (see below)." if combined else ""
    if between.high < 0:
        reason = f"its AUC is {number(-value)} below that of {other}, the best baseline"
        return Answer(False, f"Do not use {name}{alone}: {reason}.{rest} {could}", warnings)
    reason = f"these rows do not show that it beats {other}, the best baseline"
    return Answer(False, f"Do not use {name}{alone} yet: {reason}.{rest} {could}", warnings)


def _few_rows(evaluation: Evaluation, between: Interval | None) -> Iterator[str]:
    if between is None:
        if evaluation.resamples:
            yield f"Too few rows: {_rows(evaluation)} give no interval."
        return
    size = detectable(between)
    if size > COARSE:
        needed = float(f"{evaluation.n * (size / FINE) ** 2:.1g}")
        yield (
            f"Too few rows: with {_rows(evaluation)} a difference below {_size(size)} goes unnoticed. "
            f"About {needed:,.0f} rows would detect {FINE:.2f} (evaluate.max_samples is the number of rows to score)."
        )


def _upside_down(entry: Entry) -> Iterator[str]:
    between = entry.intervals.get("auc")
    if between is not None and between.high < 0.5 and entry.metrics.auc is not None:
        yield (
            f"The order of {name_in_prose(entry)} is upside down: AUC {number(entry.metrics.auc)} {bounds(between)} is "
            "below 0.5, so higher scores go with less liked items. Check that high ratings mean liked, and that "
            "prompt.yes and prompt.no are not swapped."
        )


def _rows(evaluation: Evaluation) -> str:
    rows = f"{evaluation.n:,} row{'s' * (evaluation.n != 1)}"
    if evaluation.unit == "rows":
        return rows
    return f"{rows} of {evaluation.users:,} user{'s' * (evaluation.users != 1)}"


def _size(difference: float) -> str:
    return f"{difference:.2f}" if difference >= 0.01 else f"{difference:.3f}"
