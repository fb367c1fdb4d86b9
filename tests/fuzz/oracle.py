"""The rows of a text table by a slow reader of its own, and whether Palate read the same."""

import ast
import csv
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

import polars as pl

from palate.ratings.load import Ratings

SEPARATORS = {"CSV": ",", "TSV": "\t", "text with commas": ",", "text with tabs": "\t", "text with semicolons": ";",
              "text with bars": "|", "text with double colons": "::", "text with spaces": " "}  # fmt: skip
FIXED = {"ratings.dat": "::", "u.data": "\t"}
"""Files without a header; the columns are user, item, rating, time."""
COLUMNS = ("user_id", "item_id", "rating", "timestamp")
WHITE = " \t\r\n\x0b\x0c\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000\ufeff" + "".join(map(chr, range(0x2000, 0x200B)))
NO_IDS = {"null", "NULL", "Null", "none", "None", "NONE", "nan", "NaN", "NAN", "n/a", "N/A", "<NA>", "\\N"}
YES = {"1", "true", "t", "yes", "y", "up", "like", "liked", "thumbsup", "positive", "recommended", "👍"}
NO = {"0", "false", "f", "no", "n", "down", "dislike", "disliked", "thumbsdown", "negative", "notrecommended", "👎"}
UNITS = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9, "numbers": 1}
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)

Key = tuple[str, str, float, int | None]
"""A rating: user, item, value, seconds; None for a time that this reader does not know."""


class Wrong(Exception):  # noqa: N818
    """A table that is to be refused."""


def ratings_of(content: bytes, name: str, found: Ratings, wrong: list[str] | None = None) -> Iterator[list[Key]]:
    """The ratings of a text file as each convention of quotes reads them, by what `found` says of its form.

    Raises `Wrong` for a table that is to be refused under all of them; with `wrong`, its rows are left out, and listed.
    """
    kind, *packed = found.shape.split(", ")
    separator = SEPARATORS.get(kind) or kind.removeprefix("text with ").strip("'").encode().decode("unicode_escape")
    encoding = next((part for part in packed if part not in ("gzip", "bz2", "xz", "zstd", "zip", "tar")), "utf-8")
    try:
        text = content.decode(encoding, "surrogateescape" if encoding == "utf-8" else "strict")
    except UnicodeError as error:
        raise Wrong(f"is not {encoding}: {error}") from None
    if "\0" in text:
        raise Wrong("has a NUL")
    lines = text.removeprefix("\ufeff").split("\n")
    while lines and not lines[0].strip("\r") and len(lines) > 1:
        del lines[0]
    if re.fullmatch(r'"?sep=(.)"?[ ,;\t]*\r?', lines[0]):
        del lines[0]
    (roles,) = found.columns.values()
    problems = []
    for rows in _conventions(lines, separator, name):
        try:
            if wrong is not None:
                wrong.clear()
            yield _ratings(rows, name, roles, found, separator != ",", wrong)
        except Wrong as error:
            problems.append(str(error))
    if problems:
        raise Wrong("; ".join(problems))


def fields_of(content: bytes, encoding: str | None) -> Iterator[list[list[str]]]:
    """The fields of a table, by each separator and convention of quotes by which the header has several.

    Without an encoding it is UTF-8; with an empty one it may be another.
    """
    for each in ("utf-8-sig", "utf-16", "cp1252") if encoding == "" else (encoding or "utf-8-sig",):
        try:
            lines = content.decode(each).split("\n")
        except UnicodeError:
            continue
        while len(lines) > 1 and not lines[0].strip("\r"):
            del lines[0]
        if re.fullmatch(r'"?sep=(.)"?[ ,;\t]*\r?', lines[0]):
            del lines[0]
        for separator in ",;\t|":
            yield from (rows for rows in _conventions(lines, separator, "") if rows and len(rows[0]) > 1)


def _conventions(lines: Sequence[str], separator: str, name: str) -> Iterator[list[list[str]]]:
    """The fields of all rows that are not blank, with quotes as RFC 4180, Spark, and files without them have them."""
    plain = [
        re.split(re.escape(separator) + ("(?!:)" if separator == "::" else ""), line.rstrip("\r")) for line in lines
    ]
    if name.endswith((".dat", ".data", ".inter")) or len(separator) > 1:
        yield [row for row in plain if any(row)]
        return
    ended = [f"{line}\n" for line in lines[:-1]] + lines[-1:]
    for each in (ended, [re.sub(r'(?<!\\)((?:\\\\)*)\\"', r'\1""', line) for line in ended]):
        try:
            rows = list(csv.reader(each, delimiter=separator, strict=True))
        except csv.Error:
            continue
        yield [row for row in rows if row]
    if separator == "\t":
        yield [row for row in plain if any(row)]


