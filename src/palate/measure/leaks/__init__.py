"""Leaks: what a test could know that a deployed model would not, looked for before anything is scored."""

from palate.measure.leaks.audit import audit
from palate.measure.leaks.findings import Audit, Finding, FindingRow

__all__ = ["Audit", "Finding", "FindingRow", "audit"]
