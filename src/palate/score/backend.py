"""What answers prompts: the interface between a `Scorer` and the model, wherever that runs."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ids = Sequence[int]
OnBatch = Callable[[int], None]
"""Is told how many prompts were answered, each time that some were."""


class Backend(Protocol):
    """Answers prompts, given as token ids, with the log-probabilities of the two answers.

    Both methods return (n, 2) float32: of each prompt, in their order, log P of the yes and of the no token among all
    tokens of the vocabulary at the position that follows it. An implementation is made with the two ids. Raises
    `WorkError` where no finite log-probabilities come back.
    """

    def answers(self, prompts: Sequence[Ids]) -> Floats:
        """Answer some prompts at once: how many is the caller's choice, and what memory has to hold."""

    def answers_behind(self, prefix: Ids, rests: Sequence[Ids], batch_size: int, on_batch: OnBatch) -> Floats:
        """Answer prompts that begin alike: `prefix` and then each of `rests`, none of which is empty.

        `prefix` may be empty. The result is that of `answers`. How much is done at once is the implementation's choice;
        `batch_size` is for one that answers whole prompts.
        """


class AnswerScores(NamedTuple):
    """What a model answers to n prompts, each (n,) float32.

    `p` is P(yes) among the two answers, `mass` the probability that both hold among all tokens, and `logit` is
    z_yes − z_no of their logits: p = 1 / (1 + exp(−logit)), without the rounding of p near 0 and 1.
    """

    p: Floats
    mass: Floats
    logit: Floats


def scores_of(log_p: Floats) -> AnswerScores:
    """Scores from the log-probabilities of the two answers, (n, 2) float32."""
    logit = log_p[:, 0] - log_p[:, 1]
    # Either form of the logistic function overflows on one side.
    small = np.exp(-np.abs(logit))
    p = np.where(logit >= 0, 1, small) / (1 + small)
    return AnswerScores(p.astype(np.float32), np.exp(log_p).sum(1, dtype=np.float32), logit)


def in_batches(
    answers: Callable[[Sequence[Ids]], Floats], prompts: Sequence[Ids], batch_size: int, on_batch: OnBatch
) -> Floats:
    """Answer prompts in batches of like length, the longest first: if memory runs out, it does so at once."""
    found = np.empty((len(prompts), 2), np.float32)
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        found[rows] = answers([prompts[i] for i in rows])
        on_batch(len(rows))
    return found
