"""Monitor: print what the service's store says about the run that it serves."""

from contextlib import closing
from dataclasses import asdict

from rich.box import SIMPLE_HEAD
from rich.table import Table

from palate import console
from palate.config import Config
from palate.measure.drift import Findings
from palate.measure.figures import percent
from palate.report.table import cell
from palate.serve.monitor import look
from palate.serve.release import current, feedback
from palate.serve.store import Store

_WORDS = {
    "steady": "steady",
    "moved": "moved: PSI above 0.1 and beyond chance",
    "much": "moved much: PSI above 0.25",
    "unknown": "no ratings to compare",
}

NAME = 48
"""Most characters of a model's name."""


def monitor(config: Config, *, store: str | None, as_json: bool = False) -> None:
    """Print drift of the inputs, what is cold, and the calibration of answered recommendations.

    Raises `InputError` for a run without prepared data or without a store.
    """
    console.start_logging()
    run = config.run_path
    with closing(Store(store or config.ratings.also or feedback(run), create=False)) as opened:
        found = look(run, opened)
    if as_json:
        console.print_json({"run": str(current(run)), **asdict(found)})
        return
    line = f"{found.stored:,} ratings in the store, {found.newer:,} of them unknown to {current(run)}; "
    console.out.print(f"{line}{found.events:,} events", soft_wrap=True)
    for table in (_drift(found), _cold(found), *([_answered(found)] if found.answered else [])):
        console.out.print(table)
    if not found.answered:
        console.out.print("No event says that a recommendation was shown with its probability.")


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for n, column in enumerate(columns):
        table.add_column(column, justify="left" if n == 0 else "right", overflow="fold")
    return table


def _drift(found: Findings) -> Table:
    table = _table("drift of", "PSI", "chance", "")
    table.columns[-1].justify = "left"
    for each in found.drift:
        table.add_row(each.of, cell(each.psi), cell(each.chance), _WORDS[each.state])
    return table


def _cold(found: Findings) -> Table:
    cold = found.cold
    shares = {
        "users without a rating in training": cold.users,
        "ratings by users with less history than a prompt shows": cold.ratings,
        "rated items without a rating in training": cold.items,
        "items of the catalogue without a rating in training": cold.catalogue,
    }
    table = _table("cold", "share")
    for name, share in shares.items():
        table.add_row(name, "–" if share is None else percent(share, 1))
    return table


def _answered(found: Findings) -> Table:
    table = _table("answered", "shown", "n", "mean P", "liked", "slope", "ECE", "by noise", "AUC")
    for each in found.answered:
        metrics = each.metrics
        shown = (each.mean_p, metrics.base_rate, metrics.slope, metrics.ece, metrics.ece_floor, metrics.auc)
        name = " ".join(each.model.split())  # an event may name any model
        name = name if len(name) <= NAME else f"{name[:NAME]}…"
        table.add_row(name, f"{each.shown:,}", f"{metrics.n:,}", *map(cell, shown))
    return table
