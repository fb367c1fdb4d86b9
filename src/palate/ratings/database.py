"""Feedback in a database, SQLite or PostgreSQL by URL: its tables, its connections, and its ratings as columns.

`sqlite:///PATH` names a file, relative to the working folder (`sqlite:////var/lib/a.sqlite` is absolute), and
`postgresql://USER@HOST/NAME` a database, whose tables lie in the schema `palate`. Ids, keys and names are stored as
JSON, so that the id 42 and the id "42" stay different, and no character of a text is a problem.

`palate.serve.store` writes these tables. Without Polars at import.
"""

import hashlib
import json
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from palate.errors import InputError, WorkError, first_line, visible
from palate.store.artifacts import writing

if TYPE_CHECKING:
    import polars as pl

FORMAT = 1
"""The version of the tables; every incompatible change raises it."""
_APPLICATION = 0x50616C74
"""SQLite's `application_id` of a store, "Palt", and the number of PostgreSQL's lock while the tables are made."""
_SQLITE, _POSTGRES = "sqlite:///", ("postgresql://", "postgres://")
_BUSY = 30
"""Seconds that a writer waits for another process."""
_TABLES = """
CREATE TABLE requests (
    number {serial}, key TEXT NOT NULL UNIQUE, body TEXT NOT NULL, received BIGINT NOT NULL);
CREATE TABLE ratings (
    number {serial}, user_id TEXT NOT NULL, item_id TEXT NOT NULL, rating DOUBLE PRECISION NOT NULL,
    timestamp BIGINT NOT NULL, received BIGINT NOT NULL, key TEXT NOT NULL);
CREATE INDEX ratings_of_user ON ratings (user_id);
CREATE TABLE events (
    number {serial}, event TEXT NOT NULL, user_id TEXT NOT NULL, item_id TEXT NOT NULL, timestamp BIGINT NOT NULL,
    model TEXT, p DOUBLE PRECISION, received BIGINT NOT NULL, key TEXT NOT NULL);
CREATE INDEX events_in_time ON events (timestamp)
"""

_ID = "CASE WHEN typeof({0}) = 'text' AND json_valid({0}) THEN json_type({0}) ELSE '' END IN ('integer', 'text')"
_NUMBER = "typeof({0}) IN ('real', 'integer') AND {0} BETWEEN {1} AND {2}"
_RIGHT = {
    "user_id": (_ID.format("user_id"), "an id as JSON"),
    "item_id": (_ID.format("item_id"), "an id as JSON"),
    "rating": (_NUMBER.format("rating", -1e300, 1e300), "a number"),
    "timestamp": (_NUMBER.format("timestamp", 0, 1 << 40).replace("'real', ", ""), "seconds since 1970"),
    "received": (_NUMBER.format("received", 0, 1 << 40).replace("'real', ", ""), "seconds since 1970"),
    "event": ("typeof(event) = 'text'", "a text"),
    "model": (f"model IS NULL OR {_ID.format('model')}", "a text as JSON"),
    "p": (f"p IS NULL OR ({_NUMBER.format('p', 0, 1)})", "a probability"),
}
"""What SQLite, which stores values of any type in any column, is asked of each column; and its name in messages."""
_COLUMNS = {
    "requests": {"number", "key", "body", "received"},
    "ratings": {"number", "user_id", "item_id", "rating", "timestamp", "received", "key"},
    "events": {"number", "event", "user_id", "item_id", "timestamp", "model", "p", "received", "key"},
}


class DamagedError(WorkError):
    """A store holds what no service wrote; nobody's request is wrong, but the file that a command names."""

    exit_code = 2


def is_url(source: str) -> bool:
    """Whether a source of ratings is a database rather than a file."""
    return source.startswith(("sqlite:", *_POSTGRES))


