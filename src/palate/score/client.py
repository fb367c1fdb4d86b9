"""A small HTTP client for JSON: one kept connection per thread, and retries."""

import http.client
import json
import logging
import socket
import ssl
import threading
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from palate import __version__
from palate.errors import InputError, PalateError, WorkError

log = logging.getLogger(__name__)

KEY_VARIABLE = "PALATE_SERVER_KEY"
"""The environment variable with the API key; Palate's own, so that no other program's key is sent."""
CONNECT, ANSWER = 10.0, 300.0
"""Seconds to wait for a connection, and for the next bytes of an answer, which may queue for minutes."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
"""Seconds before the second try, doubled before each later one; longest wait that a server may ask for."""
TRIES = 6
BUSY = (408, 425, 429, 500, 502, 503, 504)


class RefusedError(PalateError):
    """The server refuses a request: the status of its answer, and the message in it."""

    exit_code = 2

    def __init__(self, url: str, status: int, said: str) -> None:
        self.status, self.said = status, said
        super().__init__(f"{url}: refuses a request ({status}): {said}")


class Client:
    """Sends JSON to a server and returns its JSON answer, for any number of threads at once.

    `close` raises `WorkError` in each thread that still waits: an interrupted run does not wait for a slow server.

    A request is repeated (`TRIES` in all, after waits that double) when the connection fails, the answer breaks off or
    is no JSON, or its status is in `BUSY`; `Retry-After` lengthens the wait.
    """

    def __init__(self, url: str, key: str | None, *, tries: int = TRIES) -> None:
        """`url` is what comes before `/v1/…`; `key` goes into the `Authorization` header."""
        self.url, self._key, self._tries = url, key, tries
        self._parts = urlsplit(url)
        self._here = threading.local()
        self._all: list[http.client.HTTPConnection] = []
        self._stop = threading.Event()

    def close(self) -> None:
        """Cut all connections, which wakes the threads that read."""
        self._stop.set()
        for connection in self._all:
            if (sock := connection.sock) is not None:
                with suppress(OSError):  # its thread has just closed it
                    sock.shutdown(socket.SHUT_RDWR)

    def get(self, path: str) -> Any:
        """Fetch JSON."""
        return self._ask("GET", path, None)

    def post(self, path: str, body: Any) -> Any:
        """Send a JSON body and return the answer.

        Raises `RefusedError` for a refused request, `InputError` for a refused key, `WorkError` where no try succeeds.
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
                problem, asked = "answers with broken JSON", 0.0
            if left and not self._stop.is_set():
                pause = min(max(wait, asked), LONGEST_WAIT)
                log.info("%s: %s; trying again in %g s", self.url, problem, pause)
                wait *= 2
                self._stop.wait(pause)
        else:
            tried = f" ({self._tries} tries)" if self._tries > 1 else ""
            raise WorkError(f"{self.url}: {problem}{tried}")
        raise WorkError(f"{self.url}: interrupted")

    def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, float, bytes]:
        """Status, `Retry-After` in seconds (0 without, or for a date), and body of one answer."""
        connection = self._connection()
        try:
            if connection.sock is None:
                connection.connect()
            if self._stop.is_set():  # `close` was called before the socket existed
                raise ConnectionAbortedError("interrupted")
            if (sock := connection.sock) is not None:
                sock.settimeout(ANSWER)
            headers = {"Content-Type": "application/json", "User-Agent": f"palate/{__version__}"}
            if self._key:
                headers["Authorization"] = f"Bearer {self._key}"
            connection.request(method, f"{self._parts.path}{path}", body, headers)
            response = connection.getresponse()
            after = response.headers.get("Retry-After", "").strip()
            return response.status, float(after) if after.isdigit() else 0.0, response.read()
        except BaseException:
            connection.close()
            raise

    def _connection(self) -> http.client.HTTPConnection:
        """The connection of this thread."""
        if not hasattr(self._here, "connection"):
            kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
            self._here.connection = kind(self._parts.netloc.rpartition("@")[2], timeout=CONNECT)
            self._all.append(self._here.connection)
        found: http.client.HTTPConnection = self._here.connection
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
    """The message in the body of an error, in one line."""
    text = raw.decode("utf-8", "replace")
    try:
        found = json.loads(text)
        found = found.get("error", found)
        text = found if isinstance(found, str) else str(found.get("message") or found.get("detail") or text)
    except (ValueError, AttributeError):
        pass
    return " ".join(text.split())[:300] or "no message"


def _broken(error: Exception) -> str:
    """Why a request got no answer."""
    if isinstance(error, TimeoutError):
        return "does not answer in time"
    if isinstance(error, (http.client.IncompleteRead, http.client.RemoteDisconnected, ConnectionResetError)):
        return "the connection broke off"
    if isinstance(error, ssl.SSLError):
        return f"no secure connection: {error.reason or error}"
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return f"cannot be reached: {reason[0].lower()}{reason[1:]}"
