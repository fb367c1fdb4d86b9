"""Read and check an Alpaca file that Palate did not write: a JSON array, or one object per line."""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import polars as pl

from palate.errors import InputError
from palate.ratings.layout import column_of
from palate.store.artifacts import sha256_file
from palate.store.json_text import Decoder

log = logging.getLogger(__name__)

NEEDED = ("instruction", "output")
TEXTS = ("instruction", "input", "output", "system")
_WHITE = " \t\r\n"


@dataclass(frozen=True)
class AlpacaFile:
    """The examples of a file, in file order.

    `frame` has `instruction`, `input`, `output` and `system` (String; empty if the file has none), `history` if an
    example has earlier turns, and `user_id` and `item_id` if the file names them. `sha256` is the file's checksum.
    """

    path: Path
    frame: pl.DataFrame
    sha256: str

    def __len__(self) -> int:
        return self.frame.height

    def fail(self, message: str, record: int, key: str = "output") -> NoReturn:
        """Raise an `InputError` for a record (counted from 0) at the line of its `key`."""
        raise InputError(f"record {record + 1}: {message}", self.path, line_of(self.path, record, key))


def read_alpaca(path: Path) -> AlpacaFile:
    """Read and check a file; raises `InputError` with line and record of the first fault.

    The reader ignores keys other than those of `AlpacaFile`. It finds the user and item under the column names that
    rating tables may use.
    """
    try:
        data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", path) from None
    if not data.strip():
        raise InputError("is empty, expected Alpaca examples", path)
    is_array = data.lstrip()[:1] == b"["
    if is_array and not data.strip()[1:-1].strip():
        raise InputError("has no examples, expected at least one", path, 1)
    _diagnose(path)
    try:
        read = pl.read_json if is_array else pl.read_ndjson
        table = read(data, infer_schema_length=None)
        usual = all(table.schema.get(name) == pl.String and not table[name].null_count() for name in NEEDED)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        usual = False
    if not usual:
        raise InputError("cannot be read as a table of examples, expected the same keys and types throughout", path)
    names = table.columns
    columns = [pl.col(n).cast(pl.String).fill_null("") if n in names else pl.lit("").alias(n) for n in TEXTS]
    turns = table.schema.get("history")
    if isinstance(turns, pl.List) and turns.inner != pl.Null and (table["history"].list.len() > 0).any():
        columns.append(pl.col("history").fill_null([]))
    for role in ("user", "item"):
        column = column_of(role, names, {}, str(path), needed=False)
        if column is not None and not table[column].null_count() and not table.schema[column].is_nested():
            number = pl.col(column).cast(pl.String).str.replace(r"^([+-]?\d+)\.0$", "$1")  # as another file has it
            columns.append(number.alias(f"{role}_id"))
        elif column is not None:
            log.warning("%s: ignoring %s: a record has no text or number there", path, column)
    return AlpacaFile(path, table.select(columns), sha256_file(path))


def line_of(path: Path, record: int, key: str) -> int:
    """The line of a record's `key`, or the record's first line if it has no such key."""
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    begin, end, _ = next(span for number, span in enumerate(_records(text)) if number == record)
    found = text.find(f'"{key}"', begin, end)
    return text.count("\n", 0, begin if found < 0 else found) + 1


def _records(text: str) -> Iterator[tuple[int, int, Any]]:
    """Begin and end of each record, in characters, and its value; raises `JSONDecodeError` at the first fault."""
    decoder, at = Decoder(), _after_white(text, 0)
    is_array = text[at : at + 1] == "["
    if not is_array:
        while at < len(text):
            end = text.find("\n", at)
            end = len(text) if end < 0 else end
            value, stop = decoder.raw_decode(text, at)
            if stop > end:
                raise json.JSONDecodeError("a record over several lines, expected an array or a line each", text, at)
            if text[stop:end].strip(_WHITE):
                raise json.JSONDecodeError("Extra data", text, stop)
            yield at, stop, value
            at = _after_white(text, end)
        return
    at = _after_white(text, at + 1)
    while text[at : at + 1] != "]":
        value, stop = decoder.raw_decode(text, at)
        yield at, stop, value
        at = _after_white(text, stop)
        if text[at : at + 1] == ",":
            comma, at = at, _after_white(text, at + 1)
            if text[at : at + 1] == "]":
                raise json.JSONDecodeError("a comma before the end of the array", text, comma)
        elif text[at : at + 1] != "]":
            raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
    if _after_white(text, at + 1) < len(text):
        raise json.JSONDecodeError("Extra data", text, at + 1)


def _after_white(text: str, at: int) -> int:
    while at < len(text) and text[at] in _WHITE:
        at += 1
    return at


def _diagnose(path: Path) -> None:
    """Raise an `InputError` for the first invalid record."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = path.read_bytes().count(b"\n", 0, error.start) + 1
        raise InputError("is not UTF-8 text, expected JSON", path, line) from None
    try:
        for number, (begin, _, value) in enumerate(_records(text)):
            if not isinstance(value, dict):
                line = text.count("\n", 0, begin) + 1
                raise InputError(f"record {number + 1} is {_kind(value)}, expected an object", path, line)
            for key in TEXTS:
                if key not in value and key in NEEDED:
                    line = text.count("\n", 0, begin) + 1
                    have = ", ".join(value) or "nothing"
                    raise InputError(
                        f"record {number + 1} has no {key!r}, only {have}: expected Alpaca examples", path, line
                    )
                text_value = value.get(key, "")
                if not isinstance(text_value, str) and (text_value is not None or key in NEEDED):
                    at = line_of(path, number, key)
                    raise InputError(f"record {number + 1}: {key} is {_kind(text_value)}, expected text", path, at)
            turns = value.get("history")
            if turns is not None and not (isinstance(turns, list) and all(map(_is_turn, turns))):
                at = line_of(path, number, "history")
                expected = "expected a list of [user, assistant] or of objects with role (user, assistant) and content"
                raise InputError(f"record {number + 1}: history is not a list of turns, {expected}", path, at)
    except json.JSONDecodeError as error:
        raise InputError(f"is not JSON: {error.msg}, expected a list of Alpaca examples", path, error.lineno) from None


def _is_turn(turn: object) -> bool:
    """Whether a value is a pair of user and assistant text, or one message with a role."""
    if isinstance(turn, dict):
        return turn.get("role") in ("user", "assistant") and isinstance(turn.get("content"), str)
    return isinstance(turn, list) and len(turn) == 2 and all(isinstance(text, str) for text in turn)


def _kind(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), f"the number {value}")