def place_of(url: str) -> str:
    """The URL as messages show it, without user, password and options."""
    if url.startswith("sqlite:"):
        return url
    scheme, mark, rest = url.partition("://")
    if not mark:  # a mistyped scheme
        return f"…@{url.rpartition('@')[2].partition('?')[0]}" if "@" in url else url.partition("?")[0]
    before, _, options = rest.partition("?")
    if "@" not in before and re.match(r"[^/\[]*:(?!\d*(/|$))", before):  # USER:PASSWORD without a host
        return f"{scheme}{mark}…"
    shown = "…" if "@" in options else before.rpartition("@")[2]  # an @ there may end a password with a "?"
    return f"{scheme}{mark}{shown}"


def reason_of(url: str, error: BaseException) -> str:
    """The first line of libpq's message, unless the URL is one whose password libpq may take for a host or a port."""
    rest = url.partition("://")[2]
    before, at, _ = rest.rpartition("@")
    plain = re.compile(r"[\w.~!$'()*+,;-]*(:([\w.~!$'()*+,;-]|%[0-9a-fA-F]{2})*)?")
    written = (bool(plain.fullmatch(before)) if at else place_of(url)[-1:] != "…") and "password" not in rest.casefold()
    if written:
        return first_line(error)
    hidden = "the reason is not shown, as it may hold a part of the password"
    return f"{hidden}: percent-encode its @ : / ? # & = and %, or keep it in $PGPASSWORD"


def name_of(url: str) -> str:
    """The name of a store's file or database."""
    return Path(urlsplit(url).path).name


class Database:
    """A connection to a store; not to be used by two threads at once. Statements have `?` for their values.

    `lost` are the errors of a connection that may work again: a server that restarted, a deadlock.
    """

    def __init__(self, raw: Any, place: str, lost: tuple[type[Exception], ...], errors: type[Exception]) -> None:
        self.raw, self.place, self.lost, self.errors = raw, place, lost, errors
        self.is_file = isinstance(raw, sqlite3.Connection)
        self._opened = self._file()

    def is_current(self) -> bool:
        """Whether the store's file is still the one that was opened: what one without a name is given is lost."""
        return not self.is_file or (self._opened is not None and self._file() == self._opened)

    def _file(self) -> tuple[int, int] | None:
        """What identifies the file at the store's path, None without one."""
        try:
            found = Path(self.place).stat() if self.is_file else None
        except OSError:
            found = None
        return found and (found.st_dev, found.st_ino)

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows that a statement selects."""
        found: list[tuple[Any, ...]] = self.raw.execute(self._marked(statement), values).fetchall()
        return found

    def read(
        self, table: str, columns: Sequence[str], condition: str = "1 = 1", values: Sequence[Any] = ()
    ) -> list[tuple[Any, ...]]:
        """Columns of the rows of a table that a condition selects, in the order in which they were stored.

        Raises `DamagedError` for a value in a SQLite file that another program wrote.
        """
        if self.is_file:
            right = [_RIGHT[name][0] for name in columns]
            wrong = f"NOT ({' AND '.join(f'({each})' for each in right)})"
            flags = ", ".join(f"coalesce(({each}), 0)" for each in right)
            statement = f"SELECT number, {', '.join(columns)}, {flags} FROM {table} WHERE ({condition}) AND "
            for number, *row in self.rows(f"{statement}coalesce({wrong}, 1) ORDER BY number LIMIT 1", values):
                at = row[len(columns) :].index(0)
                raise DamagedError(
                    f"{self.place}: {table}, row {number}: {columns[at]} is {visible(shortened(row[at]))}, expected "
                    f"{_RIGHT[columns[at]][1]}: another program wrote it"
                )
        return self.rows(f"SELECT {', '.join(columns)} FROM {table} WHERE {condition} ORDER BY number", values)

    def check_tables(self) -> None:
        """Raise `InputError` for a table or a column that is missing."""
        for table, columns in _COLUMNS.items():
            statement = "SELECT column_name FROM information_schema.columns WHERE table_schema = 'palate' AND "
            statement += "table_name = ?"
            if self.is_file:
                statement = "SELECT name FROM pragma_table_info(?)"
            found = {name for (name,) in self.rows(statement, [table])}
            if missing := sorted(columns - found):
                what = f"columns {', '.join(missing)} in its table {table}" if found else f"table {table}"
                raise InputError(f"has no {what}, expected the store of `palate serve`", self.place)

    def count(self, statement: str, values: Sequence[Any] = ()) -> int:
        """Run a statement; the number of rows that it changed."""
        return int(self.raw.execute(self._marked(statement), values).rowcount)

    def insert(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Append rows to a table."""
        marks = ", ".join("?" * len(columns))
        statement = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"
        self.raw.cursor().executemany(self._marked(statement), rows)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit when the block ends, durably; roll back if it raises."""
        self.raw.execute("BEGIN IMMEDIATE" if self.is_file else "BEGIN")
        try:
            yield
            self.raw.execute("COMMIT")
        except BaseException:
            with suppress(self.errors):
                self.raw.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Close the connection."""
        with suppress(self.errors):
            self.raw.close()

    def _marked(self, statement: str) -> str:
        return statement if self.is_file else statement.replace("?", "%s")


