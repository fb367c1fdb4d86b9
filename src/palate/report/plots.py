"""Plots of the report: small SVG drawings whose colours are CSS classes, so that they follow the page's theme.

Drawn by hand and not by matplotlib: a class on a line is all that light, dark and print need, and a plot costs a few
kilobytes. The classes (`m0`…, `base`, `grid`, `axis`, `diagonal`, `cutoff`, `faint`) are styled in the template.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from palate.measure.bootstrap import Interval
from palate.measure.curves import HistogramBin, ReliabilityBin
from palate.measure.evaluation import Entry
from palate.measure.keys import ALONE, BESIDE, CALIBRATED, FINE_TUNED, MEAN, STACKED, ZERO_SHOT
from palate.measure.metrics import Metrics

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 480, 62, 14, 12, 46

LINED = 0.005
"""Share of the rows that a reliability bin must hold for the line to go through it: two rows make no trend."""


@dataclass(frozen=True)
class Axes:
    """A rectangle of data on a drawing of `WIDTH` by `height` units."""

    x: tuple[float, float]
    y: tuple[float, float]
    height: int = 300

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point of data lies on the drawing."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0] or 1)
        up = (y - self.y[0]) / (self.y[1] - self.y[0] or 1)
        return (
            round(LEFT + across * (WIDTH - LEFT - RIGHT), 1),
            round(self.height - BOTTOM - up * (self.height - TOP - BOTTOM), 1),
        )

    def line(self, points: Iterable[tuple[float, float]], css: str, title: str = "") -> Markup:
        """A line through points of data."""
        path = " ".join("{},{}".format(*self.at(x, y)) for x, y in points)
        return Markup('<polyline class="line {}" points="{}"><title>{}</title></polyline>').format(css, path, title)

    def bar(self, low: float, high: float, base: float, top: float, css: str, title: str) -> Markup:
        """A bar from `base` to `top` over [low, high], with a hair of space to the next."""
        (x0, y0), (x1, y1) = self.at(low, base), self.at(high, top)
        box = (x0 + 0.5, min(y0, y1), max(x1 - x0 - 1, 0.6), round(abs(y1 - y0), 1))
        return Markup('<rect class="{}" x="{:.1f}" y="{}" width="{:.1f}" height="{}"><title>{}</title></rect>').format(
            css, *box, title
        )

    def drawing(
        self,
        name: str,
        x_title: str,
        y_title: str,
        marks: Iterable[Markup],
        y_text: Callable[[float], str] | None = None,
    ) -> Markup:
        """The whole drawing: grid, ticks and titles around the marks; `name` is what a screen reader says."""
        parts = []
        step = tick_step(*self.y)
        for y in ticks(*self.y):
            (x0, py), (x1, _) = self.at(self.x[0], y), self.at(self.x[1], y)
            text = y_text(y) if y_text else tick_text(y, step)
            parts.append(Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(x0, x1, py, py))
            parts.append(
                Markup('<text class="tick" x="{}" y="{}" text-anchor="end">{}</text>').format(x0 - 8, py + 4, text)
            )
        step = tick_step(*self.x)
        for x in ticks(*self.x):
            px, py = self.at(x, self.y[0])
            text = tick_text(x, step)
            parts.append(Markup('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(px, px, py, py + 4))
            parts.append(
                Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>').format(px, py + 18, text)
            )
        (x0, y0), (x1, y1) = self.at(self.x[0], self.y[0]), self.at(self.x[1], self.y[1])
        parts.append(Markup('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(x0, x1, y0, y0))
        parts.extend(marks)
        parts.append(
            Markup('<text class="title" x="{}" y="{}" text-anchor="middle">{}</text>').format(
                (x0 + x1) / 2, self.height - 6, x_title
            )
        )
        parts.append(
            Markup(
                '<text class="title" transform="translate(12 {}) rotate(-90)" text-anchor="middle">{}</text>'
            ).format((y0 + y1) / 2, y_title)
        )
        return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
            WIDTH, self.height, name, Markup("").join(parts)
        )


def tick_step(low: float, high: float, about: int = 5) -> float:
    """A round distance (1, 2 or 5 times a power of ten) that cuts [low, high] into about so many parts."""
    raw = (high - low or 1) / about
    power = 10.0 ** math.floor(math.log10(raw))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)


def ticks(low: float, high: float) -> list[float]:
    """Round numbers within [low, high]."""
    step = tick_step(low, high)
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def tick_text(value: float, step: float) -> str:
    """A tick's number with as many decimals as its step has."""
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:,.{decimals}f}".replace("-", "−")


