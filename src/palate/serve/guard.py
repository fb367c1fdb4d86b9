"""`Guard`: the ASGI middleware before every route: the API key, the host, the body's size and time, the log."""

import asyncio
import hmac
import logging
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from palate.serve.metrics import Metrics
from palate.serve.problems import ProblemError, answer

log = logging.getLogger("palate.serve")

LOCAL = ("localhost", "127.0.0.1", "[::1]")
WATCHED = ("/healthz", "/readyz", "/metrics")
"""Paths that balancers and Prometheus ask every few seconds."""
BODY_SECONDS = 30.0
"""Longest wait for the next bytes of a body."""
DRAIN_SECONDS = 2.0
"""Longest time for the rest of a body that is refused."""
HEADERS = (
    (b"content-security-policy", b"default-src 'self'; frame-ancestors 'self'; base-uri 'none'; form-action 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)
"""Headers of every answer that has none of the name."""


@dataclass(frozen=True)
class Guard:
    """Refuses what no route should see, and counts what was answered.

    `key` is the API key; without one the Host header must name this machine, so that a page of another site whose name
    resolves to 127.0.0.1 cannot ask. Paths in `free` need no key. `body` is the most bytes of a body.
    """

    app: ASGIApp
    metrics: Metrics
    key: str | None
    body: int
    free: Collection[str]
    log_requests: bool = False
    log_routes: bool = False
    """Whether a request is logged with its route alone, except those that watch the service; else for `--verbose`."""
    local: Collection[str] = LOCAL

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                named = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(each for each in HEADERS if each[0] not in named)]
            await send(message)

        refusal = self._refusal(scope)
        try:
            if refusal is not None:
                await _drain(receive, 4 * self.body)
                await answer(refusal)(scope, receive, send_on)
            else:
                await self.app(scope, self._limited(receive), send_on)
        except Exception as error:
            failed = answer(error)  # logs it
            if not status:
                await failed(scope, receive, send_on)
        finally:
            self._count(scope, status or 500, time.perf_counter() - began)

    def _refusal(self, scope: Scope) -> ProblemError | None:
        headers = dict(scope["headers"])
        if self.key is None:
            host = headers.get(b"host", b"").decode("latin-1").lower()
            name = host[: host.rfind(":")] if ":" in host.rpartition("]")[2] else host
            if name not in self.local:
                return ProblemError(403, "names a host other than this machine, expected an API key for that")
        elif scope["path"] not in self.free and not self._has_key(headers):
            return ProblemError(401, "expected the API key: Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"})
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.body:
            return self._too_large()
        return None

    def _has_key(self, headers: dict[bytes, bytes]) -> bool:
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        if kind.lower() != b"bearer":
            given = headers.get(b"x-api-key", b"")
        return hmac.compare_digest(given.strip(), (self.key or "").encode())

    def _limited(self, receive: Receive) -> Receive:
        read, ended = 0, False

        async def limited() -> Message:
            nonlocal read, ended
            if ended:  # what comes now is the client's leaving
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), BODY_SECONDS)
            except TimeoutError:
                raise _http(408, f"no bytes of the body within {BODY_SECONDS:g} s") from None
            read += len(message.get("body", b""))
            ended = not message.get("more_body", False)
            if read > self.body:
                if not ended:
                    await _drain(receive, 4 * self.body)
                raise _http(413, str(self._too_large()))
            return message

        return limited

    def _too_large(self) -> ProblemError:
        return ProblemError(
            413, f"the body is too large, expected at most {self.body:,} bytes", {"Connection": "close"}
        )

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path_format", None) or ("/" if scope["path"] in self.free else "other")
        self.metrics.observe(route, status, seconds)
        method = scope["method"] if scope["method"].isalpha() else "?"
        fields = {"method": method, "route": route, "status": status, "ms": round(1000 * seconds, 1)}
        if self.log_requests:
            query = scope["query_string"].decode("latin-1")
            client = (scope.get("client") or ("?",))[0]
            # As it was sent: a decoded line break would begin a line of its own.
            path = scope["raw_path"].decode("latin-1") + (f"?{query}" if query else "")
            told = {"fields": {**fields, "client": client, "path": path}}
            log.info("%s %s %s %d %.0f ms", client, method, path, status, 1000 * seconds, extra=told)
        else:
            level = logging.INFO if self.log_routes and scope["path"] not in WATCHED else logging.DEBUG
            log.log(level, "%s %s %d %.0f ms", method, route, status, 1000 * seconds, extra={"fields": fields})


async def _drain(receive: Receive, most: int) -> None:
    """Read the rest of a refused body, up to `most` bytes: a client that still writes would not see the answer."""
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS):
            while most > 0:
                message = await receive()
                most -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    return


def _http(status: int, detail: str) -> Exception:
    """An error that FastAPI passes on while it reads a body; it makes 400 of all others."""
    from starlette.exceptions import HTTPException

    return HTTPException(status, detail, {"Connection": "close"})
