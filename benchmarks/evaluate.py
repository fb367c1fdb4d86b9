"""What the evidence costs, and whether the baselines are as good as they are known to be.

    PALATE_DATA_DIR=… python benchmarks/evaluate.py --save
    python benchmarks/evaluate.py --quick            # 20,000 made-up ratings

All baselines are fitted and predict all test samples, all metrics are measured, and users resampled, in a fresh
process. The time of reading the ratings is not in it. Beside it: the strongest baseline ranks the whole catalogue for
every user, is fitted without each of its groups of features, and is asked without a time, as a request is.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import synthetic
from palate.baselines.learned import SMALL_TREES, boosted_trees
from palate.baselines.registry import BASELINES, RANKERS, STRONGEST, chosen_baselines
from palate.baselines.statistics import BaselineData
from palate.config import PrepareConfig
from palate.measure.bootstrap import bootstrap, detectable, interval
from palate.measure.metrics import measure
from palate.measure.paired import compare
from palate.ratings.load import load_ratings
from palate.samples import build_samples
from palate.samples.queries import Queries, Scores
from report import Result, clock, in_own_process, number, publish

REFERENCE = {
    "constant": (0.500, 0.500, 0.692),
    "user-mean": (0.703, 0.500, 0.626),
    "item-mean": (0.677, 0.667, 0.643),
    "user-item": (0.767, 0.667, 0.574),
    "history-mean": (0.764, 0.489, 0.575),
    "online": (0.792, 0.616, 0.548),
    "factors": (0.773, 0.671, 0.567),
    "item-knn": (0.800, 0.656, 0.538),
    "logistic": (0.824, 0.687, 0.515),
    "logistic-knn": (0.831, 0.703, 0.505),
    "lightgbm-prompt": (0.798, 0.579, 0.540),
    "lightgbm-item": (0.822, 0.657, 0.514),
    "lightgbm": (0.837, 0.708, 0.495),
    "strongest": (0.839, 0.711, 0.491),
}
"""AUC, GAUC and log loss of such models on ml-latest-small by another implementation, with the same split."""
LIMIT = 180.0
"""Seconds for all baselines, all metrics and all resamples."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what the evidence costs.")
    parser.add_argument("--ratings", default="ml-latest-small", help="a data set's name or path")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--quick", action="store_true", help="20,000 made-up ratings, 100 resamples")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.quick:
            args.ratings, args.resamples = folder, 100
            synthetic.write(Path(folder), 20_000, 1_000)
        found = in_own_process(measured, args.ratings, args.resamples)
    known = not args.quick and args.ratings == "ml-latest-small"
    rows = [{**row, "reference": REFERENCE.get(row["key"]) if known else None} for row in found["baselines"]]
    name = "made-up ratings" if args.quick else args.ratings
    title = f"Baselines on the {found['rows']:,} test samples of {name}"
    results = [
        Result(title, rows, COLUMNS),
        Result(f"What it takes, {args.resamples:,} resamples", found["steps"], STEPS),
        Result(f"{BASELINES['strongest']} without one of its groups of features", found["groups"], GROUPS),
        Result("Targets", claims(found["steps"], rows), CLAIMS),
    ]
    publish("evaluate", results, as_json=args.json, save=args.save)


def measured(ratings: str, resamples: int) -> dict[str, Any]:
    """The baselines with their metrics and times, and the steps with theirs."""
    samples = build_samples(load_ratings(ratings), PrepareConfig())
    steps, scores = [], {}
    baselines: list[dict[str, Any]] = []
    with clock() as prepared:
        known = BaselineData.of(samples)
        known.residual, known.content, known.neighbours  # noqa: B018
    steps.append({"what": "item statistics and similarities", "seconds": prepared.seconds, "peak": prepared.peak})
    asked, liked = known.of_split("test")
    users = known.user[asked.anchor]
    predictors = {}
    for baseline in chosen_baselines("all"):
        with clock() as fitting:
            predict = predictors[baseline.key] = baseline.predictor(known, baseline.fitted(known))
        with clock() as predicting:
            scores[baseline.key] = predict(asked)
        baselines.append({"key": baseline.key, "fit": fitting.seconds, "predict": predicting.seconds})
    spent = sum(row["fit"] + row["predict"] for row in baselines)
    steps.append({"what": "fitting and predicting", "seconds": spent, "peak": predicting.peak})
    with clock() as measuring:
        metrics = {key: measure(liked, p, users) for key, p in scores.items()}
    steps.append({"what": "metrics", "seconds": measuring.seconds, "peak": measuring.peak})
    with clock() as resampling:
        replicates = bootstrap(liked, users, scores, resamples=resamples, seed=13)
    steps.append({"what": "resamples of users", "seconds": resampling.seconds, "peak": resampling.peak})
    for row in baselines:
        of = metrics[row["key"]]
        bounds = interval(replicates[row["key"]]["auc"])
        row |= {name: getattr(of, name) for name in ("auc", "gauc", "accuracy", "f1", "log_loss", "brier", "ece")}
        row["interval"] = None if bounds is None else (bounds.low, bounds.high)
    strongest = max(baselines, key=lambda row: row["auc"] or 0.0)["key"]
    with clock() as ranking:
        asked = catalogue(known)
        predictors[strongest](asked)
    what = f"{BASELINES[strongest]}: {len(asked):,} pairs of user and item"
    ranked = {"what": what, "seconds": ranking.seconds, "peak": ranking.peak, "beside": True}
    groups = list(without_groups(known, scores["strongest"], resamples))
    return {"rows": len(liked), "baselines": baselines, "steps": [*steps, ranked], "groups": groups}


