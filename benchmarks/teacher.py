"""How many samples reach the same AUC, with and without a teacher, and with unrated pairs that it labels.

    PALATE_DATA_DIR=… python benchmarks/teacher.py --save

The demo's recipe without the baseline that it corrects, on the answers, on a baseline's probabilities
(`train.teacher`), and on these beside those of unrated pairs (`train.unrated`), which come on top of the samples and
cost their time. All train the same samples of a seed, and are scored on the same test rows. Seeds are averaged as
logits. Differences are paired over users. The last column reads off the line of the untaught models' AUC over the
logarithm of their samples how many those would need for the AUC of the taught one. A run that is there is not made
again.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palate.config import Config
from palate.errors import PalateError
from palate.measure.bootstrap import detectable
from palate.measure.metrics import logit, measure
from palate.measure.paired import compare
from palate.samples.queries import Scores
from report import Result, publish
from runs import config_in, recipe, rows_of, scored

METRICS = ("auc", "gauc", "log_loss")
PLAIN = "answers"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how many samples a teacher saves.")
    parser.add_argument("--ratings", default="ml-100k", help="name or path")
    parser.add_argument("--model", default="smollm2-135m", help="name or folder")
    parser.add_argument("--teacher", default="logistic-knn", help="a baseline")
    parser.add_argument("--unrated", type=int, nargs="*", default=[2], help="numbers of unrated pairs a sample (2)")
    parser.add_argument("--samples", type=int, nargs="+", default=[640, 1280, 2560], help="training samples")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rows", type=int, default=600, help="scored test rows (600)")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark-teacher"), help="goes on from here")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    args = parser.parse_args()
    try:
        rows = measured(args)
    except PalateError as error:
        sys.exit(f"error: {error}")
    title = f"{args.model}, {args.ratings}, taught by {args.teacher}: {args.rows:,} test rows, {len(args.seeds)} seeds"
    publish("teacher", [Result(title, rows, COLUMNS)], as_json=args.json, save=args.save)


def config_of(args: argparse.Namespace, samples: int, seed: int, teacher: str | None, unrated: int = 0) -> Config:
    """The demo's recipe, on the answers or on a baseline's, also of unrated pairs."""
    values = recipe()
    del values["text"], values["train"]["offset"]
    values["ratings"] = {"source": args.ratings}
    values["model"]["base"] = args.model
    values["train"] |= {"max_samples": samples, "seed": seed, "teacher": teacher, "report_to": []}
    values["train"] |= {"unrated": unrated} if unrated else {}  # the folders of runs without are those of before
    values["evaluate"] |= {"max_samples": args.rows}
    return config_in(args.folder, values)


def measured(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each number of samples, without the teacher, with it, and with each number of unrated pairs."""
    rows: list[dict[str, Any]] = []
    plain: dict[int, float] = {}
    arms: dict[str, tuple[str | None, int]] = {PLAIN: (None, 0), "teacher": (args.teacher, 0)}
    arms |= {f"teacher, and {n} unrated": (args.teacher, n) for n in args.unrated}
    for samples in sorted(args.samples):
        p: dict[str, Scores] = {}
        for name, (teacher, unrated) in arms.items():
            found = [rows_of(scored(config_of(args, samples, seed, teacher, unrated))) for seed in args.seeds]
            y, users, _ = found[0]
            p[name] = averaged([each[2] for each in found])
            metrics = measure(y, p[name], users)
            by_seed = [measure(y, each[2], users).auc for each in found]
            told = {"samples": samples, "on": name, "auc by seed": by_seed}
            rows.append(told | {m: getattr(metrics, m) for m in METRICS})
            print(f"{samples:,} samples, {name}: AUC {metrics.auc:.4f}", file=sys.stderr)
        first, *taught = rows[-len(arms) :]
        plain[samples] = first["auc"]
        pairs = compare(y, users, p, [(row["on"], PLAIN) for row in taught], resamples=args.resamples).of("auc")
        for row, pair in zip(taught, pairs, strict=True):
            between = pair.interval
            row |= {
                "gain": pair.value,
                "between": None if between is None else [between.low, between.high],
                "detects": None if between is None else detectable(between),
            }
    for row in rows:
        if row["on"] != PLAIN and len(plain) > 1:
            row["as many as"] = needed(plain, row["auc"])
    return rows


def averaged(scores: Sequence[Scores]) -> Scores:
    """The mean over seeds, as logits: one model's answers would carry one draw of the samples."""
    z: NDArray[np.float64] = np.mean([logit(each) for each in scores], axis=0)
    return np.asarray(1 / (1 + np.exp(-z)))


def needed(plain: Mapping[int, float], auc: float) -> float | None:
    """The samples that the untaught models need for an AUC, by a line over the logarithm; None where it falls."""
    slope, start = np.polyfit(np.log(list(plain)), list(plain.values()), 1)
    return float(np.exp((auc - start) / slope)) if slope > 0 else None


def _gain(row: Mapping[str, Any]) -> str:
    if row.get("between") is None:
        return ""
    low, high = row["between"]
    return f"{row['gain']:+.3f} [{low:+.3f}, {high:+.3f}]"


COLUMNS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "samples": lambda row: f"{row['samples']:,}",
    "trained on": lambda row: row["on"],
    "AUC": lambda row: f"{row['auc']:.3f}",
    "of each seed": lambda row: ", ".join(f"{auc:.3f}" for auc in row["auc by seed"]),
    "GAUC": lambda row: f"{row['gauc']:.3f}",
    "log loss": lambda row: f"{row['log_loss']:.3f}",
    "AUC, teacher − answers": _gain,
    "detects": lambda row: f"{row['detects']:.3f}" if row.get("detects") is not None else "",
    "answers would need": lambda row: f"{row['as many as']:,.0f}" if row.get("as many as") else "",
}


if __name__ == "__main__":
    main()
