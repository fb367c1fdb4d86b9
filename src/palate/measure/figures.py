"""Figures: how a number, an interval, a difference and a share are written, on every page and in every sentence."""

from palate.measure.bootstrap import Interval, detectable


def number(value: float, signed: bool = False) -> str:
    """Three decimals with a true minus sign; `signed` shows a plus too."""
    text = f"{value:+.3f}" if signed else f"{value:.3f}"
    return text.replace("-", "−")


def bounds(interval: Interval, signed: bool = False) -> str:
    """An interval as `[low, high]`."""
    return f"[{number(interval.low, signed)}, {number(interval.high, signed)}]"


def least(interval: Interval, detected: float | None = None) -> str:
    """The smallest difference that these rows detect, if the interval of a difference holds zero; else empty.

    `detected` is that size where it is not that of a percentile interval. An interval of width zero detects nothing.
    """
    if not interval.low <= 0 <= interval.high or interval.low == interval.high:
        return ""
    return number(detectable(interval) if detected is None else detected)


def difference_text(
    value: float | None, between: Interval | None, detected: float | None = None, *, prose: bool = False
) -> str:
    """A difference with its interval, and with the smallest one that these rows detect where it holds zero.

    `+0.004 [−0.010, +0.018], detects 0.020`, in `prose` with a clause of its own; a dash for an undefined difference.
    Every difference that has an interval is written here, so that no interval stands without its size.
    """
    if value is None:
        return "–"
    text = number(value, signed=True)
    if between is None:
        return text
    size = least(between, detected)
    found = "" if not size else f"; these rows detect differences from {size} on" if prose else f", detects {size}"
    return f"{text} {bounds(between, signed=True)}{found}"


def percent(share: float, decimals: int = 0) -> str:
    """A share in percent, its sign kept on the same line."""
    return f"{100 * share:.{decimals}f}\N{NO-BREAK SPACE}%"
