"""Costs: the measured time and tokens of a thousand requests, for models and the best baseline."""

from dataclasses import dataclass


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
    def thousand(self) -> str:
        """The time of a thousand requests."""
        seconds = 1000 * self.seconds / self.rows
        if seconds < 1:
            return "under 1 s"
        if seconds < 100:
            return f"{seconds:.0f} s"
        return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"

    @property
    def tokens_a_request(self) -> float | None:
        """Mean prompt tokens of a request."""
        return None if self.tokens is None else self.tokens / self.rows
