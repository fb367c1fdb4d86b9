"""Pictures of a log: its ratings, users, items and times."""

import math
from itertools import pairwise

import numpy as np
from markupsafe import Markup

from palate.report.plots import Axes
from palate.samples.profile import Profile, bars_of, date_of

DAY = 86_400
LONGEST = 40
"""The longest history in the picture of what each length keeps."""


def short(count: float) -> str:
    """A count for an axis: 200, 10k, 1.5M."""
    if count >= 1e6:
        return f"{count / 1e6:g}M"
    return f"{count / 1e3:g}k" if count >= 1e4 else f"{count:,g}"


def rating_plot(found: Profile) -> Markup:
    """The distribution of the ratings; those that are a Yes are coloured."""
    bars, threshold = bars_of(found), found.options.rating_threshold
    axes = Axes((bars[0].begin, bars[-1].end), (0, 1.08 * max(bar.ratings for bar in bars)))
    marks = [
        axes.bar(b.begin, b.end, b.ratings, "m1" if b.low >= threshold else "m0 faint", f"{b.label}: {b.ratings:,}")
        for b in bars
    ]
    return axes.drawing("Ratings by value", "rating", "ratings", marks, short)


def octaves(sizes: np.ndarray) -> list[tuple[int, int, int]]:
    """Sizes as (low, high, count), `high` included: 1, 2 to 3, 4 to 7, 8 to 15, and so on."""
    counts = np.bincount(np.log2(sizes).astype(int))
    return [(2**n, 2 ** (n + 1) - 1, int(count)) for n, count in enumerate(counts)]


def size_plot(sizes: np.ndarray, noun: str, need: int | None = None) -> Markup:
    """Users or items by their number of ratings; a dashed line at the ratings that a sample needs."""
    found = octaves(sizes)
    axes = Axes((0, max(4, len(found))), (0, 1.08 * max(count for *_, count in found)))
    marks = []
    for n, (low, high, count) in enumerate(found):
        css = "m0 faint" if need is not None and high < need else "m0"
        marks.append(axes.bar(n, n + 1, count, css, f"{low:,} to {high:,} ratings: {count:,} {noun}"))
    if need is not None:
        marks.append(axes.limit(math.log2(need), f"{need} ratings"))
    name = f"{noun.capitalize()} by their number of ratings"
    return axes.drawing(name, f"ratings of one of the {noun}", noun, marks, short, lambda x: f"{2**x:,.0f}")


def kept_plot(found: Profile) -> Markup:
    """The share of the users, and of the ratings as samples, that each length of the history keeps."""
    need = found.options.history_len
    axes = Axes((1, max(LONGEST, need)), (0, 1.1))  # space for the text of the line
    kept = [found.keeps(n) for n in range(1, max(LONGEST, need) + 1)]
    users = [(k.history_len, k.users / found.users) for k in kept]
    samples = [(k.history_len, k.samples / found.ratings) for k in kept]
    marks = [
        axes.curve(users, "m0", "users with samples"),
        axes.curve(samples, "m1", "ratings that are samples"),
        axes.limit(need, f"history_len {need}"),
    ]
    return axes.drawing("What each history_len keeps", "history_len", "share", marks, lambda y: f"{y:.0%}")


def popularity_points(found: Profile) -> list[tuple[float, float]]:
    """The share of the ratings that the most rated items have, by their share of the items."""
    share = np.concatenate([[0], np.cumsum(found.sizes[1][::-1])]) / found.ratings
    place = np.linspace(0, 1, share.size)
    at = np.linspace(0, 1, 101)
    return list(zip(at.tolist(), np.interp(at, place, share).tolist(), strict=True))


def popularity_plot(found: Profile) -> Markup:
    """How unequal the items are: a diagonal if all had as many ratings."""
    axes = Axes((0, 1), (0, 1))
    marks = [
        axes.curve([(0, 0), (1, 1)], "diagonal"),
        axes.curve(popularity_points(found), "m1", "ratings of the most rated items"),
    ]
    percent = "{:.0%}".format
    return axes.drawing("Popularity", "items, most rated first", "ratings", marks, percent, percent)


def time_parts(found: Profile) -> list[tuple[float, float, int]]:
    """Ratings in equal parts of the time, as (first day, last day, ratings); days since 1970."""
    first, last = (time / DAY for time in found.times)
    edges = np.linspace(first, max(last, first + 1), found.by_time.size + 1).tolist()
    return [(*ends, count) for ends, count in zip(pairwise(edges), found.by_time.tolist(), strict=True)]


def day_text(day: float) -> str:
    """The ISO date of a day."""
    return date_of(round(day * DAY))


def time_plot(found: Profile) -> Markup:
    """Ratings over time, in equal parts."""
    parts = time_parts(found)
    axes = Axes((parts[0][0], parts[-1][1]), (0, 1.08 * max(count for *_, count in parts)))
    marks = [axes.bar(a, b, n, "m1", f"{day_text(a)} to {day_text(b)}: {n:,}") for a, b, n in parts if n]
    shown = 7 if axes.x[1] - axes.x[0] > 200 else 10
    return axes.drawing("Ratings over time", "date", "ratings", marks, short, lambda day: day_text(day)[:shown])
