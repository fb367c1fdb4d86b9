"""The ladder: models in order of cost on the same rows, and the most expensive one that still pays.

A rung pays if the paired interval of its AUC, less that of the rung in use below it, lies above zero. The ladder ends
at the first rung that does not pay: each rung costs a multiple of the one below.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from palate.measure.bootstrap import detectable
from palate.measure.metrics import Metrics, Users, measure
from palate.measure.paired import Paired, compare
from palate.samples.queries import Labels, Scores

LANGUAGE_MODEL = "language-model"
"""The key of the last rung."""


@dataclass(frozen=True)
class Scored:
    """P(like) of rows by one model, and its costs."""

    p: Scores
    """(m,), float64."""
    fit_seconds: float | None = None
    """Processor time of the fit; None if it was fitted before."""
    thousand_seconds: float | None = None
    """Wall time of a thousand requests; None if nobody measured it."""
    rows: NDArray[np.int64] | None = None
    """(m,): which of the ladder's rows were scored; None: all."""


@dataclass(frozen=True)
class Step:
    """A model that the ladder may try."""

    key: str
    label: str
    score: Callable[[], Scored]
    """Fits and scores; raises `Skipped` with the reason if it cannot."""


class Skipped(Exception):  # noqa: N818
    """A step cannot be tried; the message says why and what would allow it."""


@dataclass(frozen=True)
class Rung:
    """A model that was tried."""

    key: str
    label: str
    metrics: Metrics
    below: str | None = None
    """The key of the rung in use when this one was tried; None for the first."""
    fit_seconds: float | None = None
    thousand_seconds: float | None = None
    gains: list[Paired] = field(default_factory=list)
    """Each metric less that of `below`, on the rows that both have."""

    @property
    def gain(self) -> Paired | None:
        """The difference in AUC."""
        return next((pair for pair in self.gains if pair.metric == "auc"), None)

    @property
    def pays(self) -> bool:
        """Whether the interval of the gain lies above zero; True for the first rung."""
        return self.gain is None or (self.gain.interval is not None and self.gain.interval.low > 0)

    @property
    def detects(self) -> float | None:
        """The smallest gain in AUC that these rows detect in four of five cases."""
        between = None if self.gain is None else self.gain.interval
        return None if between is None or between.low == between.high else detectable(between)


@dataclass(frozen=True)
class Ladder:
    """The rungs that were tried, in order of cost, and the reasons for those that were not."""

    n: int
    users: int
    resamples: int
    rungs: list[Rung]
    skipped: dict[str, str]
    """Reasons by label."""

    @property
    def used(self) -> Rung:
        """The most expensive rung that pays."""
        return [rung for rung in self.rungs if rung.pays][-1]

    def untimed(self) -> Self:
        """The ladder without the times of requests."""
        return replace(self, rungs=[replace(rung, thousand_seconds=None) for rung in self.rungs])

    def to_dict(self) -> dict[str, Any]:
        """The ladder as JSON types, with `use`, the key of the rung to use."""
        return {"use": self.used.key, **asdict(self)}


def build_ladder(
    y: Labels,
    users: Users,
    steps: Iterable[Step],
    *,
    resamples: int = 1000,
    seed: int = 13,
    whole: bool = False,
    sampled: bool = False,
    done: Callable[[Rung], None] = lambda rung: None,
) -> Ladder:
    """Try the steps in order until one does not pay; with `whole`, all of them.

    `y` (bool) and `users` (integers) have shape (n,). A rung is compared with the last one that paid, on the rows that
    both scored. `sampled` is that of `measure`. `done` is called after each rung. The first step must not be skipped.
    """
    rungs: list[Rung] = []
    skipped: dict[str, str] = {}
    below: tuple[Rung, Scored] | None = None
    for step in steps:
        if below is not None and not rungs[-1].pays and not whole:
            skipped[step.label] = f"not tried: {rungs[-1].label} does not pay"
            continue
        try:
            scored = step.score()
        except Skipped as reason:
            skipped[step.label] = str(reason)
            continue
        rung = _rung(step, scored, below, (y, users), {"resamples": resamples, "seed": seed, "sampled": sampled})
        rungs.append(rung)
        done(rung)
        below = (rung, scored) if rung.pays else below
    return Ladder(len(y), len(np.unique(users)), resamples, rungs, skipped)


def _rung(
    step: Step,
    scored: Scored,
    below: tuple[Rung, Scored] | None,
    rows: tuple[Labels, Users],
    options: Mapping[str, Any],
) -> Rung:
    """A tried step, measured on its rows and compared with the rung below."""
    y, users = rows
    own = np.arange(len(y)) if scored.rows is None else scored.rows
    metrics = measure(y[own], scored.p, users[own], sampled=options["sampled"])
    if below is None:
        return Rung(step.key, step.label, metrics, None, scored.fit_seconds, scored.thousand_seconds)
    rung, under = below
    other = np.arange(len(y)) if under.rows is None else under.rows
    shared, first, second = np.intersect1d(own, other, return_indices=True)
    scores = {step.key: scored.p[first], rung.key: under.p[second]}
    pairs = compare(y[shared], users[shared], scores, [(step.key, rung.key)], **options).pairs
    return Rung(step.key, step.label, metrics, rung.key, scored.fit_seconds, scored.thousand_seconds, pairs)
