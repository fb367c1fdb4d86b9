"""Compare page: runs side by side as one HTML page, in the look of the report."""

from typing import Any

from palate.report import plots
from palate.report.compare_table import training_rows
from palate.report.side_by_side import SideBySide
from palate.report.templates import render

INKS = ("m1", "m0", "m2", "m3", "m4")


def render_comparison(found: SideBySide) -> str:
    """The page as text; equal inputs give equal bytes."""
    shared = found.shared
    rows: list[dict[str, Any]] = []
    for n, run in enumerate(found.runs):
        entry, best = run.main, run.best_baseline
        metrics = shared.metrics[run.name] if shared else entry.metrics if entry else None
        intervals = shared.intervals[run.name] if shared else entry.intervals if entry else {}
        if metrics is not None:
            ink = INKS[n % len(INKS)]
            rows.append({"run": run, "ink": ink, "metrics": metrics, "auc": intervals.get("auc"), "best": best})
    trained = training_rows(found)
    sections = [
        ("measured", "Measured", True),
        ("pairs", "Two by two", shared),
        ("config", "What differs", found.differences),
        ("training", "Training", trained),
        ("runs", "Runs", True),
    ]
    return render(
        "compare.html.jinja",
        title=" · ".join(run.name for run in found.runs),
        facts={},
        contents=[(key, name) for key, name, there in sections if there],
        found=found,
        shared=shared,
        rows=rows,
        cards=[(row["run"].name, row["ink"], row["metrics"].auc, row["auc"]) for row in rows[:4]],
        interval_scale=plots.interval_scale(row["auc"] for row in rows),
        trained=trained,
        same_name=str,
        seed=shared.comparison.seed if shared else None,
    )
