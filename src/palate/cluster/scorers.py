"""`Scorers`: processes of a Ray cluster that each hold a model, as one `Backend`."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from palate.cluster.connection import DEATHS, Place, connect, ended, on_node, slots
from palate.config import EngineConfig
from palate.console import log
from palate.errors import InputError, WorkError, first_line
from palate.score.backend import Backend, Floats, Ids, OnBatch

T = TypeVar("T")
U = TypeVar("U")

Load = Callable[[], tuple[Backend, dict[str, Any]]]
"""Loads a model; returns it with what its scores depend on. A picklable function of files that all nodes see."""


class Scorer:
    """One process: loads the model, and answers one request at a time."""

    def __init__(self, place: Place, load: Load) -> None:
        self._place, self._load = place, load

    def key(self) -> tuple[str, dict[str, Any]]:
        """Load the model; returns the node, and what scores depend on."""
        import ray

        try:
            self._place.enter()
            self._backend, key = self._load()
        except InputError as error:
            raise on_node(ray, error) from None
        return ray.util.get_node_ip_address(), key

    def answers_behind(self, prefix: NDArray[Any], rests: NDArray[Any], ends: NDArray[Any], batch_size: int) -> Floats:
        """As a `Backend`; the rests are one array, each up to its end."""
        split = np.split(rests, ends[:-1])
        return self._backend.answers_behind(
            prefix.tolist(), [rest.tolist() for rest in split], batch_size, lambda n: None
        )


class Scorers:
    """A `Backend` of one model in several processes; each request is one process's, in the batches of a local model.

    The request of a process that ends, or whose node does, goes to another one, and a new process starts where there
    is room. `DEATHS` ends with the same request, or while loading, raise `WorkError`. `InputError` comes from a node
    that lacks the model's files or has others.
    """

    _ended: Exception | None = WorkError("the scorers are closed")
    """Why no further request is answered."""

    def __init__(self, load: Load, engine: EngineConfig) -> None:
        self._ray = connect(engine)
        self._count, resources = slots(self._ray, engine)
        self._remote = self._ray.remote(Scorer).options(**resources)
        self._arguments = Place(), load
        self._actors: list[Any] = []
        self._free: SimpleQueue[tuple[Any, str, Any] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._deaths_of_new = 0
        self._key: dict[str, Any] | None = None
        self._ended = None
        for _ in range(self._count):
            self._start()
        log.info("scoring on the Ray cluster, processes: %d", self._count)

    @property
    def key(self) -> dict[str, Any]:
        """What the scores depend on, as the first process that has loaded the model found it."""
        if self._key is None:
            self._free.put(self._take())
        assert self._key is not None
        return self._key

    def answers(self, prompts: list[Ids]) -> Floats:
        """See `Backend`."""
        return self.answers_behind((), prompts, max(1, len(prompts)), lambda n: None)

    def answers_behind(self, prefix: Ids, rests: Any, batch_size: int, on_batch: OnBatch) -> Floats:
        """See `Backend`; threads may call it at the same time."""
        flat = np.concatenate([np.asarray(rest, np.int32) for rest in rests]) if len(rests) else np.zeros(0, np.int32)
        ends = np.cumsum([len(rest) for rest in rests])
        found = self._ask(np.asarray(prefix, np.int32), flat, ends, batch_size)
        with self._lock:
            on_batch(len(rests))
        return found

    def in_order(self, function: Callable[[T], U], items: Iterable[T]) -> Iterator[U]:
        """Yield `function` of each item in order, as `map` does, with several calls at work at once."""
        threads = 2 * self._count  # while one request is answered, a thread makes the next one
        waiting: deque[Future[U]] = deque()
        with ThreadPoolExecutor(threads, "scorers") as pool:
            try:
                for item in items:
                    waiting.append(pool.submit(function, item))
                    if len(waiting) > 2 * threads:
                        found = waiting[0].result()
                        waiting.popleft()
                        yield found
                while waiting:
                    found = waiting[0].result()
                    waiting.popleft()
                    yield found
            except BaseException:  # an interruption, too: nobody waits for what is at work
                if waiting:
                    self.close()
                    pool.shutdown(wait=False, cancel_futures=True)
                raise

    def close(self) -> None:
        """End the processes; requests at work fail."""
        self._end(WorkError("the scorers are closed"))
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors.clear()

    def __del__(self) -> None:
        if self._ended is None and self._ray.is_initialized():
            self.close()

    def _end(self, why: Exception) -> Exception:
        """Have all threads raise an error, those that wait for a process too; returns the first such error."""
        self._ended = self._ended or why
        self._free.put(None)
        return self._ended

    def _ask(self, *request: Any) -> Floats:
        errors = self._ray.exceptions
        for death in range(1, DEATHS + 1):
            actor, node, _ = worker = self._take()
            try:
                found: Floats = self._ray.get(actor.answers_behind.remote(*request))
            except errors.RayTaskError as error:  # of the model; the process is well
                self._free.put(worker)
                raise (error.cause or error) from None
            except errors.RayError as error:
                self._replace(actor, f"a scorer on node {node}", error, death, "the same part")
            else:
                self._free.put(worker)
                return found
        raise AssertionError

    def _take(self) -> tuple[Any, str, Any]:
        """A free process, with its node; waits for one, and looks at what a new one loaded."""
        errors = self._ray.exceptions
        while True:
            free = self._free.get()
            if free is None or self._ended is not None:
                raise self._end(WorkError("the scorers are closed"))  # which the next thread finds, too
            actor, node, loaded = free
            if loaded is None:
                return free
            try:
                node, key = loaded.result()
            except errors.RayTaskError as error:
                raise self._end(error.cause or error) from None
            except errors.RayError as error:
                self._deaths_of_new += 1
                self._replace(actor, "a scorer", error, self._deaths_of_new, "the loading of the model")
                continue
            self._deaths_of_new = 0
            self._key = self._key or key
            if key != self._key:
                names = ", ".join(name for name in key if key[name] != self._key.get(name))
                expected = f"node {node} has another {names} than the first one, expected the same on all nodes"
                raise self._end(InputError(expected, "--engine ray"))
            return actor, node, None

    def _start(self) -> None:
        actor = self._remote.remote(*self._arguments)
        self._actors.append(actor)
        free = self._free  # the callback lives as long as the process is pending, and must not keep `self`
        actor.key.remote().future().add_done_callback(lambda loaded: free.put((actor, "", loaded)))

    def _replace(self, actor: Any, what: str, error: Exception, death: int, work: str) -> None:
        """Start a new process for one that ended; raises `WorkError` if its work ended too many."""
        if self._ended is not None:
            raise self._ended from None
        if death >= DEATHS:
            why = f"{DEATHS} processes of the Ray cluster ended during {work}, the last with: {first_line(error)}"
            raise self._end(WorkError(why)) from error
        ended(what, error)
        with self._lock:
            self._actors.remove(actor)
            self._start()
