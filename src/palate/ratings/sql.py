"""Tables of a database by URL: `sqlite:///PATH`, `duckdb:///PATH` or `postgresql://USER@HOST/NAME`, and `?table=NAME`.

Without a table, those with usual names count, as in a folder. Nothing is written. `palate.ratings.database` has the
store of `palate serve`, which is another kind of database.
"""

import json
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import polars as pl

from palate.errors import InputError, WorkError, first_line
from palate.ratings.database import place_of, reason_of
from palate.ratings.dataset_table import frame_of
from palate.ratings.source import Source, scratch_folder

SCHEMES = ("sqlite", "duckdb", "postgresql", "postgres")
_ROWS = 100_000
"""Rows that are fetched at once."""
_PLAIN = (bool, int, float, str, datetime, date, Decimal)
_STORE_TABLES = {"format", "requests", "ratings", "events"}


@dataclass(frozen=True)
class _Open:
    """An open database: its tables, the name of one as SQL writes it, and how to read it."""

    tables: tuple[str, ...]
    read: Callable[[str], pl.DataFrame]
    store: bool = False
    """Whether it is the store of `palate serve`."""


def is_database(source: str) -> bool:
    """Whether a source names a database."""
    return source.partition(":")[0].partition("+")[0] in SCHEMES and ":" in source


def is_store(url: str) -> bool:
    """Whether a URL names the store of `palate serve`; raises `InputError` for a file that is missing."""
    _, table = _split(url)
    if table is not None or url.startswith("duckdb:"):
        return False
    with _opened(url) as found:
        return found.store


@contextmanager
def open_database(url: str) -> Iterator[Source]:
    """The tables of a database; raises `InputError` for a URL or a table that names nothing, `WorkError` if a server
    does not answer."""
    base, table = _split(url)
    place = place_of(base)
    with scratch_folder() as scratch, _opened(base) as found:
        shown = {name.replace("/", "."): name for name in found.tables}
        if table is not None and table not in shown:
            raise InputError(f"has no table {table!r}, expected one of {', '.join(shown) or 'none'}", place)

        def fetch(name: str) -> Path:
            path = scratch / f"{found.tables.index(name)}.parquet"
            try:
                frame = found.read(name)
            except pl.exceptions.PolarsError as error:
                raise InputError(f"cannot be read: {first_line(error)}", f"{place}?table={name}") from None
            try:
                frame.write_parquet(path)
            except (OSError, pl.exceptions.PolarsError) as error:
                raise WorkError(f"{path}: cannot be written: {first_line(error)}") from None
            return path

        chosen = () if table is None else (shown[table],)
        yield Source(f"{place}?table=", found.tables, scratch, chosen=chosen, fetch=fetch)


def _split(url: str) -> tuple[str, str | None]:
    """The URL without its table and a driver such as `+psycopg2`, and the table."""
    url = re.sub(r"^(postgres(?:ql)?)\+\w+:", r"\1:", url)
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InputError(f"is not a URL: {first_line(error)}", url) from None
    options = parse_qsl(parts.query, keep_blank_values=True)
    table = next((value for key, value in options if key == "table"), None)
    rest = [(key, value) for key, value in options if key != "table"]
    if table is None:
        return url, None
    base = urlunsplit(parts._replace(query=urlencode(rest)))
    return (base if "///" in base or parts.netloc else base.replace(":/", ":///", 1)), table


@contextmanager
def _opened(url: str) -> Iterator[_Open]:
    scheme, _, path = url.partition("://")
    if scheme in ("postgresql", "postgres"):
        with _postgres(url) as found:
            yield found
        return
    path = path.removeprefix("/")
    if not path:
        raise InputError(f"names no file, expected {scheme}:///PATH", url)
    if not Path(path).is_file():
        raise InputError("no such file, expected a database", path)
    with (_sqlite if scheme == "sqlite" else _duckdb)(path) as found:
        yield found


