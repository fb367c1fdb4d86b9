"""The first line of the report: use the model or not, and what the test could have detected."""

from dataclasses import replace

import pytest
from tests.evidence import evaluation

from palate.measure.bootstrap import Interval, detectable
from palate.measure.evaluation import Evaluation
from palate.report.answer import Answer, answer


def with_interval(low: float, high: float, n: int = 600, users: int = 200) -> Evaluation:
    """The evaluation with another interval between the fine-tuned model and the best baseline."""
    found = evaluation()
    best = found.best_baseline()
    assert best is not None
    differences = [
        replace(d, interval=Interval(low, high))
        if (d.metric, d.first, d.second) == ("auc", "fine-tuned", best.key)
        else d
        for d in found.differences
    ]
    return replace(found, differences=differences, n=n, users=users)


def answered(found: Evaluation) -> Answer:
    first = answer(found)
    assert first is not None
    return first


@pytest.mark.parametrize(
    ("low", "high", "use", "begin"),
    [
        (0.01, 0.05, True, "Use the fine-tuned model: its AUC is "),
        (-0.05, -0.01, False, "Do not use the fine-tuned model: its AUC is "),
        (-0.02, 0.02, False, "Do not use the fine-tuned model yet: these rows do not show that it beats "),
    ],
)
def test_the_interval_decides_and_the_detectable_size_is_beside_it(
    low: float, high: float, use: bool, begin: str
) -> None:
    first = answered(with_interval(low, high))
    assert first.use is use
    assert first.sentence.startswith(begin)
    size = detectable(Interval(low, high))
    assert first.sentence.endswith(
        f"With 600 rows of 200 users the test could have detected a difference of {size:.2f}."
    )
    assert first.warnings == []


def test_without_an_interval_there_is_no_recommendation() -> None:
    found = evaluation()
    bare = replace(found, differences=[replace(d, interval=None) for d in found.differences], resamples=0)
    assert answered(bare).sentence.startswith("Do not use the fine-tuned model yet: without an interval")


def test_too_few_rows_are_warned_about_with_the_number_that_would_do() -> None:
    (warning,) = answered(with_interval(-0.06, 0.06, n=100, users=50)).warnings
    size = detectable(Interval(-0.06, 0.06))
    needed = float(f"{100 * (size / 0.03) ** 2:.1g}")
    assert warning.startswith(f"Too few rows: with 100 rows of 50 users a difference below {size:.2f} goes unnoticed.")
    assert f"About {needed:,.0f} rows would detect 0.03" in warning


def test_an_order_that_is_upside_down_is_warned_about() -> None:
    found = with_interval(-0.3, -0.25)
    entries = [
        replace(e, metrics=replace(e.metrics, auc=0.4), intervals={**e.intervals, "auc": Interval(0.35, 0.45)})
        if e.key == "fine-tuned"
        else e
        for e in found.entries
    ]
    (warning,) = answered(replace(found, entries=entries)).warnings
    assert warning.startswith("The order of the fine-tuned model is upside down: AUC 0.400 [0.350, 0.450] is below 0.5")


def test_there_is_no_answer_without_a_model() -> None:
    found = evaluation()
    assert answer(replace(found, entries=[e for e in found.entries if e.kind == "baseline"])) is None


def test_a_model_that_sorts_as_the_best_baseline_is_said_to() -> None:
    first = answered(with_interval(-0.0001, 0.0002))
    assert not first.use
    assert first.sentence.startswith("Do not use the fine-tuned model: it sorts these rows as ")
    assert first.sentence.endswith(" does, within 0.0005 of AUC.")
    exactly = "Do not use the fine-tuned model: it sorts these rows exactly as "
    assert answered(with_interval(0.0, 0.0)).sentence.startswith(exactly)
