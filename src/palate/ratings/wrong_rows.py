"""What makes a row of ratings wrong: the reasons for a report, and the messages for errors."""

import math
import re
from collections.abc import Mapping

import polars as pl

from palate.ratings.ids import IDS, NULLS, id_problem
from palate.ratings.rating_forms import NUMBERS, RatingForm
from palate.ratings.times import TimeForm

REMEDY = "; `--bad-rows skip` leaves such rows out"
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def reasons_of(frame: pl.DataFrame, scale: tuple[float, float]) -> pl.Series:
    """Why a row is wrong, (rows,) String: a value is missing, cannot be read, or is out of its range; else null."""
    rating, time = pl.col("rating"), pl.col("timestamp")
    texts = [name for name in IDS if frame.schema[name] == pl.String]
    ids = [(pl.col(name).is_null(), f"no {name}") for name in IDS]
    ids += [(pl.col(name).is_in(NULLS), f"no {name}") for name in texts]
    codes = [(pl.col(n).cast(pl.String).str.contains("\ufffd", literal=True), f"{n} not in UTF-8") for n in IDS]
    values = [
        (rating.is_null(), "no rating that is a number"),
        (~rating.is_between(*scale), "rating outside of the scale"),
        (time.is_null(), "no readable timestamp"),
        (time < 0, "timestamp before 1970"),
    ]
    codes += [(pl.col(n).cast(pl.String).str.contains("[\0\r]"), f"{n} with NUL or a carriage return") for n in IDS]
    found = [pl.when(wrong).then(pl.lit(reason)) for wrong, reason in (*ids, *codes, *values)]
    return frame.select(pl.coalesce(found)).to_series()


def row_problem(
    row: Mapping[str, str | None],
    names: Mapping[str, str],
    scale: tuple[float, float],
    forms: tuple[TimeForm, RatingForm],
) -> str:
    """The message for a wrong row; `names` are the file's own, `forms` those of its times and ratings."""
    form, rated = forms
    for name in IDS:
        if (problem := id_problem(row[name])) is not None:
            return f"{names[name]} {problem}"
    problem = rating_problem(names["rating"], row["rating"] or "", scale, rated)
    return problem or form.problem(names.get("timestamp", "timestamp"), row["timestamp"] or "")


def rating_problem(name: str, value: str, scale: tuple[float, float], rated: RatingForm = NUMBERS) -> str | None:
    """The problem with a rating in a column of some form, and the remedy; None if it is right."""
    text, value = value, rated.numbers(pl.Series([value]))[0]
    if value is None:
        return f"{name} {text!r} is in another form than most, expected {rated.name}"
    number = float(value) if _NUMBER.fullmatch(value) else math.nan
    if not math.isfinite(number):
        remedy = " with a decimal point" if re.fullmatch(r"[+-]?\d+,\d+", value) else ""
        return f"{name} {value!r} is not a number, expected one from {scale[0]:g} to {scale[1]:g}{remedy}"
    if number in (-1, 0) and number < scale[0]:
        meant = f"if it means that the user did not rate, --set ratings.not_rated={number:g} leaves such rows out"
        return f"{name} {number:g} is outside of the scale {scale[0]:g} to {scale[1]:g}: {meant}"
    if not scale[0] <= number <= scale[1]:
        return (
            f"{name} {number:g} is outside of the scale, expected {scale[0]:g} to {scale[1]:g} "
            f"(another scale is set as ratings.scale, such as --set ratings.scale=[1,10])"
        )
    return None


def first_row(wrong: pl.Series) -> int:
    """The first row that is True."""
    return int(wrong.arg_true()[0])
