"""`Worker`: one thread that computes a language model's answers for all requests.

Requests wait in a line. Each step takes candidates of several requests into one pass of the model, every one behind the
prefix of its own request, so that requests share the work of a pass, and a long request does not hold up a short one.
The keys and values of the last prefixes are kept: the second request about the same history computes its candidates
alone.
"""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from palate.errors import WorkError
from palate.score.backend import AnswerScores, Backend, Ids, scores_of
from palate.store.recent import Recent

if TYPE_CHECKING:
    from palate.score.local import LocalBackend
    from palate.score.prefix import Prefix

TOKENS = 1024
"""Tokens of a pass on a processor, padding included: enough for full speed, few enough for a first answer soon."""
FIRST = 256
"""Tokens of a request's first pass there, so that its first answers come soon."""
TOGETHER = 16
"""Requests in a pass at most."""
IN_FLIGHT = 16
"""Candidates that a request sends to a server at a time."""


Cancelled = Callable[[], bool]


class ClosedError(WorkError):
    """The worker has ended."""


Key = tuple[bool, tuple[int, ...]]
"""What decides keys and values of a prefix: whether the adapter is left out, and its tokens."""


@dataclass
class _Job:
    """The prompts of one request, of which each begins with a prefix that others may share."""

    prompts: Sequence[Ids]
    shared: Sequence[int]
    """The number of tokens of each prompt's prefix."""
    base: bool
    """Whether the base model answers, without the adapter."""
    cancelled: Cancelled
    found: "SimpleQueue[tuple[list[int], AnswerScores] | Exception | None]" = field(default_factory=SimpleQueue)
    """Rows and their scores; at the end None, or an exception."""
    known: "dict[Key, Prefix]" = field(default_factory=dict)
    done: int = 0
    gone: bool = False
    """Whether nobody waits for the answers."""

    def __post_init__(self) -> None:
        prefixes = [tuple(prompt[:n]) for prompt, n in zip(self.prompts, self.shared, strict=True)]
        places = {prefix: n for n, prefix in reversed(list(enumerate(prefixes)))}
        self.keys: list[Key] = [(self.base, prefix) for prefix in prefixes]
        self.rows = sorted(range(len(prefixes)), key=lambda row: places[prefixes[row]])
        """The rows, those of one prefix together, in the order in which they are answered."""

    def rest(self, row: int) -> Ids:
        """The tokens of a prompt after its prefix."""
        return self.prompts[row][self.shared[row] :]

    def answers(self) -> Iterator[tuple[list[int], AnswerScores]]:
        """The answers as they come."""
        try:
            while (found := self.found.get()) is not None:
                if isinstance(found, Exception):
                    raise found
                yield found
        finally:
            self.gone = True


