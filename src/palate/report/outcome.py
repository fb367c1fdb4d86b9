"""Outcome: all measurements of an evaluation, for `metrics.json` and the report."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self, get_type_hints

from pydantic import TypeAdapter

from palate.measure.ablations import Ablations
from palate.measure.calibration import Calibration
from palate.measure.evaluation import Evaluation
from palate.measure.ladder import Ladder
from palate.measure.leaks import Audit
from palate.measure.offset import Offset
from palate.measure.paired import Comparison
from palate.measure.ranking_table import RankingTable
from palate.measure.seeds import OverSeeds
from palate.measure.slices import Slices
from palate.measure.stacking import Stack
from palate.store.artifacts import read_json
from palate.store.manifest import Record, check_record

READABLE = ("calibrations", "offsets", "ablations", "rankings", "slices", "comparison", "seeds", "leaks", "ladder")


class _Values(Record):
    auc: float | None = None


class _Row(Record):
    key: str
    kind: str
    metrics: _Values


class _Fitted(Record):
    method: str
    parameters: dict[str, float | list[float]]


class _Use(Record):
    use: str


class _Metrics(Record):
    """The keys of `metrics.json` that other commands read."""

    entries: list[_Row] | None = None
    ladder: _Use | None = None
    verdict: list[str] | None = None
    calibrations: dict[str, _Fitted] | None = None
    offsets: dict[str, Any] | None = None


def read_metrics(path: Path) -> dict[str, Any]:
    """The content of a `metrics.json`; raises `InputError` if it is damaged or was edited."""
    metrics: dict[str, Any] = read_json(path)
    check_record(metrics, _Metrics, path, "run `palate run` or `palate evaluate` again")
    return metrics


@dataclass(frozen=True)
class Outcome:
    """All results of an evaluation."""

    model: str
    """The name of the base model."""
    evaluation: Evaluation
    calibrations: Mapping[str, Calibration] = field(default_factory=dict)
    offsets: Mapping[str, Offset] = field(default_factory=dict)
    """The factors of the sums with baselines, by model key."""
    ablations: Ablations | None = None
    stack: Stack | None = None
    beside: tuple[str, Stack] | None = None
    """The baseline that is stacked with the model, and that stack."""
    rankings: Sequence[RankingTable] = ()
    """The ranking of quick baselines for many users; then that of the model and all baselines, if configured."""
    slices: Slices | None = None
    comparison: Comparison | None = None
    seeds: OverSeeds | None = None
    """Several adapters as trainings of one model."""
    leaks: Audit | None = None
    """None for Alpaca examples, which have neither users nor times."""
    ladder: Ladder | None = None
    """Models in order of cost, and the one to use."""

    @classmethod
    def of_dict(cls, model: str, values: Mapping[str, Any]) -> Self:
        """The outcome that `to_dict` gave, without the stacks; raises pydantic's `ValidationError` for another one."""
        hints = get_type_hints(cls)
        parts = {name: TypeAdapter(hints[name]).validate_python(values[name]) for name in READABLE if name in values}
        return cls(model, TypeAdapter(Evaluation).validate_python(values), **parts)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON types, the content of `metrics.json`; for Alpaca examples only the evaluation.

        Without the times of the ladder: equal inputs give equal bytes.
        """
        if self.leaks is None:
            return self.evaluation.to_dict()
        stack: dict[str, Any] | None = None
        if self.stack is not None:
            stack = {"weights": self.stack.weights, "rows": self.stack.rows}
            if self.beside is not None:
                stack["beside"] = {"baseline": self.beside[0], "weights": self.beside[1].weights}
        return self.evaluation.to_dict() | {
            "calibrations": {key: asdict(calibration) for key, calibration in self.calibrations.items()},
            "offsets": {key: asdict(offset) for key, offset in self.offsets.items()},
            "ablations": self.ablations and self.ablations.to_dict(),
            "stack": stack,
            "rankings": [table.to_dict() for table in self.rankings],
            "slices": self.slices and asdict(self.slices),
            "comparison": self.comparison and asdict(self.comparison),
            "seeds": self.seeds and asdict(self.seeds),
            "leaks": self.leaks.to_dict(),
            "ladder": self.ladder and self.ladder.untimed().to_dict(),
        }
