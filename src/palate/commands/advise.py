"""Advise: climb the ladder of models from cheap to dear on a log, and say which one to use."""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palate import console
from palate.commands.prepare import kept_baselines, outdated, prepared, samples_of
from palate.config import Config
from palate.errors import InputError
from palate.progress import clock, working
from palate.store.artifacts import MANIFEST, write_json

if TYPE_CHECKING:
    from rich.table import Table

    from palate.baselines.kept import Kept
    from palate.baselines.statistics import BaselineData
    from palate.measure.ladder import Ladder, Rung, Scored, Step

FILE = "advice.json"
RUNGS = ("user-item", "logistic-knn", "lightgbm")
"""Keys of the baselines that are tried, from cheap to dear."""
REQUESTS = 1000


def advise(
    config: Config, *, from_ratings: bool, minutes: float = 10.0, out: Path | None = None, as_json: bool = False
) -> None:
    """Try models from cheap to dear on the rows of `evaluate.split` within `minutes`, and print which one to use.

    It reads prepared data if the config has some, and takes what a run fitted and scored before. It writes only
    `advice.json`, into the folder `out`. Raises `InputError` for data without two classes.
    """
    from palate.baselines.statistics import BaselineData
    from palate.measure.ladder import climb

    if minutes <= 0:
        raise InputError(f"{minutes:g}, expected more than 0", "--minutes")
    console.start_logging()
    ends = time.monotonic() + 60 * minutes
    kept = None
    if from_ratings or outdated(config) or not (config.data_path / MANIFEST).is_file():
        samples, _, name = samples_of(config)
    else:
        data = prepared(config)
        samples, name = data.samples, str(data.manifest["stats"]["name"])
        kept = replace(kept_baselines(config, data), writes=False)
    known = BaselineData.of(samples, config.seed)
    queries, liked = known.of_split(config.evaluate.split)
    if not liked.any() or liked.all():
        raise InputError(f"has {len(liked):,} {config.evaluate.split} rows of one answer, expected both", name)
    ladder = climb(
        liked,
        known.user[queries.anchor],
        _baselines(known, config.evaluate.split, kept, ends),
        resamples=config.evaluate.bootstrap,
        seed=config.seed,
    )
    found = to_dict(ladder)
    if out is not None:
        write_json(out / FILE, found)
    if as_json:
        print(json.dumps(found, ensure_ascii=False, indent=2))
        return
    console.out.print(table(ladder, f"{name}, {ladder.n:,} {config.evaluate.split} rows"))
    for sentence in sentences(ladder):
        console.out.print(sentence, highlight=False)


def _baselines(known: "BaselineData", split: str, kept: "Kept | None", ends: float) -> "Iterator[Step]":
    """The steps of `RUNGS`."""
    from palate.baselines.registry import RANKERS
    from palate.measure.ladder import Step

    for key in RUNGS:
        yield Step(key, RANKERS[key].label, lambda key=key: _fitted(key, known, split, kept, ends))  # type: ignore[misc]


def _fitted(key: str, known: "BaselineData", split: str, kept: "Kept | None", ends: float) -> "Scored":
    """A baseline, fitted and scored; raises `Skipped` without its package, and after the end of the time."""
    from palate.baselines.registry import RANKERS, fit_one
    from palate.measure.ladder import Scored, Skipped

    baseline, (queries, _) = RANKERS[key], known.of_split(split)
    if baseline.needs is not None and find_spec(baseline.needs) is None:
        raise Skipped(f"not tried: {baseline.needs} is not installed")
    if time.monotonic() > ends:
        raise Skipped("not tried: the time is up, --minutes allows more")
    with working(f"fitting {baseline.label}"):
        began = time.process_time()
        state = fit_one(baseline, known, kept)
        fitted = time.process_time() - began
        began = time.monotonic()
        p = baseline.predictor(known, state)(queries)
        scored = time.monotonic() - began
    return Scored(p, fitted, scored * REQUESTS / len(queries))


def to_dict(ladder: "Ladder") -> dict[str, Any]:
    """The ladder as `advice.json` has it."""
    return {
        "use": ladder.used.key,
        "n": ladder.n,
        "users": ladder.users,
        "resamples": ladder.resamples,
        "rungs": [
            {
                "key": rung.key,
                "label": rung.label,
                "pays": rung.pays,
                "below": rung.below,
                "gains": [asdict(pair) for pair in rung.gains],
                "detects": rung.detects,
                "fit_seconds": rung.scored.fit_seconds,
                "thousand_seconds": rung.scored.score_seconds,
                "metrics": asdict(rung.metrics),
            }
            for rung in ladder.rungs
        ],
        "skipped": ladder.skipped,
    }


def table(ladder: "Ladder", title: str) -> "Table":
    """The rungs from cheap to dear, within 80 columns; the one to use is bold."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from palate.measure.figures import bounds, number
    from palate.report.table import cell

    rows = Table(box=SIMPLE_HEAD, pad_edge=False)
    rows.add_column(title, max_width=26, overflow="fold")
    for name in ("AUC", "GAUC"):
        rows.add_column(name, justify="right")
    rows.add_column("gain in AUC", justify="right", no_wrap=True)
    rows.add_column("fit", justify="right")
    for rung in ladder.rungs:
        gain = rung.gain
        text = "" if gain is None or gain.value is None else number(gain.value, signed=True)
        if gain is not None and gain.interval is not None:
            text += f" {bounds(gain.interval, signed=True)}"
        took = clock(rung.scored.fit_seconds) if rung.scored.fit_seconds >= 1 else "–"
        cells = (rung.label, cell(rung.metrics.auc), cell(rung.metrics.gauc), text, took)
        rows.add_row(*cells, style="bold" if rung is ladder.used else "")
    return rows


def sentences(ladder: "Ladder") -> "Iterator[str]":
    """What to use, why the ladder ended, and what would change the answer."""
    used, last = ladder.used, ladder.rungs[-1]
    yield f"Use {used.label}: {_cost(used)} for a thousand requests."
    if last is not used and last.gain is not None and last.gain.value is not None:
        from palate.measure.figures import difference_text

        yield f"{last.label} does not pay: {difference_text(last.gain.value, last.gain.interval, prose=True)}."
    for label, reason in ladder.skipped.items():
        yield f"{label}: {reason}."


def _cost(rung: "Rung") -> str:
    from palate.report.costs import Cost

    return Cost(rung.label, REQUESTS, rung.scored.score_seconds).thousand
