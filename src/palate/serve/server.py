"""The process of the service: its address, and its end, in which no request is lost."""

import errno
import ipaddress
import logging
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI

from palate.errors import InputError

if TYPE_CHECKING:
    from palate.serve.app import Service

log = logging.getLogger("palate.serve")

CONNECTIONS = 2048
"""Open connections, above which the next get 503."""
DRAIN = 1.0
"""Seconds from SIGTERM, in which `/readyz` answers 503 and all else is answered, until no connection is accepted."""


def is_local(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def bound(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 is a free one. Raises `InputError` for an address that is taken or cannot be had."""
    if not 0 <= port < 1 << 16:
        raise InputError(f"{port}, expected a number from 0 to 65535", "--port")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.create_server((host, port), family=family, backlog=CONNECTIONS)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InputError(f"{host}:{port} is in use, expected a free port; --port 0 takes any", "--port") from None
        reason = (error.strerror or str(error)).partition(" (while")[0]
        option = "--port" if error.errno == errno.EACCES else "--host"
        raise InputError(f"{host}:{port} cannot be had ({reason}), expected another address", option) from None
    # Accepted sockets inherit it. asyncio sets it for sockets of a named protocol alone; without it an answer's body
    # waits 40 ms for the acknowledgement of its headers.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def url_of(sock: socket.socket) -> str:
    """The address of a listening socket."""
    host, port = sock.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def run(
    app: FastAPI, sock: socket.socket, seconds: float, on_ready: Callable[[], None] = lambda: None
) -> Exception | None:
    """Serve until SIGINT or SIGTERM; requests in flight are answered first, for up to `seconds`.

    Calls `on_ready` when the models are loaded. If they cannot be loaded it ends, and returns why.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=int(2 * seconds) + 1,  # of waiting and of work
    )
    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # no line for each broken request
    server = _Server(config, app, on_ready)
    server.run([sock])
    failure: Exception | None = server.source.failure
    return failure


class _Server(uvicorn.Server):
    """Announces its end to balancers before it closes its socket, and ends with exit code 0."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._service: Service = app.state.service
        self.source = self._service.source
        self._on_ready: Callable[[], None] | None = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept connections."""
        await super().startup(sockets)
        if sockets and self.source.loading:
            log.info("listening at %s; /readyz answers 200 when the models are loaded", url_of(sockets[0]))

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to end, also because there will be no models."""
        if self._on_ready is not None and not self.source.loading:
            self._on_ready()
            self._on_ready = None
        return await super().on_tick(counter) or self.source.failure is not None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first SIGTERM begins the drain; the second, Ctrl-C, and both while models are loaded end at once."""
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        if sig == signal.SIGINT or self._service.draining or self.source.loading:
            self.should_exit = True
            return
        self._service.draining = True
        timer = threading.Timer(DRAIN, setattr, (self, "should_exit", True))
        timer.daemon = True
        timer.start()