def css_of(key: str, position: int) -> str:
    """The class of a model's ink: the rows that a run has keep theirs wherever they stand, calibrated or not."""
    known = {ZERO_SHOT: "m0", STACKED: "m2", MEAN: "m3", BESIDE: "m5", ALONE: "m4"}
    if key.startswith(FINE_TUNED):
        return "m1"
    return known.get(key.removesuffix(CALIBRATED), f"m{2 + position % 3}")


def roc_plot(models: Sequence[Entry], baselines: Sequence[Entry]) -> Markup:
    """ROC curves: baselines in thin grey under the models."""
    axes = Axes((0, 1), (0, 1), height=430)
    marks = [axes.line([(0, 0), (1, 1)], "diagonal")]
    marks += [axes.line(e.roc, "base", f"{e.label}: AUC {_auc(e.metrics)}") for e in baselines if len(e.roc) > 2]
    marks += [
        axes.line(e.roc, css_of(e.key, i), f"{e.label}: AUC {_auc(e.metrics)}") for i, e in enumerate(models) if e.roc
    ]
    return axes.drawing("ROC curves", "disliked rows taken for liked", "liked rows found", marks)


def reliability_plot(models: Sequence[Entry], baseline: Entry | None) -> Markup:
    """Reliability curves: what came true against what was said; a dot's area is its share of the rows."""
    axes = Axes((0, 1), (0, 1), height=430)
    marks = [axes.line([(0, 0), (1, 1)], "diagonal")]
    inks = [(baseline, "base")] if baseline else []
    for entry, css in [*inks, *((e, css_of(e.key, i)) for i, e in enumerate(models))]:
        filled = [b for b in entry.reliability if b.count]
        lined = [b for b in filled if b.count >= LINED * entry.metrics.n]
        marks.append(axes.line([(b.mean_p or 0, b.share_liked or 0) for b in lined], css, entry.label))
        marks += [_dot(axes, b, entry, css) for b in filled]
    return axes.drawing("Reliability curves", "predicted P(like)", "share that was liked", marks)


def calibration_plot(before: Entry, after: Entry, css: str) -> Markup:
    """Reliability of one model before its calibration, dashed and faint, and after it."""
    axes = Axes((0, 1), (0, 1), height=430)
    marks = [axes.line([(0, 0), (1, 1)], "diagonal")]
    for entry, ink in ((before, f"{css} before"), (after, css)):
        filled = [b for b in entry.reliability if b.count]
        lined = [b for b in filled if b.count >= LINED * entry.metrics.n]
        marks.append(axes.line([(b.mean_p or 0, b.share_liked or 0) for b in lined], ink, entry.label))
        marks += [_dot(axes, b, entry, ink) for b in filled]
    return axes.drawing(
        f"Reliability of {before.label} before and after", "predicted P(like)", "share that was liked", marks
    )


