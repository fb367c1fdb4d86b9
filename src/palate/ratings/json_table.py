"""Read tables in JSON: an object a line, or an array of objects. Polars reads them; a wrong line is found by Python.

An object is a row, or holds a list of rows, such as the ratings of a user.
"""

import codecs
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palate.errors import InputError, first_line
from palate.ratings.roles import ROLES, WITHIN, plain_name

if TYPE_CHECKING:
    import polars as pl

_EXAMPLE = '{"item": 1, "rating": 4, "time": 5}'
_INFERRED = 1000
"""Lines from which Polars infers the types; if a later line has another, all lines count."""


class WrongLineError(ValueError):
    """A line is no row of its format; `line` counts from 1, `reason` is a word or two for counts."""

    def __init__(self, problem: str, line: int, reason: str = "") -> None:
        super().__init__(problem)
        self.line, self.reason = line, reason


def column_names(path: Path) -> list[str]:
    """The keys of the objects, in the order of their first appearance in the first lines; `user.id` for one within.

    Where each object holds a list of rows, see `_listed`, the keys of these are `ratings[].item`.
    """
    import polars as pl

    try:
        schema = _schema(path)
    except pl.exceptions.PolarsError as error:
        raise _found(path, error) from None
    if all(isinstance(dtype, pl.Struct | pl.List) for dtype in schema.values()) and _is_one_line(path):
        _refuse_document(path)
    names, within = _leaves(schema), _listed(schema)
    if within is None:
        return list(names)
    rows = [f"{within}{WITHIN}{name}" for name in _leaves(_objects(names[within]))]
    taken = {plain_name(name) for name in rows}
    return [*(name for name in names if name != within and plain_name(name) not in taken), *rows]


def read_json(path: Path, columns: Sequence[str] | None = None) -> "pl.DataFrame":
    """The table, or some of its columns. Raises `WrongLineError` for the first line that is not an object."""
    import polars as pl

    try:
        if _is_array(path):
            frame = _of_array(path)
            frame = frame if columns is None else _chosen(frame.lazy(), columns).collect()
        else:
            frame = _of_lines(path, columns, _INFERRED)
    except pl.exceptions.PolarsError as error:
        try:
            if _is_array(path):
                raise error
            frame = _of_lines(path, columns, None)
        except pl.exceptions.PolarsError as again:
            raise _found(path, again) from None
    return frame


def row_lines(path: Path) -> Iterator[int] | None:
    """The line of each row, from 1; None for an array."""
    import polars as pl

    if _is_array(path):
        return None
    within = _listed(_schema(path))
    if within is None:
        return _line_numbers(path)
    rows = _of_lines(path, [within], None).to_series().list.len().fill_null(0)
    return iter(pl.Series(_line_numbers(path)).repeat_by(rows).explode().drop_nulls())


def _schema(path: Path) -> Mapping[str, Any]:
    import polars as pl

    if not path.stat().st_size:
        raise InputError("is empty, expected an object a line or an array of objects")
    if _is_array(path):
        return _of_array(path).schema
    return pl.scan_ndjson(_unmarked(path), infer_schema_length=_INFERRED).collect_schema()


def _listed(schema: Mapping[str, Any]) -> str | None:
    """The key of a list of rows in each object, such as the ratings of a user; None if each object is a row.

    It is the list of objects with a key for an item, where no key beside it is one. Raises `InputError` for several,
    and for an object with a row for each id.
    """
    leaves = _leaves(schema)
    lists = {name: rows for name in leaves if (rows := _objects(leaves[name]))}

    def has_item(names: Iterable[str]) -> bool:
        return any(plain_name(name) in ROLES["item"] for name in names)

    if has_item(leaves.keys() - lists.keys()):
        return None
    found = [name for name, rows in lists.items() if has_item(_leaves(rows))]
    by_id = [name for name, dtype in schema.items() if name in ("items", "ratings", "reviews") and _is_by_id(dtype)]
    if len(found) > 1 and all(name.isdecimal() for name in schema):
        raise InputError(f'is an object by id, expected a list such as [{{"user": 1, "ratings": [{_EXAMPLE}]}}]')
    if by_id and not found:
        raise InputError(f"has {by_id[0]} as an object by id, expected a list such as {by_id[0]}: [{_EXAMPLE}]")
    if not found:
        return None
    if len(found) > 1:
        raise InputError(f"has a list of items in each of {', '.join(found[:4])}, expected one list of ratings")
    return found[0]


def _refuse_document(path: Path) -> None:
    """Raise `InputError` for a file that is one object with all rows in it, other than as one list of objects."""
    try:
        document = _parsed(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError):
        return  # an object a line
    values = list(document.values()) if isinstance(document, dict) else []
    if not values:
        return
    option = ", orient='split'" if {"columns", "data"} <= document.keys() else ""
    names = any(plain_name(name) in role for name in document for role in ROLES.values())
    is_table = all(isinstance(value, dict) for value in values) and names
    is_table |= all(isinstance(value, list) and not any(isinstance(each, dict) for each in value) for value in values)
    if option or is_table:
        change = f"pandas.read_json(FILE{option}).to_json('log.jsonl', orient='records', lines=True)"
        raise InputError(f"is an object by column, expected an object a line: `{change}` converts it")
    if all(isinstance(value, dict) for value in values):
        raise InputError(f'is an object by id, expected a list such as [{{"user": 1, "ratings": [{_EXAMPLE}]}}]')


def _is_by_id(dtype: Any) -> bool:
    """Whether an object has an object for each key, or keys that are numbers."""
    import polars as pl

    fields = dtype.fields if isinstance(dtype, pl.Struct) else []
    return bool(fields) and all(field.name.isdecimal() or isinstance(field.dtype, pl.Struct) for field in fields)