def connect(url: str, *, create: bool = False) -> Database:
    """Open a store; `create` makes its file or schema if there is none.

    Raises `InputError` for another program's database, one of a newer Palate, and one that is missing; `WorkError` for
    a server that does not answer.
    """
    if url.startswith(_SQLITE) and len(url) > len(_SQLITE):
        return _sqlite(url, Path(url.removeprefix(_SQLITE)), create)
    if url.startswith(_POSTGRES):
        return _postgres(url, create)
    raise InputError("is no store, expected sqlite:///PATH or postgresql://USER@HOST/NAME", place_of(url))


def _sqlite(url: str, path: Path, create: bool) -> Database:
    """A SQLite file in WAL mode, whose commits are on the disk when they return."""
    address = f"file:{quote(str(path.absolute()))}?mode={'rwc' if create else 'rw'}"
    with writing(path):
        if not create and not path.is_file():
            raise InputError("no such file, expected the store of `palate serve`", path)
        if not path.parent.is_dir():
            raise InputError(f"its folder {path.parent} does not exist, expected one that does", place_of(url))
    try:
        # Autocommit: transactions are begun by hand. Threads share a connection under a lock.
        raw = sqlite3.connect(address, uri=True, timeout=_BUSY, isolation_level=None, check_same_thread=False)
        database = Database(raw, str(path), (), sqlite3.Error)
        try:
            if create and _is_empty(database):
                database.raw.execute("PRAGMA journal_mode = WAL")
                with database.transaction():
                    if _is_empty(database):  # unless another process was faster
                        _make(database, "INTEGER PRIMARY KEY")
                        database.raw.execute(f"PRAGMA application_id = {_APPLICATION}")
                        database.raw.execute(f"PRAGMA user_version = {FORMAT}")
            (owner,), (version,) = (raw.execute(f"PRAGMA {name}").fetchone() for name in ("application_id",
                                                                                          "user_version"))  # fmt: skip
            _check(owner == _APPLICATION, version, database.place)
            database.check_tables()
            raw.execute("PRAGMA synchronous = FULL")  # each commit waits for the disk: it survives a power failure
        except BaseException:
            raw.close()
            raise
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):  # locked, unreadable, on a full disk
            raise WorkError(f"{path}: cannot be opened, is it locked or its disk full? {error}") from None
        raise InputError("is not a SQLite file, expected the store of `palate serve`", path) from None
    return database


def _is_empty(database: Database) -> bool:
    return not database.rows("SELECT 1 FROM sqlite_master") and database.rows("PRAGMA application_id") == [(0,)]


