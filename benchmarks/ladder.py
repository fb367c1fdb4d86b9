"""The ladder on all test rows: what each rung adds and costs, from means to a language model.

    PALATE_DATA_DIR=… python benchmarks/ladder.py --save
    PALATE_DATA_DIR=… python benchmarks/ladder.py --runs runs/ladder --save     # with the language model of a run

The rungs: means, what a prompt shows, the strongest baseline, that with the items' text, that corrected by its own
errors about the user, and the sum of the latter and a language model that a run trained with `train.offset` and
scored. Each is compared with the rung below, paired over users and seeds, whether that paid or not; a sum with the
model that its own run fitted. Figures are means over seeds; an interval is over users and seeds
(`palate.measure.seeds`). The language model has a seed a run.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from palate.baselines.registry import RANKERS
from palate.baselines.statistics import BaselineData
from palate.config import PrepareConfig
from palate.errors import InputError, PalateError
from palate.measure.bootstrap import detectable
from palate.measure.calibration import sigmoid
from palate.measure.metrics import Users, measure
from palate.measure.offset import load_offset, log_odds
from palate.measure.paired import compare
from palate.measure.seeds import over_seeds
from palate.ratings.load import load_ratings
from palate.samples import build_samples
from palate.samples.queries import Labels, Scores
from palate.score.files import read_scores, speed_file
from palate.store.artifacts import read_json
from palate.text.encoder import encoder_of
from palate.text.vectors import Vectors, encoded, item_texts
from report import Result, publish

RUNGS = ("user-item", "lightgbm-prompt", "strongest", "strongest-text", "corrected-text")
LANGUAGE_MODEL = "language model"
METRICS = ("auc", "gauc", "log_loss")


class Costed(NamedTuple):
    """P(like) of all rows, and what it costs."""

    p: Scores
    fit: float
    """Processor time in seconds of what the fit needs beyond the rungs below; of a run, the time of its training."""
    thousand: float
    """Seconds of a thousand requests."""
    below: Scores | None = None
    """P(like) of the model that a run corrects, as the run fitted it; None: that of the rung below."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the ladder on all test rows.")
    parser.add_argument("--ratings", default="ml-latest-small", help="name or path")
    parser.add_argument("--encoder", default="minilm", help="name or folder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[13, 14, 15], help="of the fits (13 14 15)")
    parser.add_argument("--runs", type=Path, nargs="+", default=[], help="runs that correct the last rung, a seed each")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    args = parser.parse_args()
    samples = build_samples(load_ratings(args.ratings), PrepareConfig())
    data = BaselineData.of(samples)
    queries, liked = data.of_split("test")
    try:
        found = [dict(baselines(BaselineData.of(samples, seed), args.encoder)) for seed in args.seeds]
        scored = {key: [by[key] for by in found] for key in RUNGS}
        if args.runs:
            scored[LANGUAGE_MODEL] = [of_run(run, len(liked)) for run in args.runs]
    except PalateError as error:
        sys.exit(f"error: {error}")
    rows = measured(liked, data.user[queries.anchor], scored, args.resamples)
    title = f"{args.ratings}: {len(liked):,} test rows"
    publish("ladder", [Result(title, rows, COLUMNS)], as_json=args.json, save=args.save)


def baselines(data: BaselineData, encoder: str) -> Iterator[tuple[str, Costed]]:
    """The scores of `RUNGS`."""
    queries, _ = data.of_split("test")
    for key in RUNGS:
        began = time.process_time()
        if RANKERS[key].reads_text:
            texts = item_texts(data.samples.items)
            data = replace(data, vectors=Vectors(encoded(texts, encoder_of(encoder)), encoder))
        state = RANKERS[key].fitted(data)
        fitted = time.process_time() - began
        began = time.monotonic()
        p = RANKERS[key].predictor(data, state)(queries)
        yield key, Costed(p, fitted, 1000 * (time.monotonic() - began) / len(queries))


def of_run(run: Path, rows: int) -> Costed:
    """The sum of the baseline and the language model of a run that scored all rows, and the baseline in it."""
    path, alone = run / "scores" / "fine-tuned.sum.parquet", run / "scores" / "fine-tuned.parquet"
    found, took = read_scores(path), read_json(speed_file(alone))
    if not np.array_equal(found.columns["row"], np.arange(rows)):
        raise InputError(f"has {len(found.columns['row']):,} rows, expected all {rows:,} test rows", path)
    p, logit = (each.astype(np.float64) for each in (found.columns["p"], read_scores(alone).columns["logit"]))
    offset = load_offset(run / "adapter")
    if offset is None:
        raise InputError("has no factors of a sum, expected those of `palate evaluate`", run / "adapter")
    # Another fit of the baseline may differ by more than the language model adds, on another processor for example.
    below = p if offset.alpha == 0 else sigmoid(log_odds(p) - offset.alpha * logit - offset.intercept)
    training = read_json(run / "adapter" / "training.json")
    fit = training["seconds"] * training["steps"] / (training["steps"] - training["resumed_at"])
    return Costed(p, fit, 1000 * took["seconds"] / took["rows"], below)


def measured(
    liked: Labels, users: Users, scored: Mapping[str, Sequence[Costed]], resamples: int
) -> list[dict[str, Any]]:
    """A row for each rung, compared with the one before; a single fit is compared with the other's of the same rank."""
    rows: list[dict[str, Any]] = []
    below: Sequence[Costed] = []
    for key, found in scored.items():
        metrics = [measure(liked, each.p, users) for each in found]
        row: dict[str, Any] = {
            "model": RANKERS[key].label if key in RANKERS else key,
            "seeds": len(found),
            **{name: float(np.mean([getattr(each, name) for each in metrics])) for name in METRICS},
            "auc by seed": [each.auc for each in metrics],
            **dict.fromkeys(("gain", "between", "detects")),
            "fit seconds": float(np.median([each.fit for each in found])),
            "seconds a thousand": float(np.median([each.thousand for each in found])),
        }
        own = [each.below for each in found if each.below is not None] or [each.p for each in below]
        if own:
            row |= gained(liked, users, [each.p for each in found], own, resamples)
        rows.append(row)
        below = found
    return rows


def gained(
    liked: Labels, users: Users, scores: Sequence[Scores], below: Sequence[Scores], resamples: int
) -> dict[str, Any]:
    """The gain in AUC: over users and seeds, or over users where there is one seed."""
    if len(scores) == 1:
        told = compare(liked, users, {"a": scores[0], "b": below[0]}, [("a", "b")], resamples=resamples, seed=13)
        pair = told.of("auc")[0]
        assert pair.interval is not None
        low, high = pair.interval.low, pair.interval.high
        detects = detectable(pair.interval) if low < high else None
        return {"gain": pair.value, "between": [low, high], "detects": detects}
    by, other = ({str(n): p for n, p in enumerate(each)} for each in (scores, below))
    found = over_seeds(liked, users, by, name="rung", against=("below", other), resamples=resamples, seed=13)
    spread = found.differences["auc"]
    assert spread is not None
    assert spread.interval is not None
    return {
        "gain": spread.mean,
        "between": [spread.interval.low, spread.interval.high],
        "detects": spread.detectable or None,
    }


def _seconds(name: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda row: f"{row[name]:.2g} s" if row[name] < 99.5 else f"{row[name]:,.0f} s"


def _gain(row: Mapping[str, Any]) -> str:
    if row["between"] is None:
        return ""
    low, high = row["between"]
    return f"{row['gain']:+.4f} [{low:+.4f}, {high:+.4f}]"


COLUMNS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "": lambda row: row["model"],
    "seeds": lambda row: f"{row['seeds']}",
    "AUC": lambda row: f"{row['auc']:.4f}",
    "GAUC": lambda row: f"{row['gauc']:.4f}",
    "log loss": lambda row: f"{row['log_loss']:.4f}",
    "AUC − rung below": _gain,
    "detects": lambda row: "" if row["detects"] is None else f"{row['detects']:.4f}",
    "fit, beyond the rungs above": _seconds("fit seconds"),
    "1,000 requests": _seconds("seconds a thousand"),
}


if __name__ == "__main__":
    main()
