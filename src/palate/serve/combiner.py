"""`Combiner`: one computation for the questions that several threads ask at once."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Question = TypeVar("Question")
Answer = TypeVar("Answer")


@dataclass
class _Asked(Generic[Question, Answer]):
    question: Question
    woken: threading.Event = field(default_factory=threading.Event)
    """Set once the answer is there, or once this thread is to compute."""
    answers: list[Answer] = field(default_factory=list)
    """Empty until `done`, then one answer, or none after an error."""
    error: Exception | None = None
    done: bool = False


class Combiner(Generic[Question, Answer]):
    """Answers questions of several threads; those that come while it computes are computed together, up to `most`.

    `compute` takes questions and returns their answers in order; it runs in the thread of the first of them, in one
    thread at a time. If it raises, each of several questions is asked alone, so that an error reaches its own thread
    only.
    """

    def __init__(self, compute: Callable[[Sequence[Question]], Sequence[Answer]], most: int) -> None:
        self.compute, self.most = compute, most
        self._line: deque[_Asked[Question, Answer]] = deque()
        self._busy = False
        self._lock = threading.Lock()

    def __call__(self, question: Question) -> Answer:
        """The answer; raises what `compute` raises."""
        own: _Asked[Question, Answer] = _Asked(question)
        with self._lock:
            self._line.append(own)
            waits, self._busy = self._busy, True
        if waits:
            own.woken.wait()
        if not own.done:
            self._work()
        if own.error is not None:
            raise own.error
        return own.answers[0]

    def _work(self) -> None:
        """Answer the first questions in line, then let the thread of the next one compute."""
        with self._lock:
            now = [self._line.popleft() for _ in range(min(self.most, len(self._line)))]
        try:
            self._answer(now)
        finally:
            with self._lock:
                after = self._line[0] if self._line else None
                self._busy = after is not None
            for asked in now:
                asked.done = True
                asked.woken.set()
            if after is not None:
                after.woken.set()

    def _answer(self, now: Sequence[_Asked[Question, Answer]]) -> None:
        try:
            for asked, answer in zip(now, self.compute([asked.question for asked in now]), strict=True):
                asked.answers.append(answer)
        except Exception as error:
            if len(now) == 1:
                now[0].error = error
                return
            for asked in now:
                asked.answers.clear()
                self._answer([asked])
