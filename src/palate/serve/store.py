"""`Store`: the ratings and events that the service was given, durable once acknowledged and each stored once.

Requests that arrive while another is being written share one transaction (group commit): a commit waits for the disk,
so one for each request would limit the service to a few hundred a second.
"""

import hashlib
import json
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from palate.errors import InputError, PalateError, WorkError, first_line
from palate.ratings.database import Database, as_id, as_text, connect, decoded, ids_of, ratings_in
from palate.serve import schemas

if TYPE_CHECKING:
    import polars as pl

RATING = ("user_id", "item_id", "rating", "timestamp", "received", "key")
EVENT = ("event", "user_id", "item_id", "timestamp", "model", "p", "received", "key")
ATTEMPTS = 3
"""Times that a transaction is tried before a database that went away is reported."""


class KeyReusedError(PalateError):
    """A key came again with another body."""

    exit_code = 2


class StoredRating(NamedTuple):
    """A rating of a user: its item, and its time in seconds since 1970."""

    item_id: int | str
    rating: float
    timestamp: int


@dataclass(eq=False)
class _Request:
    """Rows to store under a key, and what became of them."""

    table: Literal["ratings", "events"]
    rows: list[tuple[Any, ...]]
    key: str
    body: str
    """SHA-256 of what was asked."""
    received: int
    fresh: bool = False
    """Whether the key was new in some attempt: one whose answer was lost may have been stored."""
    done: bool = False
    failure: Exception | None = None


