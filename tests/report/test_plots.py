import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.measure.bootstrap import Interval
from palate.measure.curves import ReliabilityBin
from palate.measure.evaluation import Entry
from palate.measure.metrics import Metrics
from palate.measure.paired import Paired
from palate.report.plots import (
    WIDEST,
    Axes,
    css_of,
    difference_plot,
    forest_scale,
    interval_plot,
    interval_scale,
    length_bins,
    length_plot,
    loss_plot,
    reliability_plot,
    tick_step,
    tick_text,
    ticks,
)

NUMBERS = st.floats(-1e6, 1e6)


@given(NUMBERS, st.floats(1e-3, 1e6))
def test_ticks_are_a_few_round_numbers_within_the_range(low: float, span: float) -> None:
    high = low + span
    found = ticks(low, high)
    step = tick_step(low, high)
    assert 2 <= len(found) <= 6
    assert all(low - 1e-6 * span <= t <= high + 1e-6 * span for t in found)
    assert f"{step:e}"[0] in "125"


@pytest.mark.parametrize(
    ("value", "step", "text"), [(0.25, 0.05, "0.25"), (20000, 5000, "20,000"), (-0.5, 0.5, "−0.5"), (1, 0.2, "1.0")]
)
def test_a_tick_has_the_decimals_of_its_step(value: float, step: float, text: str) -> None:
    assert tick_text(value, step) == text


@given(st.dictionaries(st.integers(1, 5000), st.integers(1, 100), min_size=1), st.integers(8, 5000))
def test_length_bins_hold_every_sample_in_its_place(lengths: dict[int, int], cutoff: int) -> None:
    bins = length_bins(lengths, cutoff)
    assert len(bins) <= 200
    for low, high, count in bins:
        assert count == sum(n for length, n in lengths.items() if low <= length < high)
    assert sum(count for *_, count in bins) == sum(lengths.values())


def test_bars_beyond_the_cutoff_are_told_apart() -> None:
    svg = length_plot({300: 5, 500: 9, 900: 2}, 512)
    assert len(re.findall('<rect class="m1"', svg)) == 2
    assert len(re.findall('<rect class="over"', svg)) == 1
    assert "cutoff 512" in svg


def test_data_lies_where_the_axes_say() -> None:
    axes = Axes((0, 10), (0, 1), height=300)
    left, bottom = axes.at(0, 0)
    right, top = axes.at(10, 1)
    assert left < right
    assert top < bottom
    assert axes.at(5, 0.5) == ((left + right) / 2, (top + bottom) / 2)


def test_the_line_of_a_reliability_curve_skips_bins_of_hardly_any_rows() -> None:
    bins = [ReliabilityBin(0.0, 0.5, 2, 0.3, 1.0), ReliabilityBin(0.5, 0.6, 500, 0.55, 0.5)]
    bins += [ReliabilityBin(0.6, 0.8, 0, None, None), ReliabilityBin(0.8, 1.0, 498, 0.9, 0.8)]
    metrics = Metrics(1000, 1, 0.6, 0.7, None, None, 0, 0.5, 0.5, 0.5, 0.2, 0.1)
    svg = reliability_plot([Entry("fine-tuned", "x", "model", metrics, {}, None, bins, [], [])], None)
    assert len(re.findall("<circle", svg)) == 3
    line = re.search('<polyline class="line m1" points="(.*?)"', svg)
    assert line is not None
    assert len(line[1].split()) == 2


def test_the_models_of_a_run_keep_their_inks_and_others_do_not_take_them() -> None:
    assert [css_of("fine-tuned", 0), css_of("zero-shot", 5)] == ["m1", "m0"]
    assert {css_of(f"seed {n}", n) for n in range(9)}.isdisjoint({"m0", "m1"})


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted), max_size=5))
def test_every_interval_fits_its_scale(pairs: list[list[float]]) -> None:
    scale = interval_scale([Interval(*pair) for pair in pairs] + [None])
    assert scale[0] < scale[1]
    assert all(scale[0] <= low <= high <= scale[1] for low, high in pairs)
    for low, high in pairs:
        drawn = [
            float(x)
            for x in re.findall(r'(?:x1|x2|cx)="(.*?)"', interval_plot(low, Interval(low, high), scale, None, "m1"))
        ]
        assert all(0 <= x <= 180 for x in drawn)


def test_the_loss_plot_draws_both_curves_from_one_log() -> None:
    svg = loss_plot(
        [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}, {"step": 2, "eval_loss": 1.5}, {"step": 3, "loss": None}]
    )
    assert re.search('<polyline class="line m1" points="[^ ]+ [^ ]+"', svg)
    assert len(re.findall('<circle class="m0"', svg)) == 1


def pair(value: float | None, low: float, high: float, metric: str = "auc") -> Paired:
    return Paired(metric, "model", "baseline", value, Interval(low, high), 0.01)


def test_a_scale_holds_every_interval_up_to_its_widest() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        middle, half = rng.normal(0, 0.05), abs(rng.normal(0, 0.03))
        reach = forest_scale([Interval(middle - half, middle + half), None])
        assert reach == WIDEST or max(abs(middle - half), abs(middle + half)) <= reach + 1e-12
    assert forest_scale([]) > 0
    assert forest_scale([Interval(-3, 0)]) == WIDEST


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
    assert f'class="line {side}"' in difference_plot(found, 0.1)


def test_what_lies_beyond_the_scale_ends_in_an_arrow_and_draws_nothing_outside() -> None:
    inside, outside = difference_plot(pair(0.02, 0.0, 0.04), 0.1), difference_plot(pair(0.5, -0.2, 0.9), 0.1)
    assert inside.count("<path") == 0
    assert inside.count("<circle") == 1
    assert outside.count("<path") == 2
    assert outside.count("<circle") == 0
    assert difference_plot(pair(None, 0, 0), 0.1) == ""
