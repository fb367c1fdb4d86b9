"""Plots of the pages: small SVG drawings with CSS classes as colours, so that they follow the page's theme.

The module writes SVG itself, as matplotlib's output has fixed colours and is larger. `style.css` styles the classes
(`m0`…, `base`, `grid`, `axis`, `diagonal`, `cutoff`, `faint`).
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from palate.measure.bootstrap import Interval
from palate.measure.curves import HistogramBin
from palate.measure.evaluation import Entry
from palate.measure.figures import least, number
from palate.measure.keys import ALONE, BESIDE, CALIBRATED, FINE_TUNED, MEAN, STACKED, ZERO_SHOT
from palate.measure.paired import Paired

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 480, 62, 14, 12, 46
LINED = 0.005
"""Minimum share of the rows in a reliability bin on the line: two rows make no trend."""
FOREST_WIDTH, FOREST_HEIGHT, EDGE = 150, 20, 8
WIDEST = 0.3
"""Maximum reach of a forest's scale: one slice of thirty rows must not shrink all others."""

Point = tuple[float, float]


def tag(name: str, inner: object = None, **attributes: object) -> Markup:
    """An element of SVG; `class_` is its class, and `_` within a name stands for `-`. Text is escaped."""
    pairs = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items()
    )
    return Markup("<{}{}/>" if inner is None else "<{0}{1}>{2}</{0}>").format(name, pairs, inner)


def line(css: str, x1: float, x2: float, y1: float, y2: float) -> Markup:
    """A straight line between two places of a drawing."""
    return tag("line", class_=css, x1=x1, x2=x2, y1=y1, y2=y2)


@dataclass(frozen=True)
class Axes:
    """A rectangle of data on a drawing of `WIDTH` by `height` units."""

    x: Point
    y: Point
    height: int = 300

    def at(self, x: float, y: float) -> Point:
        """The place of a data point on the drawing."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0] or 1)
        up = (y - self.y[0]) / (self.y[1] - self.y[0] or 1)
        return (
            round(LEFT + across * (WIDTH - LEFT - RIGHT), 1),
            round(self.height - BOTTOM - up * (self.height - TOP - BOTTOM), 1),
        )

    def curve(self, points: Iterable[Point], css: str, title: str = "") -> Markup:
        """A line through points of data."""
        path = " ".join("{},{}".format(*self.at(x, y)) for x, y in points)
        return tag("polyline", tag("title", title), class_=f"line {css}", points=path)

    def bar(self, low: float, high: float, top: float, css: str, title: str) -> Markup:
        """A bar from zero to `top` over [low, high], with one unit of space to the next."""
        (x0, y0), (x1, y1) = self.at(low, 0), self.at(high, top)
        width, height = f"{max(x1 - x0 - 1, 0.6):.1f}", round(abs(y1 - y0), 1)
        place = {"x": f"{x0 + 0.5:.1f}", "y": min(y0, y1), "width": width, "height": height}
        return tag("rect", tag("title", title), class_=css, **place)

    def dot(self, x: float, y: float, css: str, radius: object, title: str) -> Markup:
        """A point of data."""
        across, down = self.at(x, y)
        return tag("circle", tag("title", title), class_=css, cx=across, cy=down, r=radius)

    def limit(self, at: float, text: str) -> Markup:
        """A dashed line across the drawing, with its text on the side that has more space."""
        (x, y0), (_, y1) = self.at(at, self.y[0]), self.at(at, self.y[1])
        side, anchor = (-6, "end") if x > WIDTH / 2 else (6, "start")
        note = tag("text", text, class_="note", x=x + side, y=y1 + 12, text_anchor=anchor)
        return line("cutoff", x, x, y0, y1) + note

    def drawing(
        self,
        name: str,
        x_title: str,
        y_title: str,
        marks: Iterable[Markup],
        y_text: Callable[[float], str] | None = None,
        x_text: Callable[[float], str] | None = None,
    ) -> Markup:
        """The whole drawing: grid, ticks and titles around the marks; screen readers read `name`."""
        (x0, y0), (x1, y1) = self.at(self.x[0], self.y[0]), self.at(self.x[1], self.y[1])
        parts, step = [], tick_step(*self.y)
        for y in ticks(*self.y):
            py = self.at(self.x[0], y)[1]
            text = y_text(y) if y_text else tick_text(y, step)
            parts.append(line("grid", x0, x1, py, py))
            parts.append(tag("text", text, class_="tick", x=x0 - 8, y=py + 4, text_anchor="end"))
        step = tick_step(*self.x)
        for x in ticks(*self.x):
            px = self.at(x, self.y[0])[0]
            parts.append(line("axis", px, px, y0, y0 + 4))
            text = x_text(x) if x_text else tick_text(x, step)
            parts.append(tag("text", text, class_="tick", x=px, y=y0 + 18, text_anchor="middle"))
        turned = f"translate(12 {(y0 + y1) / 2}) rotate(-90)"
        parts += [
            line("axis", x0, x1, y0, y0),
            *marks,
            tag("text", x_title, class_="title", x=(x0 + x1) / 2, y=self.height - 6, text_anchor="middle"),
            tag("text", y_title, class_="title", transform=turned, text_anchor="middle"),
        ]
        inner = Markup("").join(parts)
        return tag("svg", inner, viewBox=f"0 0 {WIDTH} {self.height}", role="img", aria_label=name)


def tick_step(low: float, high: float, about: int = 5) -> float:
    """A round distance (1, 2 or 5 times a power of ten) that divides [low, high] into about `about` parts."""
    raw = (high - low or 1) / about
    power = 10.0 ** math.floor(math.log10(raw))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)


def ticks(low: float, high: float) -> list[float]:
    """Round numbers within [low, high]."""
    step = tick_step(low, high)
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def tick_text(value: float, step: float) -> str:
    """A tick's number with the decimals of its step."""
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:,.{decimals}f}".replace("-", "−")


