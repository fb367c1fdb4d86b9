"""The ladder as a table of 80 columns, and in sentences."""

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.table import Table

from palate.measure.figures import bounds, difference_text, least, number
from palate.measure.ladder import Ladder, Rung
from palate.progress import clock
from palate.report.costs import REQUESTS, Cost
from palate.report.table import cell


def ladder_table(ladder: Ladder, title: str) -> Table:
    """The rungs in order of cost; the one to use is bold.

    The table has a column of rows where the rungs were measured on different ones, and one of fits that were timed.
    """
    columns: dict[str, list[str]] = {
        "": [rung.label for rung in ladder.rungs],
        "AUC": [cell(rung.metrics.auc) for rung in ladder.rungs],
        "GAUC": [cell(rung.metrics.gauc) for rung in ladder.rungs],
        "gain in AUC": [_gain_lines(rung) for rung in ladder.rungs],
    }
    if any(rung.metrics.n != ladder.n for rung in ladder.rungs):
        columns["rows"] = [f"{rung.metrics.n:,}" for rung in ladder.rungs]
    if any(rung.fit_seconds is not None for rung in ladder.rungs):
        columns["fit"] = [_fit(rung) for rung in ladder.rungs]
    width = 26 if len(columns) < 6 else 18  # within 80 columns
    table = Table(title=title, title_justify="left", title_style="", box=SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(
            name,
            justify="right" if name else "left",
            max_width=None if name else width,
            overflow="fold",
            no_wrap=bool(name),
        )
    for rung, cells in zip(ladder.rungs, zip(*columns.values(), strict=True), strict=True):
        table.add_row(*cells, style="bold" if rung is ladder.used else "")
    return table


def _fit(rung: Rung) -> str:
    """The time of a fit; empty if it was fitted before."""
    seconds = rung.fit_seconds
    return "" if seconds is None else clock(seconds) if seconds >= 1 else "–"


def gain_text(rung: Rung) -> str:
    """A rung's gain in AUC with its interval; empty for the first rung."""
    gain = rung.gain
    if gain is None or gain.value is None:
        return ""
    text = number(gain.value, signed=True)
    return text if gain.interval is None else f"{text} {bounds(gain.interval, signed=True)}"


def _gain_lines(rung: Rung) -> str:
    """The gain, and below it, if the interval contains zero, the smallest difference that these rows detect."""
    size = "" if rung.gain is None or rung.gain.interval is None else least(rung.gain.interval)
    return f"{gain_text(rung)}\ndetects {size}" if size else gain_text(rung)


def thousand_text(rung: Rung) -> str:
    """The time of a thousand requests; empty if nobody measured it."""
    return "" if rung.thousand_seconds is None else Cost(rung.label, REQUESTS, rung.thousand_seconds).thousand


def use_sentence(ladder: Ladder, *, with_cost: bool = True) -> str:
    """Which rung to use, with its AUC and cost."""
    used = ladder.used
    sentence = f"Use {used.label}"
    if used.metrics.auc is not None:
        sentence += f": AUC {number(used.metrics.auc)} on {used.metrics.n:,} rows"
    if with_cost and (cost := thousand_text(used)):
        sentence += f", {cost} for a thousand requests"
    return f"{sentence}."


def change_sentence(ladder: Ladder) -> str:
    """What would change the rung to use: the test rows that would show a gain as large as the observed one.

    The detectable size shrinks with the root of the number of rows. A rung that was compared with one below the rung
    in use has no part in this.
    """
    failed = [rung for rung in ladder.rungs if rung.below == ladder.used.key and not rung.pays]
    for rung in failed:
        gain = 0.0 if rung.gain is None else rung.gain.value or 0.0
        if rung.detects is not None and gain > 0:
            rows = float(f"{rung.metrics.n * (rung.detects / gain) ** 2:.1e}")
            where = f"about {rows:,.0f} test rows, of more users, on which {rung.label} gains as much as on these"
            return f"This would change the answer: {where}."
    if failed and ladder.users < 2:
        return "This would change the answer: test rows of several users, over which a gain has an interval."
    if failed:
        return f"More test rows change the answer only if {failed[0].label} gains on them: on these it does not."
    if ladder.skipped:
        return "This would change the answer: a model that was not tried, if it pays."
    return "All models pay: nothing that Palate tries would change the answer."


def sentences(ladder: Ladder) -> Iterator[str]:
    """What to use, which rungs do not pay, which were not tried and why, and what would change the answer."""
    yield use_sentence(ladder)
    for rung in ladder.rungs:
        if not rung.pays and rung.gain is not None:
            gain = difference_text(rung.gain.value, rung.gain.interval, prose=True)
            if rung.gain.interval is None:
                gain += ", without an interval: the rows are of one user"
            yield f"{rung.label} does not pay on {rung.metrics.n:,} rows: {gain}."
    for label, reason in ladder.skipped.items():
        yield f"{label}: {reason}."
    yield change_sentence(ladder)
