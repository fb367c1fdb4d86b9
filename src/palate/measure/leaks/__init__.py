"""The leak audit: find information in a test that a deployed model would not have, before any scoring."""

from collections.abc import Callable

from palate.baselines.statistics import BaselineData
from palate.measure.leaks.confounding import confounding
from palate.measure.leaks.findings import Audit, Finding, FindingRow
from palate.measure.leaks.order import order
from palate.measure.leaks.pairs import pairs
from palate.measure.leaks.prompts import prompts
from palate.measure.leaks.rows import rows_of
from palate.measure.leaks.signals import own_answers
from palate.prompt.spec import PromptSpec
from palate.samples.build import Samples, check_in_memory

__all__ = ["Audit", "Finding", "FindingRow", "audit"]


def audit(
    samples: Samples,
    split: str,
    prompt: PromptSpec | None = None,
    *,
    signals: Callable[[Samples], BaselineData] = BaselineData.of,
) -> Audit:
    """Check samples, and a prompt if there is one, for leaks of the answer.

    `split` is the kind of split. Under `global-time`, no training row may be later than a test sample; under any other,
    none of the same user. Under `cold-items`, no training row may have the item of a test sample. The audit checks the
    numbers that `prompt` shows for leaks of the answer; it computes the prompt's signals again, from what `signals`
    makes of samples. Raises `InputError` if the prompt does not fit the items, and for
    a log on the disk.

    The audit sorts and scans the timeline. The order of input rows affects it only among a user's ratings of one
    timestamp, and the ids only by their order, which `label-by-user-order` checks.
    """
    check_in_memory(samples, "audits leaks")
    rows = rows_of(samples)
    findings = [*order(rows, split), *pairs(rows, split), *confounding(rows)]
    if prompt is not None:
        findings += prompts(rows, prompt)
        if prompt.signals:
            findings.append(own_answers(rows, prompt, signals))
    return Audit(
        split, tuple(sorted(findings, key=lambda finding: ["fatal", "stated", "clean"].index(finding.severity)))
    )
