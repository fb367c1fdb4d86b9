"""A small HTTP client for JSON: kept connections, one for each thread, and second tries where they may help."""

import http.client
import json
import logging
import socket
import ssl
import threading
from types import TracebackType
from typing import Any, Self
from urllib.parse import SplitResult, urlsplit

from palate import __version__
from palate.errors import InputError, PalateError, WorkError

log = logging.getLogger(__name__)

KEY_VARIABLE = "PALATE_SERVER_KEY"
"""The environment variable with the API key; no other program's, so that no key goes where it was not meant to."""
CONNECT, ANSWER = 10.0, 300.0
"""Seconds to wait for a connection, and for the next bytes of an answer: behind long queues it takes minutes."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
"""Seconds before the second try, doubled before each that follows; and the most that a server may ask to wait."""
TRIES = 6
BUSY = (408, 425, 429, 500, 502, 503, 504)


class RefusedError(PalateError):
    """The server understood a request and will not have it: its status, and what it says of it."""

    exit_code = 2

    def __init__(self, url: str, status: int, said: str) -> None:
        self.status, self.said = status, said
        super().__init__(f"{url}: refuses a request ({status}): {said}")


class Client:
    """Sends JSON to a server and returns the JSON that it answers; a context manager.

    Any number of threads may ask at once. When the context is left, all connections are cut, and whoever still waits
    for an answer gets a `WorkError`: an interrupted run does not wait for a slow server.

    What may pass is tried again (`TRIES` in all, after waits that double): a connection that fails, an answer that
    breaks off or is no JSON, and the statuses in `BUSY`, whose `Retry-After` is heeded.
    """

    def __init__(self, url: str, key: str | None, *, tries: int = TRIES) -> None:
        """`url` is what comes before `/v1/…`; `key` goes into the `Authorization` header."""
        self.url, self._key, self._tries = url, key, tries
        self._parts: SplitResult = urlsplit(url)
        self._here = threading.local()
        self._all: list[http.client.HTTPConnection] = []
        self._stop = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Cut all connections; may be called from another thread than those that wait."""
        self._stop.set()
        for connection in self._all:
            if (sock := connection.sock) is not None:
                try:
                    sock.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads
                except OSError:  # it has just been closed
                    continue

    def get(self, path: str) -> Any:
        """The JSON that lies at a path."""
        return self._ask("GET", path, None)

    def post(self, path: str, body: Any) -> Any:
        """The answer to a JSON body.

        Raises `RefusedError` for a request that the server will not have, `InputError` for a key that it will not
        have, `WorkError` if it is not to be reached, or does not answer in `TRIES` tries.
        """
        return self._ask("POST", path, json.dumps(body).encode())

    def _ask(self, method: str, path: str, body: bytes | None) -> Any:
        wait = FIRST_WAIT
        for left in reversed(range(self._tries)):
            if self._stop.is_set():
                break
            try:
                status, after, raw = self._exchange(method, path, body)
                if status not in BUSY:
                    return self._read(status, raw)
                problem, asked = f"answers {status}: {_said(raw)}", after
            except (OSError, http.client.HTTPException) as error:
                problem, asked = _broken(error), 0.0
            except ValueError:
                problem, asked = "answers with what is no JSON, or breaks off", 0.0
            if left and not self._stop.is_set():
                pause = min(max(wait, asked), LONGEST_WAIT)
                log.info("%s: %s; trying again in %g s", self.url, problem, pause)
                wait *= 2
                self._stop.wait(pause)
        else:
            tried = f" ({self._tries} tries)" if self._tries > 1 else ""
            raise WorkError(f"{self.url}: {problem}{tried}")
        raise WorkError(f"{self.url}: no longer asked")

    def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, float, bytes]:
        """Status, seconds to wait for if told, and body of one answer."""
        connection = self._connection()
        try:
            if connection.sock is None:
                connection.connect()
            if self._stop.is_set():  # `close` may have come by when there was no socket yet
                raise ConnectionAbortedError("no longer asked")
            if (sock := connection.sock) is not None:
                sock.settimeout(ANSWER)
            headers = {"Content-Type": "application/json", "User-Agent": f"palate/{__version__}"}
            if self._key:
                headers["Authorization"] = f"Bearer {self._key}"
            connection.request(method, f"{self._parts.path}{path}", body, headers)
            response = connection.getresponse()
            return response.status, _seconds(response.headers.get("Retry-After")), response.read()
        except BaseException:
            connection.close()
            raise

    def _connection(self) -> http.client.HTTPConnection:
        """This thread's own."""
        found: http.client.HTTPConnection | None = getattr(self._here, "connection", None)
        if found is None:
            kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
            found = self._here.connection = kind(self._parts.netloc.rpartition("@")[2], timeout=CONNECT)
            self._all.append(found)
        return found

    def _read(self, status: int, raw: bytes) -> Any:
        if status == 200:
            return json.loads(raw)
        if status in (401, 403):
            raise InputError(
                f"refuses the API key in ${KEY_VARIABLE} ({status})"
                if self._key
                else f"asks for an API key ({status}), expected it in ${KEY_VARIABLE}",
                self.url,
            )
        raise RefusedError(self.url, status, _said(raw))


def _said(raw: bytes) -> str:
    """What an error's body says, in one line."""
    text = raw.decode("utf-8", "replace")
    try:
        found = json.loads(text)
        found = found.get("error", found)
        text = found if isinstance(found, str) else str(found.get("message") or found.get("detail") or text)
    except (ValueError, AttributeError):
        pass
    return " ".join(text.split())[:300] or "nothing"


def _broken(error: Exception) -> str:
    """Why a connection gave no answer."""
    if isinstance(error, TimeoutError):
        return "does not answer in time"
    if isinstance(error, (http.client.IncompleteRead, http.client.RemoteDisconnected, ConnectionResetError)):
        return "the connection broke off"
    if isinstance(error, ssl.SSLError):
        return f"no secure connection: {error.reason or error}"
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return f"cannot be reached: {reason[0].lower()}{reason[1:]}"


def _seconds(header: str | None) -> float:
    """A `Retry-After` in seconds; dates are not looked at."""
    return float(header) if header and header.strip().isdigit() else 0.0
