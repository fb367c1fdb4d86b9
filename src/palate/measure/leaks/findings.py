"""Findings: the result of each check of the audit, with counts and an example."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from palate.measure.figures import percent
from palate.measure.leaks.clustered import Auc

Severity = Literal["fatal", "stated", "clean"]
"""The consequence of a finding: `fatal` stops the run, reports show `stated`, `clean` found nothing."""


@dataclass(frozen=True)
class FindingRow:
    """An example row: its user, its item, and the relevant times (seconds since 1970), its own first."""

    user: int | str
    item: int | str
    times: tuple[int, ...]


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    check: str
    """The check's name, such as `pair-on-both-sides`."""
    severity: Severity
    count: int
    """Number of affected units."""
    of: int
    """Number of checked units."""
    unit: str
    """The unit of both counts, such as `test rows`."""
    sentence: str
    """The meaning of the finding, without names of users or items."""
    example: FindingRow | None = None
    auc: Auc | None = None
    """The AUC of a confounding variable as a predictor of the label, if the check measures one."""

    @property
    def share(self) -> float | None:
        """`count / of`; None if `of` is 0."""
        return self.count / self.of if self.of else None


@dataclass(frozen=True)
class Audit:
    """All findings about samples: first fatal, then stated, then clean ones."""

    split: str
    findings: tuple[Finding, ...]

    @property
    def fatal(self) -> tuple[Finding, ...]:
        """The findings that invalidate the test's numbers."""
        return self._of("fatal")

    @property
    def fatal_text(self) -> str:
        """The fatal findings in words, such as `2 fatal: future, own-future`."""
        names = ", ".join(finding.check for finding in self.fatal)
        return f"{len(self.fatal)} fatal: {names}" if names else "nothing fatal"

    @property
    def stated(self) -> tuple[Finding, ...]:
        """The findings that a reader of the numbers must know."""
        return self._of("stated")

    @property
    def clean(self) -> tuple[Finding, ...]:
        """The checks that found nothing."""
        return self._of("clean")

    def _of(self, severity: Severity) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == severity)

    def finding(self, check: str) -> Finding:
        """The finding of a check; raises `KeyError` for a check that did not run."""
        return {finding.check: finding for finding in self.findings}[check]

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON types, with a share beside each count."""
        findings = []
        for finding in self.findings:
            value = asdict(finding) | {"share": finding.share}
            if finding.example is not None:
                value["example"]["times"] = list(finding.example.times)
            findings.append(value)
        return {"split": self.split, "findings": findings}


def share(count: int, of: int) -> str:
    """A share in percent, with one decimal below ten percent."""
    part = count / of if of else 0.0
    return percent(part, 1 if part < 0.1 else 0)
