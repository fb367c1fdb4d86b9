"""Costs: the measured time and tokens of a thousand requests, for models and the best baseline."""

import time
from dataclasses import dataclass

from palate.baselines.platt import Predict
from palate.samples.queries import Queries

REQUESTS = 1000


@dataclass(frozen=True)
class Cost:
    """The measured cost of scoring; a request is one candidate of one user."""

    name: str
    rows: int
    """Number of requests that were timed."""
    seconds: float
    """Their wall time, without loading the model."""
    tokens: int | None = None
    """Their prompt tokens; None for a baseline."""

    @property
    def thousand_seconds(self) -> float:
        """The wall time of a thousand requests."""
        return REQUESTS * self.seconds / self.rows

    @property
    def thousand(self) -> str:
        """The same in words."""
        seconds = self.thousand_seconds
        if seconds < 1:
            return "under 1 s"
        if seconds < 100:
            return f"{seconds:.0f} s"
        return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"

    @property
    def tokens_a_request(self) -> float | None:
        """Mean prompt tokens of a request."""
        return None if self.tokens is None else self.tokens / self.rows


def timed(name: str, predict: Predict, queries: Queries) -> Cost:
    """The cost of a baseline: a prediction of at most a thousand queries.

    To leave out the start-up, it must have predicted some before.
    """
    few = queries.take(slice(REQUESTS))
    began = time.monotonic()
    predict(few)
    return Cost(name, len(few), time.monotonic() - began)
