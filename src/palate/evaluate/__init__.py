"""Evaluate: metrics with intervals, the baselines beside the models, and the report."""

from palate.evaluate.baselines import BASELINES, baseline_scores
from palate.evaluate.evaluation import FINE_TUNED, ZERO_SHOT, Evaluation, evaluate
from palate.evaluate.report import ReportInputs, extreme_rows, render_report, write_report
from palate.evaluate.table import markdown, rich_table

__all__ = [
    "BASELINES",
    "FINE_TUNED",
    "ZERO_SHOT",
    "Evaluation",
    "ReportInputs",
    "baseline_scores",
    "evaluate",
    "extreme_rows",
    "markdown",
    "render_report",
    "rich_table",
    "write_report",
]
