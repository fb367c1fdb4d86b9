"""A small HTTP client for JSON with retries; each thread keeps one connection open."""

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
"""The environment variable with the API key. Only Palate reads it, so Palate never sends another program's key."""
CONNECT, ANSWER = 10.0, 300.0
"""Seconds to wait for a connection, and for the next bytes of a response, which may queue for minutes."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
"""Seconds before the second try, doubled before each later one; the longest wait, also if the server asks for more."""
TRIES = 6
BUSY = (408, 425, 429, 500, 502, 503, 504)


class RefusedError(PalateError):
    """The server refuses a request, with the HTTP status and the message of its response."""

    exit_code = 2

    def __init__(self, url: str, status: int, message: str) -> None:
        self.status, self.message = status, message
        super().__init__(f"{url}: refuses a request ({status}): {message}")


class Client:
    """Sends JSON to a server and returns its JSON response; any number of threads may share a client.

    `close` raises `WorkError` in each thread that still waits, so an interrupted run does not wait for a slow server.

    The client repeats a request (`TRIES` tries in all, with waits that double) if the connection fails, the response
    breaks off or is not JSON, or its status is in `BUSY`. `Retry-After` lengthens the wait.
    """

    def __init__(self, url: str, key: str | None, *, tries: int = TRIES) -> None:
        """`url` is the part before `/v1/…`; `key` goes into the `Authorization` header."""
        self.url, self._key, self._tries = url, key, tries
        self._parts = urlsplit(url)
        self._thread = threading.local()
        self._connections: list[http.client.HTTPConnection] = []
        self._stop = threading.Event()

    def close(self) -> None:
        """Shut all connections down, which wakes the threads that read from them."""
        self._stop.set()
        for connection in self._connections:
            if (sock := connection.sock) is not None:
                with suppress(OSError):  # the connection's thread may close it at the same moment
                    sock.shutdown(socket.SHUT_RDWR)

    def get(self, path: str) -> Any:
        """Fetch JSON."""
        return self._request("GET", path, None)

    def post(self, path: str, body: Any) -> Any:
        """Send a JSON body and return the response.

        Raises `RefusedError` for a refused request, `InputError` for a refused key, `WorkError` if every try fails.
        """
        return self._request("POST", path, json.dumps(body).encode())

    def _request(self, method: str, path: str, body: bytes | None) -> Any:
        wait = FIRST_WAIT
        for tries_left in reversed(range(self._tries)):
            if self._stop.is_set():
                break
            try:
                status, retry_after, raw = self._exchange(method, path, body)
                if status not in BUSY:
                    return self._read(status, raw)
                problem = f"answers {status}: {_message(raw)}"
            except (OSError, http.client.HTTPException) as error:
                problem, retry_after = _failure(error), 0.0
            except ValueError:
                problem, retry_after = "answers with broken JSON", 0.0
            if tries_left and not self._stop.is_set():
                pause = min(max(wait, retry_after), LONGEST_WAIT)
                log.info("%s: %s; trying again in %g s", self.url, problem, pause)
                wait *= 2
                self._stop.wait(pause)
        else:
            tries = f" ({self._tries} tries)" if self._tries > 1 else ""
            raise WorkError(f"{self.url}: {problem}{tries}")
        raise WorkError(f"{self.url}: interrupted")

    def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, float, bytes]:
        """Status, `Retry-After` in seconds (0 if absent or a date) and body of one response."""
        connection = self._connection()
        try:
            if connection.sock is None:
                connection.connect()
            if self._stop.is_set():  # `close` ran before the socket existed
                raise ConnectionAbortedError("interrupted")
            if (sock := connection.sock) is not None:
                sock.settimeout(ANSWER)
            headers = {"Content-Type": "application/json", "User-Agent": f"palate/{__version__}"}
            if self._key:
                headers["Authorization"] = f"Bearer {self._key}"
            connection.request(method, f"{self._parts.path}{path}", body, headers)
            response = connection.getresponse()
            retry_after = response.headers.get("Retry-After", "").strip()
            return response.status, float(retry_after) if retry_after.isdigit() else 0.0, response.read()
        except BaseException:
            connection.close()
            raise

    def _connection(self) -> http.client.HTTPConnection:
        """The connection of this thread."""
        if not hasattr(self._thread, "connection"):
            kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
            self._thread.connection = kind(self._parts.netloc.rpartition("@")[2], timeout=CONNECT)
            self._connections.append(self._thread.connection)
        connection: http.client.HTTPConnection = self._thread.connection
        return connection

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
        raise RefusedError(self.url, status, _message(raw))


def _message(raw: bytes) -> str:
    """The message in the body of an error response, on one line."""
    text = raw.decode("utf-8", "replace")
    try:
        body = json.loads(text)
        error = body.get("error", body)
        text = error if isinstance(error, str) else str(error.get("message") or error.get("detail") or text)
    except (ValueError, AttributeError):
        pass
    return " ".join(text.split())[:300] or "no message"


def _failure(error: Exception) -> str:
    """Why a request got no response."""
    if isinstance(error, TimeoutError):
        return "does not answer in time"
    if isinstance(error, (http.client.IncompleteRead, http.client.RemoteDisconnected, ConnectionResetError)):
        return "the connection broke off"
    if isinstance(error, ssl.SSLError):
        return f"no secure connection: {error.reason or error}"
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return f"cannot be reached: {reason[0].lower()}{reason[1:]}"