def _postgres(url: str, create: bool) -> Database:
    """A PostgreSQL database; a server that is set not to wait for its disk is set to wait here."""
    place = place_of(url)
    try:
        import psycopg
    except ModuleNotFoundError:
        raise InputError("needs psycopg: pip install 'palate[postgres]'", place) from None
    try:
        raw = psycopg.connect(url, autocommit=True, connect_timeout=10)
    except psycopg.OperationalError as error:
        raise WorkError(f"{place}: cannot be reached: {reason_of(url, error)}") from None
    except psycopg.Error as error:
        raise InputError(
            f"is not a database's URL, expected postgresql://USER:PASSWORD@HOST/DATABASE: {reason_of(url, error)}",
            place,
        ) from None
    database = Database(raw, place, (psycopg.OperationalError, psycopg.InterfaceError), psycopg.Error)
    try:
        raw.execute("SET search_path TO palate")
        raw.execute("SET synchronous_commit TO on")
        if create:
            with database.transaction():
                database.rows("SELECT pg_advisory_xact_lock(?)", [_APPLICATION])
                if database.rows("SELECT to_regnamespace('palate')") == [(None,)]:
                    raw.execute("CREATE SCHEMA palate")
                    _make(database, "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY")
                    raw.execute("CREATE TABLE format (version INTEGER NOT NULL)")
                    database.insert("format", ["version"], [(FORMAT,)])
        if database.rows("SELECT to_regnamespace('palate')") == [(None,)]:
            raise InputError("has no schema palate, expected the store of `palate serve`", place)
        ours = database.rows("SELECT to_regclass('palate.format')") != [(None,)]
        _check(ours, database.rows("SELECT version FROM format")[0][0] if ours else 0, place)
        database.check_tables()
    except psycopg.Error as error:
        database.close()
        raise WorkError(f"{place}: {first_line(error)}") from None
    except BaseException:
        database.close()
        raise
    return database


def _make(database: Database, serial: str) -> None:
    for statement in _TABLES.format(serial=serial).split(";"):
        database.raw.execute(statement)


def _check(ours: bool, version: int, place: str) -> None:
    if not ours:
        raise InputError("is another program's database, expected the store of `palate serve`", place)
    if version != FORMAT:
        raise InputError(f"has format {version}, this Palate reads {FORMAT}: update Palate", place)


def as_text(value: int | str) -> str:
    """An id as it is stored; characters stay as they are, so that an index can hold an id of 500 of them."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which UTF-8 lacks
        return json.dumps(value)
    return text


def shortened(value: Any) -> str:
    """A value for a message: only its beginning if it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def as_id(text: str) -> int | str:
    """A stored id."""
    value: int | str = json.loads(text)
    return value


def decoded(texts: "pl.Series") -> "pl.Series":
    """Stored ids or names as text, String."""
    import polars as pl

    distinct = texts.unique().drop_nulls()
    read = pl.Series([str(as_id(text)) for text in distinct], dtype=pl.String)
    return texts.replace_strict(distinct, read, default=None, return_dtype=pl.String)


def ids_of(texts: "pl.Series") -> "pl.Series":
    """Stored ids as a log has them: Int64 if all are integers, else String."""
    from palate.ratings.ids import as_ids

    return as_ids(decoded(texts))


def ratings_in(database: Database) -> "pl.DataFrame":
    """All ratings in the order in which they were stored.

    `user_id`, `item_id` (Int64 or String, see `ids_of`), `rating` (Float64), `timestamp` and `received` (Int64, seconds
    since 1970).
    """
    import polars as pl

    schema = {"user_id": pl.String, "item_id": pl.String, "rating": pl.Float64}
    schema |= {"timestamp": pl.Int64, "received": pl.Int64}
    frame = pl.DataFrame(database.read("ratings", list(schema)), schema, orient="row")
    return frame.with_columns(ids_of(frame["user_id"]), ids_of(frame["item_id"]))


def stored_ratings(url: str) -> "tuple[pl.DataFrame, str]":
    """`ratings_in` of the store at a URL, and their SHA-256."""
    with closing(connect(url)) as database:
        try:
            frame = ratings_in(database)
        except database.errors as error:
            raise WorkError(f"{database.place}: cannot be read: {first_line(error)}") from None
    return frame, hashlib.sha256(frame.write_csv().encode()).hexdigest()
