"""Ranking table: several models' rankings of the same candidates, with intervals over users and paired differences."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from palate.errors import InputError
from palate.measure.bootstrap import BLOCK, Interval, Replicates, interval, user_counts
from palate.measure.candidates import CandidateSets
from palate.measure.paired import Paired, adjusted, paired
from palate.measure.ranking import Ranked


@dataclass(frozen=True)
class RankingEntry:
    """One model or baseline: each metric's mean over users, and its bootstrap interval over users."""

    key: str
    label: str
    kind: Literal["baseline", "model"]
    metrics: dict[str, float | None]
    """`ndcg@k`, `hr@k`, `recall@k` for each k, and `mrr`; None without ranked users."""
    intervals: dict[str, Interval | None]
    lists: dict[str, float | None] = field(default_factory=dict)
    """`coverage@k`, `popularity@k`, `novelty@k`, `diversity@k` of the first items; empty if not measured."""


@dataclass(frozen=True)
class RankingTable:
    """The ranked candidates and the metrics; baselines first, then models."""

    users: int
    unranked: int
    """Users with test samples who like none of them; they have no ranking metric, and the means exclude them."""
    items: int
    """Items in the catalogue."""
    negatives: int | None
    """Items sampled for each user beside the relevant ones; None: all that the user had not rated."""
    relevant: float | None
    """Relevant items of a user, on average."""
    resamples: int
    seed: int
    entries: list[RankingEntry]
    differences: list[Paired]
    """Every model against the best baseline of the metric."""

    @property
    def sampled(self) -> bool:
        """Whether candidates are sampled; metrics then compare only with metrics on the same sample."""
        return self.negatives is not None

    @property
    def candidates(self) -> str:
        """A description of the candidates, shown beside every metric."""
        if self.negatives is None:
            return f"all {self.items:,} items but those rated before"
        return f"sampled: {self.negatives:,} random items and the relevant ones"

    def entry(self, key: str) -> RankingEntry:
        """The entry of a model or baseline; raises `KeyError` for an unknown key."""
        return {entry.key: entry for entry in self.entries}[key]

    def name_of(self, metric: str) -> str:
        """A metric's name in tables: `NDCG@10`, or `NDCG@10 (100 sampled)`."""
        shown = metric.upper() if metric.startswith(("ndcg", "hr", "mrr")) else metric.capitalize()
        return shown if self.negatives is None else f"{shown} ({self.negatives:,} sampled)"

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON types, with `candidates` in words."""
        return asdict(self) | {"candidates": self.candidates}


def ranking_table(
    ranked: Mapping[str, Ranked],
    *,
    baselines: Collection[str] = (),
    labels: Mapping[str, str] | None = None,
    resamples: int = 1000,
    seed: int = 13,
) -> RankingTable:
    """Compare rankings of the same `CandidateSets`; `baselines` are the keys of baselines, all others are models.

    Means weight users equally, and intervals resample users; `resamples` 0 gives no intervals. Raises `InputError` if
    two models have different candidates or metrics.
    """
    if not ranked:
        raise InputError("nothing was ranked, expected at least one model", "ranking")
    sets = _same_sets(ranked)
    order = sorted(ranked, key=lambda key: key not in baselines)
    metrics = list(ranked[order[0]].values)
    values = np.stack([np.column_stack(list(ranked[key].values.values())) for key in order])
    replicates = _replicates(values, resamples, seed)
    entries = [
        RankingEntry(
            key=key,
            label=(labels or {}).get(key, key),
            kind="baseline" if key in baselines else "model",
            metrics={name: float(values[i, :, j].mean()) if len(sets) else None for j, name in enumerate(metrics)},
            intervals={name: interval(replicates[:, i, j]) for j, name in enumerate(metrics)},
            lists=dict(ranked[key].lists),
        )
        for i, key in enumerate(order)
    ]
    return RankingTable(
        users=len(sets),
        unranked=sets.unranked,
        items=sets.items,
        negatives=sets.negatives,
        relevant=len(sets.item) / len(sets) if len(sets) else None,
        resamples=resamples,
        seed=seed,
        entries=entries,
        differences=_with_the_best(entries, metrics, replicates) if len(sets) else [],
    )


def _same_sets(ranked: Mapping[str, Ranked]) -> CandidateSets:
    """The candidates that all rankings share."""
    first_key, first = next(iter(ranked.items()))
    for key, other in ranked.items():
        if other.sets is not first.sets or list(other.values) != list(first.values):
            raise InputError(f"has other users, candidates or metrics than {first_key}, expected the same", key)
    return first.sets


def _replicates(values: NDArray[np.float64], resamples: int, seed: int) -> Replicates:
    """Means over users in every resample, (resamples, models, metrics), of values (models, users, metrics)."""
    models, users, metrics = values.shape
    flat = values.transpose(1, 0, 2).reshape(users, models * metrics)
    blocks = [counts @ flat / users for counts in user_counts(users, resamples, max(1, BLOCK // max(1, users)), seed)]
    return np.concatenate([np.empty((0, flat.shape[1])), *blocks]).reshape(-1, models, metrics)


def _with_the_best(entries: list[RankingEntry], metrics: list[str], replicates: Replicates) -> list[Paired]:
    """Each model against the best baseline of the metric, metric by metric."""
    baselines = [i for i, entry in enumerate(entries) if entry.kind == "baseline"]
    found = []
    for j, name in enumerate(metrics if baselines else []):
        values = [entry.metrics[name] for entry in entries]
        best = max(baselines, key=[value or 0.0 for value in values].__getitem__)
        found += [
            paired(
                name,
                (entry.key, entries[best].key),
                (values[i], values[best]),
                (replicates[:, i, j], replicates[:, best, j]),
            )
            for i, entry in enumerate(entries)
            if entry.kind == "model"
        ]
    return adjusted(found)