def score_plot(entry: Entry, css: str, tallest: int) -> Markup:
    """The scores of one model: liked rows upwards, disliked ones downwards, on a scale that several plots share."""
    axes = Axes((0, 1), (-tallest, tallest), height=260)
    marks = [mark for b in entry.histogram for mark in _class_bars(axes, b, css)]
    zero = axes.at(0, 0)[1]
    marks.append(Markup('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(LEFT, WIDTH - RIGHT, zero, zero))
    return axes.drawing(f"Scores of {entry.label} by class", "P(like)", "rows", marks, lambda y: f"{abs(y):,.0f}")


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
    """Token lengths with the cutoff, beyond which a sample loses tokens."""
    bins = length_bins(lengths, cutoff)
    end = max(bins[-1][1], cutoff)
    axes = Axes((bins[0][0], end + 0.02 * (end - bins[0][0])), (0, 1.08 * max(count for *_, count in bins)))
    marks = [
        axes.bar(low, high, 0, count, "m1" if high <= cutoff + 1 else "over", f"{low} to {high - 1} tokens: {count:,}")
        for low, high, count in bins
        if count
    ]
    (x, y0), (_, y1) = axes.at(cutoff, 0), axes.at(cutoff, axes.y[1])
    marks.append(Markup('<line class="cutoff" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(x, x, y0, y1))
    side, anchor = (-6, "end") if x > WIDTH / 2 else (6, "start")
    marks.append(
        Markup('<text class="note" x="{}" y="{}" text-anchor="{}">cutoff {:,}</text>').format(
            x + side, y1 + 12, anchor, cutoff
        )
    )
    return axes.drawing("Token lengths", "tokens a sample", "samples", marks)


def loss_plot(training: Sequence[Mapping[str, Any]]) -> Markup:
    """Training loss over steps, and evaluation loss where there is one."""
    curves = {name: loss_points(training, name) for name in ("loss", "eval_loss")}
    every = [point for points in curves.values() for point in points]
    steps, losses = [x for x, _ in every], [y for _, y in every]
    axes = Axes((min(0, *steps), max(steps)), (0, 1.05 * max(losses) or 1))
    marks = [axes.line(curves["loss"], "m1", "training loss")] if curves["loss"] else []
    if curves["eval_loss"]:
        marks.append(axes.line(curves["eval_loss"], "m0", "evaluation loss"))
        for step, loss in curves["eval_loss"]:
            x, y = axes.at(step, loss)
            marks.append(
                Markup('<circle class="m0" cx="{}" cy="{}" r="4"><title>step {}: {:.4f}</title></circle>').format(
                    x, y, step, loss
                )
            )
    return axes.drawing("Training loss", "step", "loss (nats)", marks)


def loss_points(training: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    """The finite (step, value) pairs of one curve."""
    found = [(float(r["step"]), float(r[name])) for r in training if r.get(name) is not None]
    return [(step, value) for step, value in found if math.isfinite(value)]


def interval_scale(intervals: Iterable[Interval | None], start: float = 0.5) -> tuple[float, float]:
    """A scale with round ends that holds every interval, and `start` where nothing does."""
    found = [i for i in intervals if i is not None]
    low = math.floor(20 * min((i.low for i in found), default=start)) / 20
    return low, max(low + 0.1, math.ceil(20 * max((i.high for i in found), default=start + 0.1)) / 20)


def interval_plot(value: float, interval: Interval, scale: tuple[float, float], mark: float | None, css: str) -> Markup:
    """A value and its interval on a line, for a table's cell; `mark` is the value to beat."""

    def at(v: float) -> float:
        return round(4 + 172 * (v - scale[0]) / (scale[1] - scale[0]), 1)

    beaten = Markup("")
    if mark is not None:
        beaten = Markup('<line class="mark" x1="{0}" x2="{0}" y1="0" y2="22"/>').format(at(mark))
    name = f"{value:.3f}, 95 % interval {interval.low:.3f} to {interval.high:.3f}"
    return Markup(
        '<svg class="interval" viewBox="0 0 180 22" role="img" aria-label="{}"><title>{}</title>{}'
        '<line class="line {}" x1="{}" x2="{}" y1="11" y2="11"/><circle class="{}" cx="{}" cy="11" r="4.5"/></svg>'
    ).format(name, name, beaten, css, at(interval.low), at(interval.high), css, at(value))


def _auc(metrics: Metrics) -> str:
    return "–" if metrics.auc is None else f"{metrics.auc:.3f}"


def _dot(axes: Axes, b: ReliabilityBin, entry: Entry, css: str) -> Markup:
    x, y = axes.at(b.mean_p or 0, b.share_liked or 0)
    radius = 2.5 + 14 * math.sqrt(b.count / max(1, entry.metrics.n)) / 2
    told = f"{entry.label}: {b.count:,} rows said {b.mean_p:.2f}, {b.share_liked:.2f} liked"
    return Markup('<circle class="dot {}" cx="{}" cy="{}" r="{:.1f}"><title>{}</title></circle>').format(
        css, x, y, radius, told
    )


def _class_bars(axes: Axes, b: HistogramBin, css: str) -> list[Markup]:
    within = f"P(like) {b.low:.2f} to {b.high:.2f}"
    bars = []
    if b.liked:
        bars.append(axes.bar(b.low, b.high, 0, b.liked, css, f"{within}: {b.liked:,} liked"))
    if b.disliked:
        bars.append(axes.bar(b.low, b.high, 0, -b.disliked, f"{css} faint", f"{within}: {b.disliked:,} disliked"))
    return bars