def css_of(key: str, position: int) -> str:
    """The class of a model's ink: fixed for the rows of a run, calibrated or not; others by position."""
    known = {ZERO_SHOT: "m0", STACKED: "m2", MEAN: "m3", BESIDE: "m5", ALONE: "m4"}
    if key.startswith(FINE_TUNED):
        return "m1"
    return known.get(key.removesuffix(CALIBRATED), f"m{2 + position % 3}")


def roc_plot(models: Sequence[Entry], baselines: Sequence[Entry]) -> Markup:
    """ROC curves: baselines in thin grey under the models."""
    axes = Axes((0, 1), (0, 1), height=430)
    shown = [(e, "base") for e in baselines if len(e.roc) > 2]
    shown += [(e, css_of(e.key, i)) for i, e in enumerate(models) if e.roc]
    marks = [axes.curve([(0, 0), (1, 1)], "diagonal")]
    for e, css in shown:
        auc = "–" if e.metrics.auc is None else f"{e.metrics.auc:.3f}"
        marks.append(axes.curve(e.roc, css, f"{e.label}: AUC {auc}"))
    return axes.drawing("ROC curves", "disliked rows taken for liked", "liked rows found", marks)


def reliability_plot(models: Sequence[Entry], baseline: Entry | None) -> Markup:
    """Reliability curves: the liked share against P(like); a dot's area is its share of the rows."""
    inks = [(baseline, "base")] if baseline else []
    return _reliability("Reliability curves", [*inks, *((e, css_of(e.key, i)) for i, e in enumerate(models))])


def calibration_plot(before: Entry, after: Entry, css: str) -> Markup:
    """Reliability of one model before its calibration, dashed and faint, and after it."""
    name = f"Reliability of {before.label} before and after"
    return _reliability(name, [(before, f"{css} before"), (after, css)])


def _reliability(name: str, inks: Iterable[tuple[Entry, str]]) -> Markup:
    axes = Axes((0, 1), (0, 1), height=430)
    marks = [axes.curve([(0, 0), (1, 1)], "diagonal")]
    for entry, css in inks:
        filled = [(b, b.mean_p or 0.0, b.share_liked or 0.0) for b in entry.reliability if b.count]
        lined = [(x, y) for b, x, y in filled if b.count >= LINED * entry.metrics.n]
        marks.append(axes.curve(lined, css, entry.label))
        for b, x, y in filled:
            radius = 2.5 + 14 * math.sqrt(b.count / max(1, entry.metrics.n)) / 2
            title = f"{entry.label}: {b.count:,} rows, P(like) {x:.2f}, {y:.2f} liked"
            marks.append(axes.dot(x, y, f"dot {css}", f"{radius:.1f}", title))
    return axes.drawing(name, "predicted P(like)", "share that was liked", marks)


def score_plot(entry: Entry, css: str, tallest: int) -> Markup:
    """The scores of one model: liked rows upwards, disliked ones downwards, on a scale that several plots share."""
    axes = Axes((0, 1), (-tallest, tallest), height=260)
    marks = [mark for b in entry.histogram for mark in _class_bars(axes, b, css)]
    zero = axes.at(0, 0)[1]
    marks.append(line("axis", LEFT, WIDTH - RIGHT, zero, zero))
    return axes.drawing(f"Scores of {entry.label} by class", "P(like)", "rows", marks, lambda y: f"{abs(y):,.0f}")


def _class_bars(axes: Axes, b: HistogramBin, css: str) -> list[Markup]:
    within = f"P(like) {b.low:.2f} to {b.high:.2f}"
    kinds = ((b.liked, 1, css, "liked"), (b.disliked, -1, f"{css} faint", "disliked"))
    return [axes.bar(b.low, b.high, side * n, ink, f"{within}: {n:,} {kind}") for n, side, ink, kind in kinds if n]


