"""Read tables in JSON: an object a line, or an array of objects. Polars reads them; a wrong line is found by Python."""

import codecs
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palate.errors import first_line

if TYPE_CHECKING:
    import polars as pl

_INFERRED = 1000
"""Lines from which Polars infers the types; if a later line has another, all lines count."""


class WrongLineError(ValueError):
    """A line is not an object; `line` counts from 1."""

    def __init__(self, problem: str, line: int) -> None:
        super().__init__(problem)
        self.line = line


def column_names(path: Path) -> list[str]:
    """The keys of the objects, in the order of their first appearance in the first lines; `user.id` for one within."""
    import polars as pl

    try:
        if not _is_array(path):
            return list(_leaves(pl.scan_ndjson(_unmarked(path), infer_schema_length=_INFERRED).collect_schema()))
        return list(_leaves(_of_array(path).schema))
    except pl.exceptions.PolarsError as error:
        raise _found(path, error) from None


def read_json(path: Path, columns: Sequence[str] | None = None) -> "pl.DataFrame":
    """The table, or some of its columns. Raises `WrongLineError` for the first line that is not an object."""
    import polars as pl

    try:
        if _is_array(path):
            frame = _of_array(path)
            frame = frame if columns is None else frame.select(_chosen(columns))
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
    """The line of each object, from 1; None for an array."""
    return None if _is_array(path) else _line_numbers(path)


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
            rows = json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            rows = []
        if not rows or not all(isinstance(row, dict) for row in rows):
            raise
    return pl.read_ndjson("\n".join(map(json.dumps, rows)).encode(), infer_schema_length=None)


def _unmarked(path: Path) -> Path | bytes:
    """The path, or the bytes of a file that begins with a byte order mark, which Polars does not skip in lines."""
    with path.open("rb") as content:
        return content.read() if content.read(3) == codecs.BOM_UTF8 else path


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _of_lines(path: Path, columns: Sequence[str] | None, inferred: int | None) -> "pl.DataFrame":
    import polars as pl

    scan = pl.scan_ndjson(_unmarked(path), infer_schema_length=inferred)
    return (scan if columns is None else scan.select(_chosen(columns))).collect()


def _leaves(schema: Mapping[str, Any], before: str = "") -> Iterator[str]:
    """The names of columns, those within an object behind a dot."""
    import polars as pl

    for name, dtype in schema.items():
        if isinstance(dtype, pl.Struct):
            yield from _leaves(dict(dtype.to_schema()), f"{before}{name}.")
        else:
            yield f"{before}{name}"


def _chosen(columns: Sequence[str]) -> "list[pl.Expr]":
    import polars as pl

    found = []
    for name in columns:
        first, *within = name.split(".")
        column = pl.col(first)
        for field in within:
            column = column.struct.field(field)
        found.append(column.alias(name))
    return found


def _is_array(path: Path) -> bool:
    """Whether the first character is a bracket."""
    with path.open("rb") as content:
        return content.read(1 << 12).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")


def _found(path: Path, error: Exception) -> Exception:
    """The first line that is not an object, if there is one; else the error itself."""
    if _is_array(path):
        try:
            rows = json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=_refuse_constant)
        except json.JSONDecodeError as wrong:
            return WrongLineError(f"is not JSON: {wrong.msg}", wrong.lineno)
        except (ValueError, RecursionError) as wrong:
            return ValueError(first_line(wrong))
        odd = next((row for row in rows if not isinstance(row, dict)), None)
        return ValueError(f"holds {_kind(odd)}, expected objects only" if odd is not None else first_line(error))
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.isspace():
                continue
            try:
                row = json.loads(line.removeprefix(codecs.BOM_UTF8), parse_constant=_refuse_constant)
            except (ValueError, RecursionError) as wrong:
                problem = wrong.msg if isinstance(wrong, json.JSONDecodeError) else first_line(wrong)
                return WrongLineError(f"is not JSON: {problem}", number)
            if not isinstance(row, dict):
                return WrongLineError(f'is {_kind(row)}, expected an object such as {{"user_id": 1}}', number)
    return ValueError(first_line(error))


def _kind(value: Any) -> str:
    names = {list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
