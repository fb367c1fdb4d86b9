"""`Backend`: the interface between a `Scorer` and a model, which runs in this process or on a server."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ids = Sequence[int]
OnBatch = Callable[[int], None]
"""Called after each batch with the number of prompts that it answered."""
InOrder = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]
"""Yields a function's value for each item, in order: `map`, or a backend's own that has several calls at work."""


class Backend(Protocol):
    """Computes the log-probabilities of the two answers after prompts of token ids.

    Both methods return (n, 2) float32, a row per prompt in input order: log P of the yes and of the no token over the
    whole vocabulary at the next position. An implementation takes the two ids in its constructor. It raises
    `WorkError` if the model returns no finite log-probabilities.
    """

    def answers(self, prompts: Sequence[Ids]) -> Floats:
        """Answer one batch; memory must hold all its prompts at once."""

    def answers_behind(self, prefix: Ids, rests: Sequence[Ids], batch_size: int, on_batch: OnBatch) -> Floats:
        """Answer prompts with a common prefix: `prefix` (may be empty) followed by each of `rests` (never empty).

        Returns the same values as `answers`. The implementation chooses its batches; it uses `batch_size` if it
        computes whole prompts.
        """


class AnswerScores(NamedTuple):
    """A model's answers to n prompts, each array (n,) float32.

    `p` is P(like) given one of the two answers, `mass` the probability of both together over the vocabulary, and
    `logit` = z_yes − z_no, the difference of their logits: p = 1 / (1 + exp(−logit)). Near 0 and 1 `p` rounds, `logit`
    does not.
    """

    p: Floats
    mass: Floats
    logit: Floats


def scores_of(log_p: Floats) -> AnswerScores:
    """Scores from the log-probabilities of the two answers, (n, 2) float32."""
    logit = log_p[:, 0] - log_p[:, 1]
    # exp(−|logit|) never overflows, whatever the sign of the logit.
    small = np.exp(-np.abs(logit))
    p = np.where(logit >= 0, 1, small) / (1 + small)
    return AnswerScores(p.astype(np.float32), np.exp(log_p).sum(1, dtype=np.float32), logit)
