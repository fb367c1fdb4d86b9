"""Format numbers, intervals, differences and shares for every page and sentence."""

from palate.measure.bootstrap import Interval, detectable


def number(value: float, signed: bool = False) -> str:
    """Three decimals with a true minus sign; `signed` shows a plus too."""
    text = f"{value:+.3f}" if signed else f"{value:.3f}"
    return text.replace("-", "−")


def bounds(interval: Interval, signed: bool = False) -> str:
    """An interval as `[low, high]`."""
    return f"[{number(interval.low, signed)}, {number(interval.high, signed)}]"


def least(interval: Interval, detected: float | None = None) -> str:
    """The smallest difference that these rows detect, if the interval of a difference contains zero; else empty.

    `detected` overrides the size computed from a percentile interval. An interval of width zero detects nothing.
    """
    if not interval.low <= 0 <= interval.high or interval.low == interval.high:
        return ""
    return number(detectable(interval) if detected is None else detected)


def difference_text(
    value: float | None, between: Interval | None, detected: float | None = None, *, prose: bool = False
) -> str:
    """A difference with its interval, and, if that contains zero, the smallest difference that these rows detect.

    `+0.004 [−0.010, +0.018], detects 0.020`; `prose` writes a clause instead, and an undefined difference is a dash.
    All reports format differences here, so that none shows an interval without the detectable size.
    """
    if value is None:
        return "–"
    text = number(value, signed=True)
    if between is None:
        return text
    size = least(between, detected)
    found = "" if not size else f"; these rows detect differences of at least {size}" if prose else f", detects {size}"
    return f"{text} {bounds(between, signed=True)}{found}"


def percent(share: float, decimals: int = 0) -> str:
    """A share in percent, with a no-break space before the sign."""
    return f"{100 * share:.{decimals}f}\N{NO-BREAK SPACE}%"
