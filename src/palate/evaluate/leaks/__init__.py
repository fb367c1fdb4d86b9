"""Leaks: what a test could know that a deployed model would not, looked for before anything is scored."""

from palate.evaluate.leaks.audit import audit
from palate.evaluate.leaks.findings import Audit, Example, Finding

__all__ = ["Audit", "Example", "Finding", "audit"]