def _ratings(
    rows: list[list[str]], name: str, roles: dict[str, str], found: Ratings, comma: bool, wrong: list[str] | None
) -> list[Key]:
    if name in FIXED:
        header = list(COLUMNS)
    else:
        header, *rows = rows or [[]]
        header = [f.partition(":")[0].strip() if name.endswith(".inter") else f.strip() for f in header]
    place = {}
    for column, role in roles.items():
        for each in role.split(", "):
            if each and each != "title":
                if header.count(column) != 1:
                    raise Wrong(f"the header has {header.count(column)} columns {column!r}")
                place[each] = header.index(column)
    if place.keys() != {*COLUMNS}:
        raise Wrong(f"has the columns {place}")
    if rows and len(rows[-1]) == len(header) + 1 and not rows[-1][-1]:
        rows[-1].pop()  # Polars sees no field behind the last separator of a file without a last line break
    keys: list[Key] = []
    seen: set[tuple[str, str, Decimal]] = set()
    for row in rows:
        if len(row) == len(header) and not any(field.strip("\r") for field in row):
            continue  # as a spreadsheet writes an empty row
        try:
            if len(row) != len(header):
                raise Wrong(f"{row} has {len(row)} fields, the header {len(header)}")
            keys.append(_rating([row[place[n]].strip(WHITE) for n in place], list(place), found, comma, seen))
        except Wrong as error:
            if wrong is None:
                raise
            wrong.append(str(error))
    return keys


def _rating(
    fields: list[str], names: list[str], found: Ratings, comma: bool, seen: set[tuple[str, str, Decimal]]
) -> Key:
    user, item, rating, time = (fields[names.index(n)] for n in COLUMNS)
    for value in (user, item):
        if not value or value in NO_IDS or re.search(r"[\udc80-\udcff\ufffd]", value):
            raise Wrong(f"{value!r} is no id")
    number, moment = value_of(rating, found.rated, comma), time_of(time, found.times)
    if not found.scale[0] <= number <= found.scale[1] or (moment is not None and moment < 0):
        raise Wrong(f"{fields} is outside of the scale, or before 1970")
    if moment is None:
        return user, item, number, None
    if (user, item, moment) in seen:
        raise Wrong(f"{user} rated {item} twice at {time}")
    seen.add((user, item, moment))
    return user, item, number, math.floor(moment)


def value_of(text: str, rated: str, comma: bool = False) -> float:
    """The number of a rating; raises `Wrong` for none."""
    if rated == "likes and dislikes":
        word = re.sub("[\\s_\ufe0f\U0001f3fb-\U0001f3ff-]", "", text.lower())
        if word not in YES | NO:
            raise Wrong(f"{text!r} is neither like nor dislike")
        return float(word in YES)
    if rated.startswith("stars"):
        if re.search("[^★⭐½☆\ufe0f]", text) or not text:
            raise Wrong(f"{text!r} are no stars")
        return text.count("★") + text.count("⭐") + text.count("½") / 2
    if rated:
        start = re.match(r"\d+([.,]\d+)?", text)
        if start is None:
            raise Wrong(f"{text!r} has no number")
        return float(start[0].replace(",", "."))
    text = re.sub(r"^([+-]?\d+),(\d\d?)$", r"\1.\2", text) if comma else text
    if not _NUMBER.fullmatch(text) or not math.isfinite(float(text)):
        raise Wrong(f"{text!r} is no number")
    return float(text)


def time_of(text: str, times: str) -> Decimal | None:
    """The seconds of a time; None for a form that this reader does not know; raises `Wrong` for no time."""
    unit = next((each for unit, each in UNITS.items() if re.match(rf"{unit}\b", times)), None)
    if (unit is not None and times.startswith("numbers from")) or (
        unit is not None and not times.startswith("numbers")
    ):
        try:
            number = Decimal(text) if _NUMBER.fullmatch(text) else None
        except InvalidOperation:
            number = None
        if number is None or not number.is_finite() or not -(2**63) <= number < 2**63:
            raise Wrong(f"{text!r} is no time")
        if unit > 1:  # fractions of a millisecond do not count
            number = Decimal(math.floor(number))
        return number / unit
    iso = re.fullmatch(
        r"(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)?)?", text, re.ASCII
    )
    if times.startswith("ISO text") and iso:
        try:
            moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
        except ValueError:
            raise Wrong(f"{text!r} is no time") from None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return Decimal((moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)) + Decimal(
            f"0.{(iso[7] or '0')[:9]}"
        )
    if times.startswith("ISO text") and not re.search(r"\d", text):
        raise Wrong(f"{text!r} is no time")
    return None


