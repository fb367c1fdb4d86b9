"""Leaks: what a test could know that a deployed model would not, looked for before anything is scored."""

from palate.measure.leaks.confounding import confounding
from palate.measure.leaks.findings import Audit, Finding, FindingRow
from palate.measure.leaks.order import order
from palate.measure.leaks.pairs import pairs
from palate.measure.leaks.prompts import prompts
from palate.measure.leaks.rows import rows_of
from palate.prompt.spec import PromptSpec
from palate.samples.build import Samples

__all__ = ["Audit", "Finding", "FindingRow", "audit"]


def audit(samples: Samples, split: str, prompt: PromptSpec | None = None) -> Audit:
    """Look for what a test must not know.

    `split` says what the split promises: under `global-time` nothing that is learned from is later than a test sample;
    under any other, nothing of the same user is. `prompt` is looked at for figures that know the answer; None: only
    the samples are. Raises `InputError` where the prompt does not fit the items.

    Takes sorts and linear passes over the timeline. The order of the input's rows does not matter but where a user's
    ratings share a timestamp, nor do the ids themselves but for their order, which `label-by-user-order` looks at.
    """
    rows = rows_of(samples)
    findings = [*order(rows, split), *pairs(rows), *confounding(rows)]
    if prompt is not None:
        findings += prompts(rows, prompt)
    return Audit(
        split, tuple(sorted(findings, key=lambda finding: ["fatal", "stated", "clean"].index(finding.severity)))
    )
