import numpy as np
import pytest
from tests.evidence import whole

from palate.measure.bootstrap import Interval
from palate.measure.paired import Paired
from palate.measure.slices import Slices
from palate.report.forest import WIDEST, difference_plot, scale_of, side_of, slice_reading


def pair(value: float | None, low: float, high: float, metric: str = "auc") -> Paired:
    return Paired(metric, "model", "baseline", value, Interval(low, high), 0.01)


def test_a_scale_holds_every_interval_up_to_its_widest() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        middle, half = rng.normal(0, 0.05), abs(rng.normal(0, 0.03))
        reach = scale_of([Interval(middle - half, middle + half), None])
        assert reach == WIDEST or max(abs(middle - half), abs(middle + half)) <= reach + 1e-12
    assert scale_of([]) > 0
    assert scale_of([Interval(-3, 0)]) == WIDEST


@pytest.mark.parametrize(
    ("metric", "low", "high", "side"),
    [
        ("auc", 0.01, 0.03, "ahead"),
        ("auc", -0.03, -0.01, "behind"),
        ("auc", -0.01, 0.03, "even"),
        ("log_loss", -0.03, -0.01, "ahead"),
        ("log_loss", 0.01, 0.03, "behind"),
    ],
)
def test_the_side_that_is_ahead_is_the_one_that_the_whole_interval_favours(
    metric: str, low: float, high: float, side: str
) -> None:
    found = pair((low + high) / 2, low, high, metric)
    assert side_of(found) == side
    assert f'class="line {side}"' in difference_plot(found, 0.1)


def test_what_lies_beyond_the_scale_ends_in_an_arrow_and_draws_nothing_outside() -> None:
    inside, outside = difference_plot(pair(0.02, 0.0, 0.04), 0.1), difference_plot(pair(0.5, -0.2, 0.9), 0.1)
    assert inside.count("<path") == 0
    assert inside.count("<circle") == 1
    assert outside.count("<path") == 2
    assert outside.count("<circle") == 0
    assert difference_plot(pair(None, 0, 0), 0.1) == ""


def test_slices_are_counted_by_who_is_ahead_and_small_ones_left_out() -> None:
    slices = whole().slices
    assert slices is not None

    def told(*values: tuple[float, bool]) -> Slices:
        parts = [
            slices.slices[0].__class__(
                **vars(slices.slices[0])
                | {"label": f"part {n}", "small": small, "n": 9}
                | {"differences": [Paired("auc", slices.model, slices.baseline, v, Interval(v - 0.01, v + 0.01), 0.1)]}
            )
            for n, (v, small) in enumerate(values)
        ]
        return Slices(slices.model, slices.baseline, 10, 13, parts, [], [])

    said = " ".join(slice_reading(told((0.05, False), (-0.2, False), (0.0, False), (0.4, True)), "the means"))
    assert "better on 1 of 3 slices and worse on 1; on 1" in said
    assert "part 0 (+0.050)" in said
    assert "part 1 (−0.200)" in said
    assert "part 3" not in said
    assert "1 more are too small" in said
    assert slice_reading(told((0.4, True)), "the means")[0].startswith("No slice")