def objects_of(content: bytes, found: Ratings) -> list[dict[str, Any]]:
    """The rows of a JSON file: objects by line, or an array; a list of objects in a row gives a row each.

    Raises `Wrong` for a file that is to be refused.
    """
    encoding = next((part for part in found.shape.split(", ")[1:] if part not in ("gzip",)), "utf-8-sig")
    encoding = "utf-8-sig" if " " in encoding else encoding
    try:
        text = content.decode(encoding).removeprefix("\ufeff")
        if text.lstrip(" \t\r\n").startswith("["):
            rows = _parsed(text)
        else:
            rows = [
                _parsed(line) if line[:2] != "{'" else ast.literal_eval(line)
                for line in text.split("\n")
                if line.strip()
            ]
    except (ValueError, SyntaxError, RecursionError) as error:
        raise Wrong(f"is not JSON: {error}") from None
    if not all(isinstance(row, dict) for row in rows):
        raise Wrong("has a row that is no object")
    (roles,) = found.columns.values()
    within = next((column.partition("[].")[0] for column, role in roles.items() if role and "[]." in column), None)
    return rows if within is None else [
        {**row, **{f"{within}[].{key}": value for key, value in inner.items()}}
        for row in rows for inner in row.get(within) or []
    ]  # fmt: skip


def _parsed(text: str) -> Any:
    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no number of JSON")

    return json.loads(text, parse_constant=refuse, object_pairs_hook=lambda pairs: dict(reversed(pairs)))


def ratings_in(rows: Sequence[Mapping[str, Any]], found: Ratings) -> list[Key]:
    """The ratings of rows with values of Python; raises `Wrong` for a row that is to be refused."""
    (roles,) = found.columns.values()
    column = {role: name for name, every in roles.items() for role in every.split(", ")}
    keys: list[Key] = []
    seen: set[tuple[str, str, Decimal]] = set()
    for row in rows:
        fields = []
        for role in COLUMNS:
            value = row.get(column[role])
            if value is None and "." in column[role]:
                value = row
                for part in column[role].split("."):
                    value = value.get(part) if isinstance(value, Mapping) else None
            if role in COLUMNS[:2] and found.frame.schema[role] == pl.String:
                value = _as_text(value, is_json="JSON" in found.shape)
            elif isinstance(value, bool) and "JSON" in found.shape and role != "rating":
                value = int(value)  # as Polars reads it among the numbers of an array
            if value is None or (role in COLUMNS[:2] and isinstance(value, float | bool)):
                raise Wrong(f"{column[role]} is {value!r}")
            fields.append(value)
        user, item, rating, time = fields
        if isinstance(rating, bool):
            rating = str(rating)
        texts = [str(user), str(item), repr(rating) if isinstance(rating, float) else str(rating).strip(WHITE)]
        if isinstance(time, date):
            moment = _moment(time)
            keys.append((*texts[:2], value_of(texts[2], found.rated, True), math.floor(moment)))
            if not found.scale[0] <= keys[-1][2] <= found.scale[1] or moment < 0:
                raise Wrong(f"{row} is outside of the scale, or before 1970")
        else:
            keys.append(_rating([*texts, _plain(time)], list(COLUMNS), found, True, seen))
    return keys


def _as_text(value: Any, *, is_json: bool) -> Any:
    """An id in a column of values of several types."""
    if is_json and isinstance(value, float) and value.is_integer():
        return f"{value:.0f}"
    if isinstance(value, bytes):
        with suppress(UnicodeDecodeError):
            return value.decode()
        return value.hex()
    if not is_json and value is not None:
        return str(value)
    return value if isinstance(value, str | None) else json.dumps(value, ensure_ascii=False)


def _plain(number: Any) -> str:
    return (
        format(Decimal(repr(number)), "f")
        if isinstance(number, float) and math.isfinite(number)
        else str(number).strip(WHITE)
    )


def _moment(time: date) -> Decimal:
    """Seconds since 1970."""
    moment = time if isinstance(time, datetime) else datetime(time.year, time.month, time.day)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return Decimal((moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)) / 10**6


def unlike(found: Ratings, keys: Sequence[Key]) -> str:
    """The ratings that were read and are not among right ones; empty if there are none."""
    frame, known = found.frame, {key[3] is None for key in keys} <= {False}
    read = Counter((str(u), str(i), r, t if known else None) for u, i, r, t in frame.select(*COLUMNS).rows())
    others = read - Counter(key if known else (*key[:3], None) for key in keys)
    return f"{next(iter(others))} was read, and is not right" if others else ""


def differs(found: Ratings, keys: Sequence[Key]) -> str:
    """How the ratings differ from expected ones; empty if they do not."""
    frame = found.frame
    read = [(str(u), str(i), r, t) for u, i, r, t in frame.select(*COLUMNS).rows()]
    if len(read) != len(keys):
        return f"{len(read)} rows were read, {len(keys)} are there"
    if read == list(keys):
        return ""
    unknown = any(key[3] is None for key in keys)
    ours, theirs = ([key[:3] if unknown else key for key in each] for each in (read, keys))
    if Counter(ours) == Counter(theirs):  # times of one second are put in order
        return ""
    one = next(iter((Counter(ours) - Counter(theirs)).elements()))
    return f"{one} was read, and is not among {list((Counter(theirs) - Counter(ours)).elements())[:3]}"