def without_groups(known: BaselineData, whole: Scores, resamples: int) -> Iterator[dict[str, Any]]:
    """The strongest baseline without a group of features, and asked without a time, beside its `whole` scores."""
    asked, liked = known.of_split("test")
    users, strongest = known.user[asked.anchor], RANKERS["strongest"]
    timeless = replace(known, unused=~known.allowed)
    scores = {"whole": whole, "asked without a time": strongest.predictor(timeless, strongest.fitted(known))(asked)}
    for group in ("moment", "alike", "spread", "past-item", "item", "past"):
        fit, score = boosted_trees(tuple(each for each in STRONGEST if each != group), **SMALL_TREES)
        smaller = replace(strongest, fit=fit, score=score)
        scores[f"without {group}"] = smaller.predictor(known, smaller.fitted(known))(asked)
    pairs = [(key, "whole") for key in scores if key != "whole"]
    found = {
        (pair.first, pair.metric): pair for pair in compare(liked, users, scores, pairs, resamples=resamples).pairs
    }
    for key, p in scores.items():
        metrics, pair = measure(liked, p, users), found.get((key, "auc"))
        between = None if pair is None else pair.interval
        yield {
            "what": key,
            **{name: getattr(metrics, name) for name in ("auc", "gauc", "log_loss")},
            "difference": None if pair is None else pair.value,
            "interval": None if between is None else [between.low, between.high],
            "detects": None if between is None else detectable(between),
        }


def catalogue(known: BaselineData) -> Queries:
    """Every item, asked of each user's last row."""
    last = np.flatnonzero(np.append(known.user[1:] != known.user[:-1], True))
    items = np.arange(len(known.samples.items))
    return Queries(np.repeat(last, len(items)), np.tile(items, len(last)))


def claims(steps: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is claimed of the time, and of the figures where they are known."""
    total = sum(step["seconds"] for step in steps if not step.get("beside"))
    found = [{"what": "seconds in all, without ranking", "measured": total, "target": LIMIT}]
    apart = [abs(row["auc"] - row["reference"][0]) for row in rows if row["reference"]]
    if apart:
        found.append({"what": "between an AUC and the reference's, at most", "measured": max(apart), "target": 0.01})
    return [{**claim, "met": claim["measured"] <= claim["target"]} for claim in found]


def beside(name: str, which: int) -> Callable[[Mapping[str, Any]], str]:
    """A metric, and the reference's in brackets."""

    def say(row: Mapping[str, Any]) -> str:
        value = "–" if row[name] is None else f"{row[name]:.3f}"
        return f"{value} ({row['reference'][which]:.3f})" if row["reference"] else value

    return say


COLUMNS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "": lambda row: BASELINES[row["key"]],
    "AUC (reference)": beside("auc", 0),
    "95 %": lambda row: "–" if row["interval"] is None else "[{:.3f}, {:.3f}]".format(*row["interval"]),
    "GAUC": beside("gauc", 1),
    "accuracy": lambda row: f"{row['accuracy']:.3f}",
    "log loss": beside("log_loss", 2),
    "ECE": lambda row: f"{row['ece']:.3f}",
    "fit": lambda row: f"{number(row['fit'])} s",
    "predict": lambda row: f"{number(row['predict'])} s",
}
STEPS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "step": lambda row: row["what"],
    "time": lambda row: f"{number(row['seconds'])} s",
    "peak memory": lambda row: f"{row['peak'] / 1e9:.2f} GB",
}
GROUPS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "": lambda row: row["what"],
    "AUC": lambda row: f"{row['auc']:.4f}",
    "GAUC": lambda row: f"{row['gauc']:.4f}",
    "log loss": lambda row: f"{row['log_loss']:.4f}",
    "AUC − whole": lambda row: (
        "" if row["interval"] is None else "{:+.4f} [{:+.4f}, {:+.4f}]".format(row["difference"], *row["interval"])
    ),
    "detects": lambda row: "" if row["detects"] is None else f"{row['detects']:.4f}",
}
CLAIMS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "measured": lambda row: number(row["measured"]),
    "what": lambda row: row["what"],
    "target": lambda row: f"≤ {row['target']:g}",
    "met": lambda row: "yes" if row["met"] else "no",
}


if __name__ == "__main__":
    main()
