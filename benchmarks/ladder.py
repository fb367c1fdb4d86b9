"""The ladder on all test rows: what each rung adds and costs, from means to a language model.

    PALATE_DATA_DIR=… python benchmarks/ladder.py --save
    PALATE_DATA_DIR=… python benchmarks/ladder.py --run runs/ladder --save      # with the language model of a run

The rungs: means, what a prompt shows, the strongest baseline, that with the items' text, that corrected by its own
errors about the user, and the sum of the latter and a language model that a run trained with `train.offset` and
scored. Each is compared with the rung below, paired over users, whether that paid or not.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from palate.baselines.registry import RANKERS
from palate.baselines.statistics import BaselineData
from palate.config import PrepareConfig
from palate.measure.bootstrap import detectable
from palate.measure.ladder import Ladder, Rung, Scored, Step, climb
from palate.ratings.load import load_ratings
from palate.samples import build_samples
from palate.score.files import read_scores, speed_file
from palate.store.artifacts import read_json
from palate.text.encoder import encoder_of
from palate.text.vectors import Vectors, encoded, item_texts
from report import Result, publish

RUNGS = ("user-item", "lightgbm-prompt", "strongest", "strongest-text", "corrected-text")
METRICS = ("auc", "gauc", "log_loss")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the ladder on all test rows.")
    parser.add_argument("--ratings", default="ml-latest-small", help="name or path")
    parser.add_argument("--encoder", default="minilm", help="name or folder")
    parser.add_argument("--run", type=Path, help="folder of a run whose language model corrects corrected-text")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    args = parser.parse_args()
    data = BaselineData.of(build_samples(load_ratings(args.ratings), PrepareConfig()))
    ladder = measured(data, args.encoder, args.run, args.resamples)
    rows = [row_of(rung) for rung in ladder.rungs]
    publish(
        "ladder", [Result(f"{args.ratings}: {ladder.n:,} test rows", rows, COLUMNS)], as_json=args.json, save=args.save
    )


def measured(data: BaselineData, encoder: str, run: Path | None, resamples: int) -> Ladder:
    """All rungs, each compared with the one below."""
    queries, liked = data.of_split("test")
    users = data.user[queries.anchor]
    scored = dict(baselines(data, encoder))
    if run is not None:
        scored["language model"] = of_run(run)
    rungs: list[Rung] = []
    for n, (key, found) in enumerate(scored.items()):
        steps = [step(name, scored[name]) for name in list(scored)[max(0, n - 1) : n]] + [step(key, found)]
        rungs.append(climb(liked, users, steps, resamples=resamples, whole=True).rungs[-1])
    return Ladder(len(liked), len(np.unique(users)), resamples, rungs, {})


def step(key: str, scored: Scored) -> Step:
    """A step whose scores exist."""
    return Step(key, RANKERS[key].label if key in RANKERS else key, lambda: scored)


def baselines(data: BaselineData, encoder: str) -> Iterator[tuple[str, Scored]]:
    """The scores of `RUNGS`, with processor time of the fit and wall time of a thousand requests."""
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
        yield key, Scored(p, fitted, 1000 * (time.monotonic() - began) / len(queries))


def of_run(run: Path) -> Scored:
    """The sum of the baseline and the language model of a run."""
    found, speed = read_scores(run / "scores" / "fine-tuned.sum.parquet"), speed_file(run / "scores/fine-tuned.parquet")
    took = read_json(speed)
    p = found.columns["p"].astype(np.float64)
    return Scored(p, None, 1000 * took["seconds"] / took["rows"], found.columns["row"])


def row_of(rung: Rung) -> dict[str, Any]:
    """A row of the table, as JSON."""
    gain = rung.gain
    between = None if gain is None or gain.interval is None else gain.interval
    return {
        "model": rung.label,
        "rows": rung.metrics.n,
        **{metric: getattr(rung.metrics, metric) for metric in METRICS},
        "gain": None if gain is None else gain.value,
        "between": None if between is None else [between.low, between.high],
        "detects": None if between is None else detectable(between),
        "fit seconds": rung.fit_seconds,
        "seconds a thousand": rung.thousand_seconds,
    }


def _seconds(name: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda row: "" if row[name] is None else f"{row[name]:.2g} s"


def _gain(row: Mapping[str, Any]) -> str:
    if row["between"] is None:
        return ""
    low, high = row["between"]
    return f"{row['gain']:+.4f} [{low:+.4f}, {high:+.4f}]"


COLUMNS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "": lambda row: row["model"],
    "rows": lambda row: f"{row['rows']:,}",
    "AUC": lambda row: f"{row['auc']:.4f}",
    "GAUC": lambda row: f"{row['gauc']:.4f}",
    "log loss": lambda row: f"{row['log_loss']:.4f}",
    "AUC − rung below": _gain,
    "detects": lambda row: "" if row["detects"] is None else f"{row['detects']:.4f}",
    "fit": _seconds("fit seconds"),
    "1,000 requests": _seconds("seconds a thousand"),
}


if __name__ == "__main__":
    main()
