"""Findings: what each check of the audit found, how much of it, and where to look."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from palate.measure.figures import percent
from palate.measure.leaks.clustered import Auc

Severity = Literal["fatal", "stated", "clean"]
"""What becomes of a finding: it stops the run, it is told with the results, or there is nothing to tell."""


@dataclass(frozen=True)
class FindingRow:
    """A row to look at: whose it is, of what, and the times that matter (seconds since 1970), its own first."""

    user: int | str
    item: int | str
    times: tuple[int, ...]


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    check: str
    """The check's name, such as `pair-on-both-sides`."""
    severity: Severity
    count: int
    """How many are concerned."""
    of: int
    """Out of how many."""
    unit: str
    """What is counted, such as `test rows`."""
    sentence: str
    """What that means, without a user's or an item's name."""
    example: FindingRow | None = None
    auc: Auc | None = None
    """How well something that should not tell the label tells it, where that is what the check measures."""

    @property
    def share(self) -> float | None:
        """`count / of`; None where there is nothing to count."""
        return self.count / self.of if self.of else None


@dataclass(frozen=True)
class Audit:
    """All findings about samples: fatal ones first, then those to be stated, then the checks that found nothing."""

    split: str
    findings: tuple[Finding, ...]

    @property
    def fatal(self) -> tuple[Finding, ...]:
        """The findings that make a test's numbers worthless."""
        return self._of("fatal")

    @property
    def stated(self) -> tuple[Finding, ...]:
        """The findings that a reader of the numbers has to know."""
        return self._of("stated")

    @property
    def clean(self) -> tuple[Finding, ...]:
        """The checks that found nothing."""
        return self._of("clean")

    def _of(self, severity: Severity) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == severity)

    def finding(self, check: str) -> Finding:
        """What a check found; `KeyError` if it was not made."""
        return {finding.check: finding for finding in self.findings}[check]

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON's own types; a share beside each count."""
        findings = []
        for finding in self.findings:
            value = asdict(finding) | {"share": finding.share}
            if finding.example is not None:
                value["example"]["times"] = list(finding.example.times)
            findings.append(value)
        return {"split": self.split, "findings": findings}


def share(count: int, of: int) -> str:
    """A share in words, to a tenth of a percent where it is below ten."""
    part = count / of if of else 0.0
    return percent(part, 1 if part < 0.1 else 0)
