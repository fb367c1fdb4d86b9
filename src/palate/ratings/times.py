"""Times of ratings: numbers in any unit, dates and times as text, and columns of dates become whole numbers.

One form holds for a whole column. `time_form` finds it, `TimeForm.values` applies it to a column or a part of one.
"""

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from palate.ratings.order import in_order
from palate.store.scratch import Scratch, blocks_of, filled

UNITS = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
_BORDER = 10**11
"""Seconds of the year 5138, and milliseconds of 1973: larger numbers are in the next smaller unit."""
_YEAR_1 = -62_135_596_800
"""Seconds of the year 1, the first of Python's dates."""
_EPOCH = 25_569
"""Excel counts days; this one is 1970-01-01."""
_COMPACT = (("%Y%m%d", 19700101, 20991231), ("%Y%m%d%H%M%S", 19700101000000, 20991231235959))
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_TEXT = (
    r"^(?:(?P<year>\d{4})([-/.])(?P<month>\d{1,2})[-/.](?P<day>\d{1,2})"
    r"|(?P<first>\d{1,2})[-/.](?P<second>\d{1,2})[-/.](?P<late_year>\d{4}))"
    r"(?:(?:[T ]|, ?)(?P<hours>\d{1,2}):(?P<minutes>\d\d)(?::(?P<seconds>\d\d)(?:[.,](?P<fraction>\d{1,9})\d*)?)?"
    r"(?: ?(?P<half>[AaPp])[Mm])?"
    r" ?(?:[Zz]|UTC|GMT|(?P<sign>[+-])(?P<zone_hours>\d\d)(?::?(?P<zone_minutes>\d\d))?)?)?$"
)
"""ISO dates and times, and dates such as 13.5.2024 or 5/13/2024 with or without a time."""
_DATE = r"^\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}"
_USUAL = ("%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d")
_NAMED = (
    "%a %b %d %H:%M:%S %z %Y",  # Sun Jul 30 07:44:10 -0700 2017
    "%a, %d %b %Y %H:%M:%S %z",  # Sun, 30 Jul 2017 07:44:10 -0700
    "%b %d, %Y %I:%M %p",  # Jul 30, 2017 7:44 AM
    "%b %d, %Y",
    "%a, %b %d, %Y",
    "%b %d %Y",
    "%d %b %Y",
    "%d %b, %Y",
    "%d-%b-%Y",
    "%d-%b-%y",  # 30-Jul-17, as Oracle writes it
    "%d %b %y",
    "%a, %d %b %Y %H:%M:%S GMT",
    "%d/%b/%Y:%H:%M:%S %z",  # the log of a web server
    "%Y%m%dT%H%M%SZ",
    "%m %d, %Y",  # 07 30, 2017
)
"""Dates with words, or with a comma."""
_LONG_NAME = r"(?i)\b(jan|feb|mar|apr|jun|jul|aug|sep|oct|nov|dec|mon|tue|wed|thu|fri|sat|sun)[a-z]*\.?"
"""A name of a month or a day, also in full or with a dot: `%b` and `%a` of Polars read three letters alone."""
_SHORT_YEAR = r"^\d{1,2}[-/.]\d{1,2}[-/.]\d{2}(\D|$)"
EXPECTED = "expected a time such as 2024-05-01T12:00:00Z"


class TimesError(ValueError):
    """A column has no single form; `row` is the first row that shows it."""

    def __init__(self, problem: str, row: int) -> None:
        super().__init__(problem)
        self.row = row


