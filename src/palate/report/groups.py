"""Groups: the rows of the comparison in the order in which they are read, from what costs nothing to the model."""

from typing import NamedTuple

from palate.baselines.registry import REGISTRY
from palate.measure.evaluation import Entry, Evaluation

_MEANS = frozenset(baseline.key for baseline in REGISTRY if baseline.quick)


class Group(NamedTuple):
    """Rows of one kind, in the order of the evaluation."""

    title: str
    entries: list[Entry]


def groups(evaluation: Evaluation) -> list[Group]:
    """Means, classical models, language model; those without a row are left out."""
    baselines = [entry for entry in evaluation.entries if entry.kind == "baseline"]
    found = [
        Group("Means: what costs nothing", [entry for entry in baselines if entry.key in _MEANS]),
        Group("Classical models", [entry for entry in baselines if entry.key not in _MEANS]),
        Group("The language model", evaluation.models),
    ]
    return [group for group in found if group.entries]