class Store:
    """A store of feedback at a URL, see `palate.ratings.database`; all methods may be called from several threads.

    Raises `InputError` for a URL that names no store of this version, and `WorkError` where the database fails: then
    nothing of the request is stored, or its key will say that it was.
    """

    def __init__(self, url: str, *, create: bool = True) -> None:
        self.url = url
        self._writer: Database | None = connect(url, create=create)
        self.place = self._writer.place
        self._turn, self._busy = threading.Condition(), False
        self._waiting: list[_Request] = []
        self._idle: list[Database] = []
        self._closed = False

    def add_ratings(self, rows: Sequence[schemas.NewRating], key: str | None = None) -> schemas.Stored:
        """Store ratings; they are on the disk when this returns.

        A `key` that was stored before stores nothing; `KeyReusedError` if it came with other rows. A rating without a
        timestamp gets the time now.
        """
        now = int(time.time())
        values = [
            (as_text(row.user_id), as_text(row.item_id), row.rating, now if row.timestamp is None else row.timestamp)
            for row in rows
        ]
        return self._add("ratings", values, rows, key)

    def add_events(self, rows: Sequence[schemas.NewEvent], key: str | None = None) -> schemas.Stored:
        """Store events, as `add_ratings` stores ratings."""
        now = int(time.time())
        values = [
            (
                *(row.event, as_text(row.user_id), as_text(row.item_id)),
                *(now if row.timestamp is None else row.timestamp, row.model and as_text(row.model), row.p),
            )
            for row in rows
        ]
        return self._add("events", values, rows, key)

    def ratings_of(self, user_id: int | str) -> list[StoredRating]:
        """A user's ratings, oldest first; of an item rated several times the newest."""
        with self._reading() as database:
            rows = database.read("ratings", ("item_id", "rating", "timestamp"), "user_id = ?", [as_text(user_id)])
        found: dict[str, StoredRating] = {}
        for item, rating, timestamp in sorted(rows, key=lambda row: row[2]):
            found.pop(item, None)
            found[item] = StoredRating(as_id(item), rating, timestamp)
        return list(found.values())

    def dismissed(self, user_id: int | str) -> list[int | str]:
        """The items that a user dismissed."""
        condition, values = "event = ? AND user_id = ?", ["dismissed", as_text(user_id)]
        with self._reading() as database:
            items = database.read("events", ("item_id",), condition, values)
        return [as_id(item) for (item,) in dict.fromkeys(items)]

    def all_ratings(self) -> "pl.DataFrame":
        """Every rating, as `palate.ratings.database.ratings_in` has it."""
        with self._reading() as database:
            return ratings_in(database)

    def events(self, since: int = 0) -> "pl.DataFrame":
        """The events from a time on (seconds since 1970), in the order in which they were stored.

        `event`, `user_id`, `item_id` (Int64 or String), `timestamp` (Int64), `model` (String), `p` (Float64).
        """
        import polars as pl

        schema = {"event": pl.String, "user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64}
        schema |= {"model": pl.String, "p": pl.Float64}
        with self._reading() as database:
            rows = database.read("events", list(schema), "timestamp >= ?", [since])
        frame = pl.DataFrame(rows, schema, orient="row")
        return frame.with_columns(ids_of(frame["user_id"]), ids_of(frame["item_id"]), decoded(frame["model"]))

    def ready(self) -> bool:
        """Whether the database answers."""
        try:
            with self._reading() as database:
                database.rows("SELECT 1 FROM requests LIMIT 1")
                return True
        except PalateError:
            return False

    def close(self) -> None:
        """Close the connections; a request that is being written is finished first."""
        with self._turn:
            self._closed = True
            self._turn.wait_for(lambda: not self._busy)
            for database in (self._writer, *self._idle):
                if database is not None:
                    database.close()
            self._writer, self._idle = None, []

    def _current(self, opened: Database | None) -> Database:
        """An open connection, or a new one if it is None or its file was replaced."""
        if opened is not None and opened.is_current():
            return opened
        if opened is not None:
            opened.close()
        try:
            return connect(self.url)
        except InputError as error:  # the store was right at the start, so the request is not what is wrong
            raise WorkError(str(error)) from None

    @contextmanager
    def _reading(self) -> Iterator[Database]:
        """A connection for this thread alone; one that fails is not used again."""
        if self._closed:
            raise WorkError(f"{self.place}: is closed")
        try:
            database = self._current(self._idle.pop())
        except IndexError:
            database = self._current(None)
        try:
            yield database
        except database.errors as error:
            lost, self._idle = [database, *self._idle], []  # the others of a server that restarted fail, too
            for each in lost:
                each.close()
            raise WorkError(f"{self.place}: cannot be read: {first_line(error)}") from None
        if self._closed:
            database.close()
        else:
            self._idle.append(database)

    def _add(
        self,
        table: Literal["ratings", "events"],
        rows: list[tuple[Any, ...]],
        asked: Sequence[schemas.NewRating] | Sequence[schemas.NewEvent],
        key: str | None,
    ) -> schemas.Stored:
        """Queue a request; the first that waits while nobody writes writes all that wait."""
        body = json.dumps([table, *(row.model_dump(mode="json") for row in asked)])
        # A request without a key gets one of its own, so that it is stored once though an attempt's answer was lost.
        key = uuid.uuid4().hex if key is None else as_text(key)
        request = _Request(table, rows, key, hashlib.sha256(body.encode()).hexdigest(), int(time.time()))
        with self._turn:
            self._waiting.append(request)
            self._turn.wait_for(lambda: request.done or not self._busy)
            requests: list[_Request] = []
            if not request.done:
                self._busy, requests, self._waiting = True, self._waiting, []
        if requests:
            try:
                self._write_all(requests)
            finally:
                with self._turn:
                    self._busy = False
                    self._turn.notify_all()
        if request.failure is not None:
            raise request.failure
        return schemas.Stored(stored=len(rows) if request.fresh else 0, repeated=not request.fresh)

    def _write_all(self, requests: list[_Request]) -> None:
        """Write requests in one transaction, on a new connection if the old one was lost; marks them as done."""
        failure: Exception | None = WorkError(f"{self.place}: cannot be written: interrupted")
        try:
            for _ in range(ATTEMPTS):
                try:
                    if self._closed:
                        raise WorkError(f"{self.place}: is closed")
                    opened, self._writer = self._writer, None
                    self._writer = self._current(opened)
                    with self._writer.transaction():
                        _write(self._writer, requests)
                    if not self._writer.is_current():
                        raise WorkError(f"{self.place}: was replaced while it was written")
                    failure = None
                    break
                except PalateError as error:
                    failure = error
                except Exception as error:
                    failure = WorkError(f"{self.place}: cannot be written: {first_line(error)}")
                    if self._writer is None or not isinstance(error, self._writer.lost):
                        break
                    self._writer.close()
                    self._writer = None
        finally:  # also if this thread is interrupted: the others wait for their answers
            for request in requests:
                request.failure, request.done = failure or request.failure, True


def _write(database: Database, requests: list[_Request]) -> None:
    """Append the rows of requests whose keys are new."""
    statement = "INSERT INTO requests (key, body, received) VALUES (?, ?, ?) ON CONFLICT (key) DO NOTHING"
    for request in sorted(requests, key=lambda request: request.key):  # one order, so that two writers never deadlock
        new = database.count(statement, [request.key, request.body, request.received]) == 1
        request.fresh, request.failure = request.fresh or new, None
        if not new and database.rows("SELECT body FROM requests WHERE key = ?", [request.key]) != [(request.body,)]:
            request.failure = KeyReusedError("the key was stored with another body, expected a key of its own")
        if not new:
            request.rows = []
    for table, columns in (("ratings", RATING), ("events", EVENT)):
        rows = [(*row, r.received, r.key) for r in requests if r.table == table for row in r.rows]
        if rows:
            database.insert(table, columns, rows)
