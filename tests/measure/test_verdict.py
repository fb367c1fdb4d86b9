import re
from dataclasses import replace

import pytest
from tests.evidence import about, whole

from palate.measure.ablations import reading
from palate.measure.bootstrap import Interval
from palate.measure.figures import difference_text
from palate.measure.paired import Paired
from palate.measure.slices import Slices
from palate.measure.verdict import slice_reading
from palate.report.page import render_report


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (-0.010, 0.018, "+0.004 [−0.010, +0.018], detects 0.020"),
        (0.0, 0.008, "+0.004 [+0.000, +0.008], detects 0.006"),
        (0.001, 0.007, "+0.004 [+0.001, +0.007]"),
        (0.0, 0.0, "+0.004 [+0.000, +0.000]"),
    ],
)
def test_a_difference_whose_interval_holds_zero_has_the_size_that_rows_detect(
    low: float, high: float, text: str
) -> None:
    assert difference_text(0.004, Interval(low, high)) == text


def test_a_difference_without_interval_stands_alone_and_an_undefined_one_is_a_dash() -> None:
    assert difference_text(-0.004, None) == "−0.004"
    assert difference_text(None, None) == "–"


@pytest.mark.parametrize("section", ["slices", "ablations", "seeds"])
def test_every_difference_of_the_report_that_holds_zero_has_its_detectable_size(section: str) -> None:
    inputs = whole()
    assert inputs.ablations is not None
    unclear = [
        replace(one, difference=0.004, difference_interval=Interval(-0.01, 0.018)) for one in inputs.ablations.ablated
    ]
    ablations = replace(inputs.ablations, ablated=unclear)
    page = render_report(replace(inputs, ablations=replace(ablations, reading=reading(ablations))), about())
    (part,) = re.findall(rf'<section id="{section}">.*?</section>', page, flags=re.S)
    intervals = re.findall(r"[+−][0-9.]+ \[([+−][0-9.]+), ([+−][0-9.]+)\](, detects|; these rows detect)?", part)
    assert intervals
    open_ = [said for low, high, said in intervals if low[0] == "−" and high[0] == "+" and low[1:] != high[1:]]
    assert open_
    assert all(open_)
    assert not any(said for low, high, said in intervals if low[0] == high[0] and float(low[1:]) * float(high[1:]) > 0)


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
