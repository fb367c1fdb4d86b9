"""Forest: differences with their intervals, one below the other on one scale, and what they come to."""

import math
from collections.abc import Iterable, Sequence

from markupsafe import Markup

from palate.measure.bootstrap import Interval
from palate.measure.figures import least, number
from palate.measure.paired import Paired
from palate.measure.slices import Slice, Slices

WIDTH, HEIGHT, EDGE = 150, 20, 8
WIDEST = 0.3
"""No scale reaches further from zero: one slice of thirty rows must not make a line of all others."""
NAMED = 3
"""Slices that a sentence names for either side."""


def scale_of(intervals: Iterable[Interval | None]) -> float:
    """How far from zero a scale reaches that holds the intervals: a round number, `WIDEST` at most and for none."""
    ends = [max(-i.low, i.high) for i in intervals if i is not None]
    reach = max(ends, default=WIDEST)
    return min(WIDEST, max(0.02, math.ceil(50 * reach) / 50))


def slice_scale(slices: Slices, metric: str = "auc") -> float:
    """One scale for all slices that are not small."""
    return scale_of(part.difference(metric).interval for part in slices.slices if not part.small)


def difference_plot(pair: Paired, reach: float) -> Markup:
    """A difference and its interval on a line from −reach to reach; what lies beyond ends in an arrow.

    Its class says who is ahead with the whole interval: `ahead` (the first), `behind` or `even`.
    """
    if pair.value is None:
        return Markup("")

    def at(value: float) -> float:
        inside = min(max(value, -reach), reach)
        return round(WIDTH / 2 + inside / reach * (WIDTH / 2 - EDGE), 1)

    css, middle = side_of(pair), HEIGHT // 2
    name = f"{number(pair.value, signed=True)}"
    parts = [Markup('<line class="zero" x1="{0}" x2="{0}" y1="0" y2="{1}"/>').format(at(0), HEIGHT)]
    if (between := pair.interval) is not None:
        name += f", 95 % interval {number(between.low, signed=True)} to {number(between.high, signed=True)}"
        name += f", detects {size}" if (size := least(between)) else ""
        parts.append(
            Markup('<line class="line {0}" x1="{1}" x2="{2}" y1="{3}" y2="{3}"/>').format(
                css, at(between.low), at(between.high), middle
            )
        )
        for end, beyond, out in ((-reach, between.low < -reach, -6), (reach, between.high > reach, 6)):
            if beyond:
                parts.append(
                    Markup('<path class="{}" d="M{} {}l{} 4l0 -8z"/>').format(css, at(end) + out, middle, -out)
                )
    if abs(pair.value) <= reach:
        parts.append(Markup('<circle class="{}" cx="{}" cy="{}" r="4"/>').format(css, at(pair.value), middle))
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}"><title>{}</title>{}</svg>').format(
        WIDTH, HEIGHT, name, name, Markup("").join(parts)
    )


def side_of(pair: Paired) -> str:
    """`ahead` if the whole interval favours the first, `behind` if the second, else `even`."""
    return {None: "even", pair.first: "ahead", pair.second: "behind"}[pair.better]


def slice_reading(slices: Slices, baseline: str) -> list[str]:
    """Where the model is ahead and where behind, in sentences; `baseline` is what they call it."""
    counted = [part for part in slices.slices if not part.small and part.difference("auc").interval is not None]
    small = sum(part.small and part.n > 0 for part in slices.slices)
    if not counted:
        return ["No slice has users and rows enough to say where the model is better and where it is worse."]
    ahead, behind = (slices.ahead(key) for key in (slices.model, slices.baseline))
    rest = len(counted) - len(ahead) - len(behind)
    said = [
        f"Against {baseline}, the model sorts better on {len(ahead)} of {len(counted)} slices and worse on "
        f"{len(behind)}; on {rest} the interval of the AUC's difference holds zero."
        + (f" {small} more are too small to count, and grey." if small else "")
    ]
    if ahead:
        said.append(f"It is ahead furthest on {_named(ahead)}.")
    if behind:
        said.append(f"It is behind furthest on {_named(behind)}.")
    return said


def _named(parts: Sequence[Slice]) -> str:
    told = []
    for part in parts[:NAMED]:
        told.append(f"{part.dimension}: {part.label} ({number(part.difference('auc').value or 0.0, signed=True)})")
    return "; ".join(told)