class Worker:
    """Answers prompts with a model in this process; `answers` may be called from any number of threads.

    Its passes are short, so it keeps the weights of the last layer in float32. The model is its own until `close`.
    """

    def __init__(self, backend: "LocalBackend", *, prefix_bytes: int = 1 << 28, together: int = TOGETHER) -> None:
        self.backend, self.together = replace(backend, head={}), max(1, together)
        self.prefixes: Recent[Prefix] = Recent(prefix_bytes)
        self.passes = 0
        self._waiting: deque[_Job] = deque()
        self._ready = threading.Condition()
        self._closed = False
        self._sharing: contextlib.ExitStack | None = None
        self._thread = threading.Thread(target=self._work, name="language model", daemon=True)
        self._thread.start()

    def answers(
        self, prompts: Sequence[Ids], shared: Sequence[int], *, base: bool = False, cancelled: Cancelled = lambda: False
    ) -> Iterator[tuple[list[int], AnswerScores]]:
        """The scores of prompts as they come: their rows in `prompts` and their scores, each row once.

        The first `shared` (n,) tokens of a prompt are a prefix that others have, too; each has at least one more.
        `base` asks the model without its adapter. Ends early once `cancelled` returns True or nobody reads on. Raises
        what the model raised, and `ClosedError` after `close`.
        """
        if prompts:
            yield from self._join(_Job(prompts, shared, base, cancelled)).answers()

    def gauges(self) -> dict[str, float]:
        """Requests in line, passes, and what the prefix cache did."""
        return {
            "model_requests": len(self._waiting), "model_passes": self.passes, "prefix_hits": self.prefixes.hits,
            "prefix_misses": self.prefixes.misses, "prefix_bytes": self.prefixes.bytes,
        }  # fmt: skip

    def close(self) -> None:
        """End the thread after the requests in line; raises nothing."""
        with self._ready:
            self._closed = True
            self._ready.notify()
        self._thread.join()

    def _join(self, job: _Job) -> _Job:
        with self._ready:
            if self._closed:
                raise ClosedError("the model has been closed")
            self._waiting.append(job)
            self._ready.notify()
        return job

    def _work(self) -> None:
        while True:
            with self._ready:
                while not self._waiting and not self._closed:
                    self._ready.wait()
                if not self._waiting:
                    break
                jobs = [self._waiting.popleft() for _ in range(min(self.together, len(self._waiting)))]
            left = [job for job in jobs if not (job.gone or job.cancelled())]
            for job in (job for job in jobs if job not in left):
                job.found.put(None)
            base = left[0].base if left else False
            now = [job for job in left if job.base == base]
            try:
                self._step(now)
            except Exception as error:  # of the model: the request has it, the thread goes on
                for job in now:
                    job.found.put(error)
                left = [job for job in left if job not in now]
            unfinished = [job for job in left if job.done < len(job.rows)]
            for job in (job for job in left if job.done == len(job.rows)):
                job.found.put(None)
            with self._ready:  # behind those that came meanwhile: nobody waits for a long request
                self._waiting.extend(unfinished)
        self._share(False)

    def _step(self, jobs: Sequence[_Job]) -> None:
        """One pass of candidates, after the prefixes that they need and that are missing."""
        if not jobs:
            return
        with self._without_adapter(jobs[0].base):
            if any(self._reason(job) for job in jobs):
                self._share(False)
                chosen = _chosen(jobs, self.backend.times, whole=True)
                prompts = [job.prompts[row] for job, rows in chosen for row in rows]
                self._deliver(chosen, self.backend.answers(prompts))
                return
            self._share(True)
            chosen = _chosen(jobs, self.backend.times)
            self._prepare(chosen)
            asked = [(job.known[job.keys[row]], job.rest(row)) for job, rows in chosen for row in rows]
            runs = [list(run) for _, run in groupby((prefix for prefix, _ in asked), key=id)]
            before = [(run[0], len(run)) for run in runs]
            self._deliver(chosen, self.backend.answers_after(before, [rest for _, rest in asked]))

    def _share(self, shares: bool) -> None:
        """Switch the model to prompts behind prefixes, or to whole ones: a switch takes as long as some layers."""
        from palate.score.prefix import shared_prefix

        if shares and self._sharing is None:
            self._sharing = contextlib.ExitStack()
            self._sharing.enter_context(shared_prefix(self.backend.model))
        elif not shares and self._sharing is not None:
            self._sharing.close()
            self._sharing = None

    def _prepare(self, chosen: "Sequence[tuple[_Job, list[int]]]") -> None:
        """Give each request the prefixes of its rows; those that are not kept are computed together."""
        missing: dict[Key, list[_Job]] = {}
        for job, rows in chosen:
            for key in dict.fromkeys(job.keys[row] for row in rows):
                if key not in job.known:
                    kept = self.prefixes.get(key)
                    if kept is None:
                        missing.setdefault(key, []).append(job)
                    else:
                        job.known[key] = kept
        todo = sorted(missing, key=lambda key: -len(key[1]))
        while todo:
            size = max(1, 2 * TOKENS * self.backend.times // len(todo[0][1]))
            now, todo = todo[:size], todo[size:]
            for key, prefix in zip(now, self.backend.prefixes([key[1] for key in now]), strict=True):
                self.prefixes.put(key, prefix, prefix.bytes)
                for job in missing[key]:
                    job.known[key] = prefix
            self.passes += 1

    def _deliver(self, chosen: Sequence[tuple[_Job, list[int]]], log_p: NDArray[np.float32]) -> None:
        self.passes += 1
        first = 0
        for job, rows in chosen:
            job.found.put((rows, scores_of(log_p[first : first + len(rows)])))
            job.done += len(rows)
            first += len(rows)

    def _reason(self, job: _Job) -> str | None:
        if not min(job.shared):
            return "no prefix"
        return self.backend.reason(max(map(len, job.prompts)))

    def _without_adapter(self, base: bool) -> Any:
        return self.backend.model.disable_adapter() if base else contextlib.nullcontext()


class Forwarder:
    """As `Worker`, for a backend that answers several requests by itself: a server."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def answers(
        self, prompts: Sequence[Ids], shared: Sequence[int], *, base: bool = False, cancelled: Cancelled = lambda: False
    ) -> Iterator[tuple[list[int], AnswerScores]]:
        """See `Worker.answers`; the server has one model, so `base` is refused."""
        if base:
            raise WorkError("the server answers with one model, expected no base model beside it")
        job = _Job(prompts, shared, base, cancelled)
        for key, same in groupby(job.rows, key=job.keys.__getitem__):
            left = list(same)
            while left and not cancelled():
                rows, left = left[:IN_FLIGHT], left[IN_FLIGHT:]
                found = self.backend.answers_behind(key[1], [job.rest(row) for row in rows], IN_FLIGHT, lambda n: None)
                yield rows, scores_of(found)

    def gauges(self) -> dict[str, float]:
        """Nothing: the server has its own."""
        return {}

    def close(self) -> None:
        """Nothing to end."""


def _chosen(jobs: Sequence[_Job], times: int, *, whole: bool = False) -> list[tuple[_Job, list[int]]]:
    """Rows of the next pass, by request: in turn one of each, until its tokens, `times` `TOKENS`, are used up.

    A pass is padded to its longest row. A request whose candidates have begun may fill what the others leave.
    """
    taken: dict[int, int] = dict.fromkeys(range(len(jobs)), 0)
    longest, rows = 0, 0
    open_jobs = list(taken)
    while open_jobs:
        for n in list(open_jobs):
            job, at = jobs[n], jobs[n].done + taken[n]
            if at == len(job.rows):
                open_jobs.remove(n)
                continue
            row = job.rows[at]
            size = len(job.prompts[row]) - (0 if whole else job.shared[row])
            most = times * (TOKENS if job.done or len(jobs) > 1 else FIRST)
            if rows and (rows + 1) * max(longest, size) > most:
                open_jobs.remove(n)
                continue
            longest, rows, taken[n] = max(longest, size), rows + 1, taken[n] + 1
    return [(jobs[n], jobs[n].rows[jobs[n].done : jobs[n].done + count]) for n, count in taken.items() if count]