@contextmanager
def _sqlite(path: str) -> Iterator[_Open]:
    try:
        with closing(sqlite3.connect(f"file:{quote(str(Path(path).absolute()))}?mode=ro", uri=True)) as raw:
            named = raw.execute(
                "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') ORDER BY name"
            ).fetchall()
            tables = tuple(str(name) for (name,) in named if not str(name).startswith("sqlite_"))
            (owner,) = raw.execute("PRAGMA application_id").fetchone()
            yield _Open(
                tables, lambda name: _fetched(raw.execute(f"SELECT * FROM {_quoted(name)}")), owner == 0x50616C74
            )
    except UnicodeDecodeError as error:  # names of a damaged file
        raise InputError(f"is not a whole SQLite file, copy it again: {first_line(error)}", path) from None
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise WorkError(f"{path}: cannot be read: {error}") from None
        raise InputError(f"is not a whole SQLite file, expected one: {error}", path) from None


@contextmanager
def _duckdb(path: str) -> Iterator[_Open]:
    try:
        import duckdb
    except ModuleNotFoundError:
        raise InputError("needs duckdb: pip install 'palate[duckdb]'", path) from None
    try:
        with closing(duckdb.connect(path, read_only=True)) as raw:
            found = raw.execute(
                "SELECT table_schema, table_name FROM information_schema.tables ORDER BY 1, 2"
            ).fetchall()

            def read(name: str) -> pl.DataFrame:
                return frame_of(raw.sql(f"SELECT * FROM {_path(name)}").to_arrow_table())

            yield _Open(tuple(name if schema == "main" else f"{schema}/{name}" for schema, name in found), read)
    except duckdb.Error as error:
        raise InputError(f"is not a DuckDB file that can be read: {first_line(error)}", path) from None


@contextmanager
def _postgres(url: str) -> Iterator[_Open]:
    place = place_of(url)
    try:
        import psycopg
    except ModuleNotFoundError:
        raise InputError("needs psycopg: pip install 'palate[postgres]'", place) from None
    try:
        raw = psycopg.connect(url, connect_timeout=10, options="-c TimeZone=UTC -c default_transaction_read_only=on")
    except psycopg.OperationalError as error:
        raise WorkError(f"{place}: cannot be reached: {reason_of(url, error)}") from None
    except psycopg.Error as error:
        expected = "expected postgresql://USER@HOST/NAME?table=NAME"
        raise InputError(f"is not a database's URL, {expected}: {reason_of(url, error)}", place) from None
    try:
        with closing(raw):
            rows = raw.execute(
                "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
                "WHERE c.relkind IN ('r', 'v', 'm', 'p', 'f') AND n.nspname <> 'information_schema' "
                "AND n.nspname NOT LIKE 'pg_%' ORDER BY 1, 2"
            ).fetchall()
            store = {name for schema, name in rows if schema == "palate"} >= _STORE_TABLES
            tables = tuple(name if schema == "public" else f"{schema}/{name}" for schema, name in rows)

            def read(name: str) -> pl.DataFrame:
                with raw.cursor("palate") as cursor:  # on the server, so that rows come in blocks
                    cursor.execute(f"SELECT * FROM {_path(name)}")
                    frame = _fetched(cursor)
                # A table has no order; with one, the same rows give the same file.
                return frame.sort(pl.all())

            yield _Open(tables, read, store)
    except psycopg.Error as error:
        raise WorkError(f"{place}: {first_line(error)}") from None


def _path(name: str) -> str:
    """A table as SQL writes it, of a name with its schema before a slash."""
    return ".".join(map(_quoted, name.split("/", 1)))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _fetched(cursor: Any) -> pl.DataFrame:
    """The rows of a cursor. Values of other types than numbers, text and times become text."""
    blocks: list[pl.DataFrame] = []
    while (rows := cursor.fetchmany(_ROWS)) or not blocks:
        names = [column[0] for column in cursor.description]
        columns = list(zip(*rows, strict=True)) if rows else [() for _ in names]
        blocks.append(pl.DataFrame([_series(name, values) for name, values in zip(names, columns, strict=True)]))
    return pl.concat(blocks, how="vertical_relaxed")


def _series(name: str, values: Sequence[Any]) -> pl.Series:
    kinds = {type(value) for value in values} - {type(None)}
    if kinds <= set(_PLAIN) and (len(kinds) <= 1 or kinds <= {int, float, bool}):
        return pl.Series(name, values, strict=False)
    return pl.Series(name, [None if value is None else _text(value) for value in values], dtype=pl.String)


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:  # such as a UUID; with a replacement several would become one
            return value.hex()
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)
