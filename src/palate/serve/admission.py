"""`Admission`: blocking work in a bounded number of threads, with a bounded queue before them."""

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from fastapi import Request

from palate.serve.problems import ProblemError, problem_of

T = TypeVar("T")
Stopped = Callable[[], bool]
"""Whether nobody waits for the answer any more."""
Emit = Callable[[str, str], None]
"""Sends an event: its name, and its data as JSON."""
ALIVE = 10.0
"""Seconds without an event after which a stream sends a comment, so that proxies keep the connection."""


class HungUpError(ProblemError):
    """The client has gone; nobody reads this answer."""

    def __init__(self) -> None:
        super().__init__(499, "the client has gone")


class Admission:
    """Runs at most `in_work` calls at once; `queue` more wait, and the next gets 429 with `Retry-After`, as does one
    that would wait, or has waited, longer than `seconds`.

    A client that hangs up loses its place in the queue. In work, its call is asked to stop, as is one that works longer
    than `seconds`; the thread counts until the call has returned.
    """

    def __init__(self, name: str, in_work: int, queue: int, seconds: float) -> None:
        self._pool = ThreadPoolExecutor(in_work, name)
        self._free = asyncio.Semaphore(in_work)
        self._threads, self._queue, self._seconds = in_work, queue, seconds
        self._each = 0.1  # seconds of recent calls
        self._began: dict[asyncio.Future[Any], float] = {}  # of the calls in work
        self.in_work = self.waiting = 0

    async def run(self, request: Request, call: Callable[[Stopped], T]) -> T:
        """The result of a call; raises `ProblemError` with 429 or 503 if there is none."""
        work, gone, stop = await self._begin(request, call)
        both: list[asyncio.Future[Any]] = [work, gone]
        await asyncio.wait(both, timeout=self._seconds, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        stop.set()
        raise HungUpError if gone.done() else self._slow()

    async def stream(self, request: Request, call: Callable[[Emit, Stopped], None]) -> AsyncIterator[bytes]:
        """Server-sent events of a call as it emits them; an error before the first event is raised here."""
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[bytes | None] = asyncio.Queue()

        def put(event: bytes | None) -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(events.put_nowait, event)

        def work(stopped: Stopped) -> None:
            sent = False

            def emit(name: str, data: str) -> None:
                nonlocal sent
                sent = True
                put(server_sent(name, data))

            try:
                call(emit, stopped)
            except Exception as error:
                if not sent:
                    raise
                put(server_sent("error", problem_of(error).model_dump_json(exclude_none=True)))
            finally:
                put(None)

        task, _, stop = await self._begin(request, work)
        began = time.monotonic()
        try:
            first = await asyncio.wait_for(events.get(), self._seconds)
        except TimeoutError:
            stop.set()
            raise self._slow() from None
        if first is None:
            await task
            raise HungUpError
        return self._events(first, events, stop, began)

    async def _events(
        self, first: bytes, events: asyncio.Queue[bytes | None], stop: threading.Event, began: float
    ) -> AsyncIterator[bytes]:
        event: bytes | None = first
        try:
            while event is not None:
                yield event
                try:
                    event = await asyncio.wait_for(events.get(), min(ALIVE, self._left(began)))
                except TimeoutError:
                    event = b": waiting\n\n"
                    if not self._left(began):
                        yield server_sent("error", problem_of(self._slow()).model_dump_json(exclude_none=True))
                        return
        finally:
            stop.set()

    async def _begin(
        self, request: Request, call: Callable[[Stopped], T]
    ) -> tuple["asyncio.Future[T]", "asyncio.Future[None]", threading.Event]:
        """Start a call when a thread is free: the call, the client's leaving, and the event that stops the call."""
        gone = asyncio.ensure_future(_gone(request))
        try:
            await self._enter(gone)
        except BaseException:
            gone.cancel()
            raise
        stop, began = threading.Event(), time.monotonic()
        self.in_work += 1
        work = asyncio.get_running_loop().run_in_executor(self._pool, call, stop.is_set)
        self._began[work] = began

        def end(done: "asyncio.Future[T]") -> None:
            self.in_work -= 1
            del self._began[done]
            self._free.release()
            self._each += 0.2 * (time.monotonic() - began - self._each)
            gone.cancel()
            if not done.cancelled():
                done.exception()  # of a call that nobody waits for

        work.add_done_callback(end)
        gone.add_done_callback(lambda _: stop.set())
        return work, gone, stop

    async def _enter(self, gone: "asyncio.Future[None]") -> None:
        """Wait for a free thread."""
        if not self._free.locked():
            await self._free.acquire()
            return
        if self.waiting >= self._queue or self._wait() > self._seconds:
            raise self._busy()
        self.waiting += 1
        free = asyncio.ensure_future(self._free.acquire())
        try:
            both: list[asyncio.Future[Any]] = [free, gone]
            await asyncio.wait(both, timeout=self._seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.waiting -= 1
            entered = free.done() and not gone.done()
            if not entered and not free.cancel():  # both at once
                self._free.release()
        if not entered:
            raise HungUpError if gone.done() else self._busy()

    def _left(self, began: float) -> float:
        return max(0.0, began + self._seconds - time.monotonic())

    def _busy(self) -> ProblemError:
        return ProblemError(429, f"{self.waiting} requests wait, expected a later try", self._retry())

    def _slow(self) -> ProblemError:
        return ProblemError(503, f"no answer within {self._seconds:g} s", self._retry())

    def _retry(self) -> dict[str, str]:
        return {"Retry-After": str(min(60, max(1, math.ceil(self._wait()))))}

    def _wait(self) -> float:
        """Seconds until a thread is free for one more request, by the time of recent calls and of those in work.

        Calls that have run for a while take as long again, on average, so their ages count where none has ended yet.
        """
        now = time.monotonic()
        ages = sum(now - began for began in self._began.values()) / max(1, len(self._began))
        return (self.waiting + 1) * max(self._each, ages) / self._threads

    def close(self) -> None:
        """Start no further call; those in work end by themselves."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def server_sent(name: str, data: str) -> bytes:
    """One server-sent event."""
    return f"event: {name}\ndata: {data}\n\n".encode()


async def _gone(request: Request) -> None:
    """Wait until the client hangs up; its body has been read by then."""
    message: Any = {"type": ""}
    while message["type"] != "http.disconnect":
        message = await request.receive()