@dataclass(frozen=True)
class TimeForm:
    """How a column writes times, and the integers that they become: `per_second` of them in a second since 1970."""

    name: str
    per_second: int
    kind: Literal["number", "compact", "text", "named", "column"] = "number"
    day_first: bool = False
    pattern: str = ""
    fractions: bool = False
    """Whether numbers have fractions: they are multiplied by `per_second`."""

    def values(self, column: pl.Series) -> pl.Series:
        """The times as integers, Int64; null for a value of another form."""
        if self.kind == "column":
            numbers = (column.cast(pl.Datetime("ms")) if column.dtype == pl.Date else column).to_physical()
            return _within(numbers, _YEAR_1 * self.per_second, _BORDER * self.per_second)
        if self.kind == "text":
            return _from_text(column, self.day_first)
        if self.kind == "named":
            return _of_named(column, self.pattern)
        if self.fractions:
            numbers = (_floats(column) * self.per_second).round().cast(pl.Int64, strict=False)
            return _within(numbers, -(2**63), _BORDER * self.per_second)
        numbers = as_integers(column) if column.dtype == pl.String else column.cast(pl.Int64, strict=False)
        if self.kind == "number" and self.per_second > 1:  # fractions of a millisecond do not count
            numbers = numbers.fill_null(_floats(column).floor().cast(pl.Int64, strict=False))
        if self.kind == "compact":
            return numbers.cast(pl.String).str.to_datetime(self.pattern, strict=False, time_unit="ms").to_physical()
        if self.per_second == 1 and int(numbers.max() or 0) < _BORDER:  # type: ignore[arg-type]
            return numbers
        low = _BORDER * self.per_second // 1000 if self.per_second > 1 else -(2**63)
        return _within(numbers, low, _BORDER * self.per_second)

    def problem(self, name: str, value: str) -> str:
        """What is wrong with a value that `values` makes null or negative."""
        if self.kind == "named":
            date = self.values(pl.Series([value]))[0]
            return f"{name} {value!r} is " + (
                "before 1970, expected later" if date is not None else f"not a time, expected {self.name}"
            )
        if self.kind in ("text", "column"):
            date = _from_text(pl.Series([value]), self.day_first)[0]
            return f"{name} {value!r} is " + (
                f"not a time, {EXPECTED}" if date is None else "before 1970, expected later"
            )
        number = float(value) if _NUMBER.fullmatch(value) else None
        expected = f"expected {self.name} since 1970" if self.kind == "number" else f"expected {self.name}"
        if number is None or not (self.fractions or number.is_integer()):
            return f"{name} {value!r} is not a number, {expected}, or dates in all rows"
        if number < 0:
            return f"{name} {value} is negative, {expected}"
        if self.kind == "number" and number < 2**63:
            own = next(unit for unit, per_second in UNITS.items() if number < _BORDER * per_second)
            return f"{name} {value} is in another unit than the rows around it: {own}, {expected}"
        return f"{name} {value} is " + (f"too large, {expected}" if self.kind == "number" else f"no date, {expected}")

    def shown(self, value: int) -> str:
        """A value for a message: a number as it is, a date as ISO text."""
        return str(value) if self.kind == "number" else self.date(value, time=True)

    def date(self, value: int, *, time: bool = False) -> str:
        """The day of a value, or its day and time."""
        moment = pl.from_epoch(pl.Series([value // self.per_second]), "s")[0]
        return f"{moment:%Y-%m-%d %H:%M:%S}" if time else f"{moment:%Y-%m-%d}"

    def span(self, values: pl.Series) -> str:
        """The form and the first and last day of some values, for the log."""
        low, high = int(values.min() or 0), int(values.max() or 0)  # type: ignore[arg-type]
        if self.kind == "number" and high < 10**8 * self.per_second:
            return f"numbers from {low} to {high}, taken as an order"
        return f"{self.name}, {self.date(low)} to {self.date(high)}"

    def agrees(self, other: "TimeForm") -> bool:
        """Whether parts of one table may have these two forms; `per_second` may differ."""
        alike = (self.kind, self.day_first, self.pattern) == (other.kind, other.day_first, other.pattern)
        return alike and (self.name == other.name or self.kind in ("named", "column"))


SECONDS = TimeForm("seconds", 1)


def time_form(column: pl.Series) -> TimeForm:
    """The form of a column of numbers, text, dates or times; raises `TimesError` if dates have no single order."""
    kind = column.dtype
    if isinstance(kind, pl.Datetime):
        zone = f" ({kind.time_zone})" if kind.time_zone else ""
        return TimeForm(f"times{zone}", {"ms": 10**3, "us": 10**6, "ns": 10**9}[kind.time_unit], "column")
    if kind == pl.Date:
        return TimeForm("dates", 10**3, "column")
    integers = column.cast(pl.Int64, strict=False)
    if kind.is_integer() or (kind == pl.String and integers.null_count() == column.null_count()):
        return _of_integers(column if kind.is_integer() else integers)
    floats = _floats(column)
    if kind == pl.String and column.filter(floats.is_null()).str.contains(_DATE).sum() > floats.count():
        return _of_text(column)
    if kind == pl.String and floats.count() * 2 < column.count() and (named := _of_words(column)) is not None:
        return named
    integers = as_integers(column) if kind == pl.String else integers
    form = _of_integers(integers.fill_null(floats.floor().cast(pl.Int64, strict=False)))
    if form.per_second == 1 and form.kind == "number" and (floats != floats.floor()).any():
        return TimeForm("seconds", 10**6, fractions=True)
    return form


def of_serials(column: pl.Series) -> pl.Series:
    """The column as Datetime if its numbers are those that Excel writes for 1970 to 2100; else unchanged."""
    if not (column.dtype.is_numeric() and column.is_between(_EPOCH, 73_051).all()):
        return column
    return ((column - _EPOCH) * 86_400_000).round().cast(pl.Int64).cast(pl.Datetime("ms"))


def in_seconds(frame: pl.DataFrame, form: TimeForm, scratch: Scratch | None = None) -> pl.DataFrame:
    """The frame with `timestamp` in whole seconds.

    Rows whose times differ by less than a second would lose their order, so that users and times are sorted first.
    """
    if form.per_second == 1:
        return frame
    times = frame["timestamp"].to_numpy()
    if any((times[block] % form.per_second).any() for block in blocks_of(times.size)):
        frame, _ = in_order(frame, scratch)
        times = frame["timestamp"].to_numpy()
    seconds = filled(scratch, times.size, np.int64, lambda block: times[block] // form.per_second)
    return frame.with_columns(timestamp=pl.Series(seconds))


def as_integers(texts: pl.Series) -> pl.Series:
    """Text as Int64, including integers such as `881250949.0`; null for other text."""
    numbers = texts.cast(pl.Int64, strict=False)
    if numbers.null_count() == texts.null_count():
        return numbers
    text, number = pl.col("text"), pl.col("text").cast(pl.Float64, strict=False)
    exact = text.str.replace(r"^([+-]?\d+)\.0*$", "$1").cast(pl.Int64, strict=False)  # also beyond 2^53
    whole = pl.when(number.floor() == number).then(number).cast(pl.Int64, strict=False)
    return texts.to_frame("text").select(exact.fill_null(whole).alias(texts.name)).to_series()


def _floats(column: pl.Series) -> pl.Series:
    number = pl.col("number")
    floats = column.cast(pl.Float64, strict=False).to_frame("number")
    return floats.select(pl.when(number.is_finite()).then(number).alias(column.name)).to_series()


def _of_words(texts: pl.Series) -> TimeForm | None:
    """The form of dates with words that most of some texts have; None for other text."""
    first = texts.drop_nulls().head(100)
    for pattern in _NAMED:
        found = _of_named(first, pattern)
        if 2 * found.count() > first.len():
            example = first.filter(found.is_not_null())[0]
            return TimeForm(f"dates such as {example!r}", 10**9, "named", pattern=pattern)
    return None


def _of_named(texts: pl.Series, pattern: str) -> pl.Series:
    """Nanoseconds since 1970 of dates with words; null for other text."""
    values = _nanoseconds(texts, pattern)
    others = values.is_null() & texts.is_not_null()
    return values.scatter(
        others.arg_true(), _nanoseconds(texts.filter(others).str.replace_all(_LONG_NAME, "$1"), pattern)
    )


def _of_integers(numbers: pl.Series) -> TimeForm:
    low, high = numbers.min(), numbers.max()
    if low is None or high is None:
        return SECONDS
    for pattern, first, last in _COMPACT:
        if first <= low and high <= last:  # type: ignore[operator]
            form = TimeForm(f"dates written as {pattern}", 10**3, "compact", pattern=pattern)
            if form.values(numbers.unique()).null_count() == bool(numbers.null_count()):
                return form
    if high < _BORDER:  # type: ignore[operator]
        return SECONDS
    middle = (numbers.len() - numbers.null_count() - 1) // 2  # the rank of the median; a sort would copy the column
    coarse = list(UNITS.items())[:-1]
    below = (name for name, per_second in coarse if int((numbers < _BORDER * per_second).sum()) > middle)
    name = next(below, "nanoseconds")
    return TimeForm(name, UNITS[name])


def _of_text(texts: pl.Series) -> TimeForm:
    short = texts.str.contains(_SHORT_YEAR)
    if short.sum() * 2 > texts.count():
        row = int(short.arg_true()[0])
        second = texts.str.extract(r"^\d+[-/.](\d+)").cast(pl.Int32, strict=False)
        first, pattern = ("month", "%m/%d/%y") if (second > 12).any() else ("day", "%d/%m/%y")
        pattern = pattern.replace("/", texts[row].lstrip("0123456789")[0])
        remedy = f"`pl.col(NAME).str.to_date('{pattern}')` of Polars converts {first}-first dates"
        raise TimesError(f"{texts[row]!r} has a year of two digits, expected 2024-12-31: {remedy}", row)
    if not texts.str.contains(r"^\d{1,2}[-/.]\d{1,2}[-/.]\d{4}").any():
        return TimeForm("ISO text", 10**9, "text")
    order = texts.str.extract_groups(_TEXT).struct.unnest().select(pl.col("first", "second").cast(pl.Int32))
    both = order.select(day=pl.col("first") > 12, month=pl.col("second") > 12)
    day, month = bool(both["day"].any()), bool(both["month"].any())
    if not order["first"].count():  # each such text ends in something else: its row is reported
        return TimeForm("ISO text", 10**9, "text")
    if day and month:
        one, other = (int(both[name].arg_true()[0]) for name in ("day", "month"))
        problem = f"{texts[other]!r} has the month first, {texts[one]!r} the day, expected one order"
        raise TimesError(problem, max(one, other))
    if not day and not month:
        row = int(order["first"].is_not_null().arg_true()[0])
        remedy = "`pl.col(NAME).str.to_date('%d/%m/%Y')` of Polars converts day-first dates"
        raise TimesError(
            f"{texts[row]!r} may have the day or the month first, as in all rows; expected 2024-12-31: {remedy}", row
        )
    return TimeForm("day-first dates" if day else "month-first dates", 10**9, "text", day_first=day)


def _from_text(texts: pl.Series, day_first: bool) -> pl.Series:
    """Nanoseconds since 1970; text without a zone is in UTC; null for other text.

    Text in the pattern of the first row is read in a tenth of the time that `_of_parts` takes.
    """
    start = texts.drop_nulls().head(1)
    for pattern in _USUAL:
        if start.str.to_datetime(pattern, strict=False, time_unit="us").count():
            values = _nanoseconds(texts, pattern)
            others = values.is_null() & texts.is_not_null()
            return values.scatter(others.arg_true(), _of_parts(texts.filter(others), day_first))
    return _of_parts(texts, day_first)


def _nanoseconds(texts: pl.Series, pattern: str) -> pl.Series:
    """Nanoseconds since 1970 of text in a pattern; null for other text, and before 1677 or after 2262.

    Polars's own nanoseconds would be those of another year there.
    """
    microseconds = texts.str.to_datetime(pattern, strict=False, time_unit="us").to_physical()
    return _within(microseconds, -(2**63 // 1000), 2**63 // 1000) * 1000


def _within(numbers: pl.Series, low: int, high: int) -> pl.Series:
    """The numbers from `low` to below `high`; null for others."""
    fits = numbers.is_between(max(low, -(2**63)), min(high, 2**63 - 1), closed="left")
    return pl.select(pl.when(fits).then(numbers)).to_series().alias(numbers.name)


def _of_parts(texts: pl.Series, day_first: bool) -> pl.Series:
    """As `_from_text`, from the numbers in each text."""
    parts = texts.str.extract_groups(_TEXT).struct.unnest()
    part = pl.col
    month, day = ("second", "first") if day_first else ("first", "second")
    date = pl.concat_str(
        pl.coalesce("year", "late_year"),
        pl.coalesce("month", month).str.zfill(2),
        pl.coalesce("day", day).str.zfill(2),
    ).str.to_date("%Y%m%d", strict=False)
    number = {name: part(name).cast(pl.Int64) for name in ("hours", "minutes", "seconds", "zone_hours", "zone_minutes")}
    afternoon = part("half").str.to_lowercase() == "p"
    hours = pl.when(part("half").is_null()).then(number["hours"]).otherwise(number["hours"] % 12 + 12 * afternoon)
    is_clock = part("hours").is_null() | (
        (hours < 24) & (number["minutes"] < 60) & (number["seconds"].fill_null(0) < 60)
    ) & (part("half").is_null() | number["hours"].is_between(1, 12))
    clock = hours.fill_null(0) * 3600 + number["minutes"].fill_null(0) * 60 + number["seconds"].fill_null(0)
    zone = number["zone_hours"].fill_null(0) * 3600 + number["zone_minutes"].fill_null(0) * 60
    zone = pl.when(part("sign") == "-").then(-zone).otherwise(zone)
    seconds = date.to_physical().cast(pl.Int64) * 86_400 + clock - zone
    fraction = part("fraction").str.pad_end(9, "0").cast(pl.Int64).fill_null(0)
    fits = is_clock & (seconds.abs() < 2**63 // 10**9)
    values = pl.when(fits).then(seconds * 10**9 + fraction)
    return parts.select(values.alias(texts.name)).to_series()
