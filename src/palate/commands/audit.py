"""Leaks: audits the samples of a config, prints the findings, and stops a run with a fatal one."""

import textwrap
from functools import partial

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from palate import console
from palate.commands.prepare import outdated, prepared, ratings_of
from palate.commands.signals import signal_data, signalled
from palate.config import Config
from palate.console import log
from palate.errors import InputError
from palate.measure.leaks import Audit, Finding, audit
from palate.measure.leaks.findings import share
from palate.samples import Prepared
from palate.samples.build import checked_samples

STYLES = {"fatal": "bold red", "stated": "yellow", "clean": "dim"}


def check_leaks(config: Config, data: Prepared) -> Audit:
    """Audit prepared data before scoring, and log a summary.

    Raises `InputError` for a fatal finding, unless `evaluate.allow_leaks` is set.
    """
    found = audit(data.samples, config.prepare.split, config.prompt, signals=partial(signal_data, config))
    _refuse(config, found, str(data.folder))
    for finding in found.fatal:
        log.warning("leak allowed: %s: %s", finding.check, finding.sentence)
    text = summary(found)
    log.info("leak audit: %s", text.partition(", among them: ")[0])
    log.debug("leak audit: %s", text)
    return found


def show_leaks(config: Config, *, from_ratings: bool, as_json: bool) -> None:
    """Print the audit of ratings or of prepared data, without writing; raises `InputError` as `check_leaks`."""
    console.start_logging()
    if from_ratings or outdated(config):
        ratings = ratings_of(config)
        samples, place = signalled(config, checked_samples(ratings, config.prepare, config.seed))[0], ratings.name
    else:
        data = prepared(config)
        samples, place = data.samples, str(data.folder)
    found = audit(samples, config.prepare.split, config.prompt, signals=partial(signal_data, config))
    if as_json:
        console.print_json(found.to_dict())
    else:
        console.out.print(table(found, f"{place}, {config.prepare.split}"))
        for finding in (*found.fatal, *found.stated):
            console.out.print(_paragraph(finding, console.out.width))
        console.out.print(f"\n{summary(found)}")
    _refuse(config, found, place)


def summary(found: Audit) -> str:
    """The numbers of findings by severity, and the share of later training rows, in one line."""
    text = f"{len(found.findings)} checks, {found.fatal_text}; {len(found.stated)} to be stated"
    for finding in found.stated:
        if finding.check == "future":
            text += f", among them: {_share(finding)} of the training rows are later than the median test row"
    return text


def table(found: Audit, title: str) -> Table:
    """The findings, one a row, within 80 columns."""
    shown = Table(box=SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left", title_style="bold")
    shown.add_column("")
    shown.add_column("check", no_wrap=True)
    shown.add_column("count", justify="right", no_wrap=True)
    shown.add_column("of", overflow="fold")
    shown.add_column("share", justify="right", no_wrap=True)
    for finding in found.findings:
        style = STYLES[finding.severity]
        cells = [
            finding.severity,
            finding.check,
            f"{finding.count:,}",
            f"{finding.of:,} {finding.unit}",
            _share(finding),
        ]
        shown.add_row(*(Text(cell, style) for cell in cells))
    return shown


def _share(finding: Finding) -> str:
    """The share of what was counted, or the AUC where that is what was measured."""
    if finding.auc is not None:
        return f"AUC {finding.auc.value:.2f}"
    if not finding.of:
        return "–"
    return share(finding.count, finding.of) if finding.count else "0"


def _paragraph(finding: Finding, width: int) -> str:
    """A finding's sentence, and where to look."""
    text = f"• {finding.check}: {finding.sentence}."
    if (example := finding.example) is not None:
        times = " and ".join(str(time) for time in example.times)
        text += f" Such as user {example.user}, item {example.item}, at {times}."
    return textwrap.fill(text, min(width, 100), subsequent_indent="  ", break_long_words=False)


def _refuse(config: Config, found: Audit, place: str) -> None:
    """Raise `InputError` for the first fatal finding, unless leaks are allowed."""
    if not found.fatal or config.evaluate.allow_leaks:
        return
    first, *others = found.fatal
    share = "" if first.auc else f" ({first.count:,} of {first.of:,} {first.unit})"
    more = f"; so do {', '.join(finding.check for finding in others)}" if others else ""
    raise InputError(
        f"{first.check}: {first.sentence}{share}{more}; expected none, "
        "or evaluate.allow_leaks: true (--allow-leaks) to continue and report it",
        place,
    )