def length_bins(lengths: Mapping[int, int], cutoff: int, bins: int = 100) -> list[tuple[int, int, int]]:
    """Token lengths as (low, high, count), `high` excluded, in bins of one round width that reach the cutoff."""
    low, high = min(lengths), max(max(lengths), cutoff)
    width = max(1, round(tick_step(low, high, bins)))
    first = low // width
    counts = [0] * (max(lengths) // width - first + 1)
    for length, count in lengths.items():
        counts[length // width - first] += count
    return [((first + i) * width, (first + i + 1) * width, count) for i, count in enumerate(counts)]


def length_plot(lengths: Mapping[int, int], cutoff: int) -> Markup:
    """Token lengths and the cutoff, above which samples lose tokens."""
    bins = length_bins(lengths, cutoff)
    end = max(bins[-1][1], cutoff)
    axes = Axes((bins[0][0], end + 0.02 * (end - bins[0][0])), (0, 1.08 * max(count for *_, count in bins)))
    marks = [
        axes.bar(low, high, count, "m1" if high <= cutoff + 1 else "over", f"{low} to {high - 1} tokens: {count:,}")
        for low, high, count in bins
        if count
    ]
    marks.append(axes.limit(cutoff, f"cutoff {cutoff:,}"))
    return axes.drawing("Token lengths", "tokens a sample", "samples", marks)


def loss_plot(training: Sequence[Mapping[str, Any]]) -> Markup:
    """Training loss over steps, and evaluation loss where there is one."""
    trained, evaluated = (loss_points(training, name) for name in ("loss", "eval_loss"))
    steps, losses = zip(*trained, *evaluated, strict=True)
    axes = Axes((min(0, *steps), max(steps)), (0, 1.05 * max(losses) or 1))
    marks = [axes.curve(trained, "m1", "training loss")] if trained else []
    if evaluated:
        marks.append(axes.curve(evaluated, "m0", "evaluation loss"))
        marks += [axes.dot(step, loss, "m0", 4, f"step {step}: {loss:.4f}") for step, loss in evaluated]
    return axes.drawing("Training loss", "step", "loss (nats)", marks)


def loss_points(training: Sequence[Mapping[str, Any]], name: str) -> list[Point]:
    """The finite (step, value) pairs of one curve."""
    found = [(float(r["step"]), float(r[name])) for r in training if r.get(name) is not None]
    return [(step, value) for step, value in found if math.isfinite(value)]


def interval_scale(intervals: Iterable[Interval | None], start: float = 0.5) -> Point:
    """A scale with round ends that contains every interval; `start` is its low end without any."""
    found = [i for i in intervals if i is not None]
    low = math.floor(20 * min((i.low for i in found), default=start)) / 20
    return low, max(low + 0.1, math.ceil(20 * max((i.high for i in found), default=start + 0.1)) / 20)


def interval_plot(value: float, interval: Interval, scale: Point, mark: float | None, css: str) -> Markup:
    """A value and its interval on a line, for a table's cell; `mark` is the value to beat."""

    def at(v: float) -> float:
        return round(4 + 172 * (v - scale[0]) / (scale[1] - scale[0]), 1)

    name = f"{value:.3f}, 95 % interval {interval.low:.3f} to {interval.high:.3f}"
    parts = [
        tag("title", name),
        line("mark", at(mark), at(mark), 0, 22) if mark is not None else Markup(""),
        line(f"line {css}", at(interval.low), at(interval.high), 11, 11),
        tag("circle", class_=css, cx=at(value), cy=11, r=4.5),
    ]
    return tag("svg", Markup("").join(parts), class_="interval", viewBox="0 0 180 22", role="img", aria_label=name)


def forest_scale(intervals: Iterable[Interval | None]) -> float:
    """The reach of a scale around zero that contains the intervals: a round number, at most `WIDEST`."""
    reach = max((max(-i.low, i.high) for i in intervals if i is not None), default=WIDEST)
    return min(WIDEST, max(0.02, math.ceil(50 * reach) / 50))


def difference_plot(pair: Paired, reach: float) -> Markup:
    """A difference and its interval on a line from −reach to reach; an arrow marks an end beyond it.

    Its class says who is ahead with the whole interval: `ahead` (the first), `behind` or `even`.
    """
    if pair.value is None:
        return Markup("")

    def at(value: float) -> float:
        inside = min(max(value, -reach), reach)
        return round(FOREST_WIDTH / 2 + inside / reach * (FOREST_WIDTH / 2 - EDGE), 1)

    css = {None: "even", pair.first: "ahead", pair.second: "behind"}[pair.better]
    name, middle = number(pair.value, signed=True), FOREST_HEIGHT // 2
    parts = [line("zero", at(0), at(0), 0, FOREST_HEIGHT)]
    if (between := pair.interval) is not None:
        name += f", 95 % interval {number(between.low, signed=True)} to {number(between.high, signed=True)}"
        name += f", detects {size}" if (size := least(between)) else ""
        parts.append(line(f"line {css}", at(between.low), at(between.high), middle, middle))
        for end, beyond, out in ((-reach, between.low < -reach, -6), (reach, between.high > reach, 6)):
            if beyond:
                parts.append(tag("path", class_=css, d=f"M{at(end) + out} {middle}l{-out} 4l0 -8z"))
    if abs(pair.value) <= reach:
        parts.append(tag("circle", class_=css, cx=at(pair.value), cy=middle, r=4))
    inner, box = Markup("").join([tag("title", name), *parts]), f"0 0 {FOREST_WIDTH} {FOREST_HEIGHT}"
    return tag("svg", inner, viewBox=box, role="img", aria_label=name)