def _objects(dtype: Any) -> Mapping[str, Any]:
    """The keys of the objects in a list; empty for another type."""
    import polars as pl

    inner = dtype.inner if isinstance(dtype, pl.List) else None
    return inner.to_schema() if isinstance(inner, pl.Struct) else {}


def _line_numbers(path: Path) -> Iterator[int]:
    with path.open("rb") as lines:
        yield from (number for number, line in enumerate(lines, 1) if not line.isspace())


def _of_array(path: Path) -> "pl.DataFrame":
    """The objects of an array; those whose types Polars joins in lines only are read as lines."""
    import polars as pl

    try:
        return pl.read_json(path, infer_schema_length=None)
    except pl.exceptions.PolarsError:
        try:
            rows = _parsed(path.read_text(encoding="utf-8-sig"))
        except (ValueError, RecursionError):
            rows = []
        if not rows or not all(isinstance(row, dict) for row in rows):
            raise
    return pl.read_ndjson("\n".join(map(json.dumps, rows)).encode(), infer_schema_length=None)


def _unmarked(path: Path) -> Path | bytes:
    """The path, or the bytes of a file that begins with a byte order mark, which Polars does not skip in lines."""
    with path.open("rb") as content:
        return content.read() if content.read(3) == codecs.BOM_UTF8 else path


def _parsed(text: str | bytes) -> Any:
    """A value of JSON; raises `ValueError` also for the numbers that Polars lacks."""
    return json.loads(text, parse_constant=_finite, parse_float=_finite)


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is no number of JSON, or beyond those of 64 bits")
    return number


def _of_lines(path: Path, columns: Sequence[str] | None, inferred: int | None) -> "pl.DataFrame":
    import polars as pl

    scan = pl.scan_ndjson(_unmarked(path), infer_schema_length=inferred)
    return (scan if columns is None else _chosen(scan, columns)).collect()


def _leaves(schema: "Mapping[str, Any]", before: str = "") -> dict[str, Any]:
    """The types of columns by name, those within an object behind a dot."""
    import polars as pl

    found: dict[str, Any] = {}
    for name, dtype in schema.items():
        inner = _leaves(dtype.to_schema(), f"{before}{name}.") if isinstance(dtype, pl.Struct) else None
        found |= {f"{before}{name}": dtype} if inner is None else inner
    return found


def _chosen(frame: "pl.LazyFrame", columns: Sequence[str]) -> "pl.LazyFrame":
    """Some columns, with a row for each object of the list that one of them names."""
    import polars as pl

    listed = next((name.partition(WITHIN)[0] for name in columns if WITHIN in name), None)
    if listed is None:
        return frame.select(_field(name).alias(name) for name in columns)
    outer, rows = [name for name in columns if WITHIN not in name], _field(listed)
    frame = frame.filter(rows.list.len() > 0)
    frame = frame.select(*(_field(name).alias(name) for name in outer), rows.alias(WITHIN)).explode(WITHIN)
    return frame.select(
        pl.col(name) if name in outer else _field(name.partition(WITHIN)[2], pl.col(WITHIN)).alias(name)
        for name in columns
    )


def _field(name: str, of: "pl.Expr | None" = None) -> "pl.Expr":
    """A column, or a field of the objects `of`; one within is behind a dot."""
    import polars as pl

    first, *within = name.split(".")
    column = pl.col(first) if of is None else of.struct.field(first)
    for field in within:
        column = column.struct.field(field)
    return column


def _is_one_line(path: Path) -> bool:
    with path.open("rb") as lines:
        lines.readline()
        return not lines.read(1 << 12).strip()


def _is_array(path: Path) -> bool:
    """Whether the first character is a bracket."""
    with path.open("rb") as content:
        return content.read(1 << 12).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")


def _found(path: Path, error: Exception) -> Exception:
    """The first line that is not an object, if there is one; else the error itself."""
    if _is_array(path):
        try:
            rows = _parsed(path.read_text(encoding="utf-8-sig"))
        except json.JSONDecodeError as wrong:
            problem = f"is not JSON: {wrong.msg} (character {wrong.colno}), expected a whole array: write it again"
            return WrongLineError(problem, wrong.lineno)
        except (ValueError, RecursionError) as wrong:
            return ValueError(first_line(wrong))
        odd = next((row for row in rows if not isinstance(row, dict)), None)
        return ValueError(f"holds {_kind(odd)}, expected objects only" if odd is not None else first_line(error))
    with path.open("rb") as lines:
        if lines.readline(1 << 16).strip() == b"{":
            _refuse_document(path)
    return next(wrong_lines(path), ValueError(first_line(error)))


def wrong_lines(path: Path) -> Iterator[WrongLineError]:
    """The lines that are no objects; none of an array, whose lines cannot be read one by one."""
    if _is_array(path):
        return
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.isspace():
                continue
            try:
                row = _parsed(line.removeprefix(codecs.BOM_UTF8))
            except (ValueError, RecursionError) as wrong:
                problem = wrong.msg if isinstance(wrong, json.JSONDecodeError) else first_line(wrong)
                what = "neither JSON nor a dictionary of Python" if line.startswith(b"{'") else f"not JSON: {problem}"
                yield WrongLineError(f"is {what}", number, "not JSON")
                continue
            if not isinstance(row, dict):
                problem = f'is {_kind(row)}, expected an object such as {{"user_id": 1}}'
                yield WrongLineError(problem, number, "not an object")


def _kind(value: Any) -> str:
    names = {list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
