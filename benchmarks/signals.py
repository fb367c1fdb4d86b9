"""What the signals of user and candidate add to a prompt, each alone and all together, and what they cost.

    PALATE_DATA_DIR=… python benchmarks/signals.py --samples 64 --rows 60 --folder runs/quick   # does it all run?
    PALATE_DATA_DIR=… python benchmarks/signals.py --save
    PALATE_DATA_DIR=… python benchmarks/signals.py --fields                  # only what the fields say alone

The recipe is the demo's, without the baseline that the demo corrects and without a cut: every prompt shows the same
history. Each variant adds fields to the candidate's line; samples, seed and scored test rows are the same. Differences
are paired over users. A variant that is in the folder is not made again. The first table needs no model: the AUC of
each field as a score, on training, validation and test samples, which would differ if a field knew the answers.
"""

import argparse
import contextlib
import io
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from palate.config import Config
from palate.errors import PalateError
from palate.measure.metrics import measure
from palate.measure.paired import compare
from palate.prompt.spec import SIGNAL_FIELDS, PromptSpec
from palate.store.artifacts import read_json, write_json
from report import Result, in_own_process, publish
from runs import config_in, recipe, rows_of, scored
from text import detects, difference, metric, seconds, told

NONE = "none"
LINE = "{{title:short}}{}, {{item_mean:.1f}}:"
"""The demo's line with room for a variant's fields; at its end "73%:" would leave no safe cut for composed tokens."""
VARIANTS = {
    NONE: "",
    "estimate": ", {estimate:.0%}",
    "neighbour": ", like {neighbour:short}",
    "neighbour and its mean": ", {neighbour_mean:.1f} by who liked {neighbour:short}",
    "user's deviation": ", user {user_deviation:+.1f}",
    "item's deviation": ", item {item_deviation:+.1f}",
}
VARIANTS["all"] = "".join(text for name, text in VARIANTS.items() if name != "neighbour")
"""What each adds to the line."""
METRICS = ("auc", "gauc", "log_loss")
CANDIDATES = 50


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what signals add to a prompt, and what they cost.")
    parser.add_argument("--ratings", default="ml-100k", help="name or path")
    parser.add_argument("--model", default="smollm2-135m", help="name or folder")
    parser.add_argument("--estimate", default="logistic-knn", help="the baseline of {estimate}")
    parser.add_argument("--samples", type=int, default=640, help="training samples (640)")
    parser.add_argument("--targets", type=int, default=8, help="targets a prompt (8)")
    parser.add_argument("--rows", type=int, default=600, help="scored test rows (600)")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), metavar="VARIANT")
    parser.add_argument("--fields", action="store_true", help="only the table of the fields alone")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark-signals"), help="goes on from here")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    args = parser.parse_args()
    try:
        results = [Result(f"The fields alone as scores, {args.ratings}", in_own_process(fields, args), FIELDS)]
        if not args.fields:
            rows = measured(args)
            title = f"{args.model}, {args.ratings}: {args.samples:,} samples, {args.targets} targets a prompt, "
            results.append(Result(f"{title}{rows[0]['n']:,} test rows", rows, COLUMNS))
    except PalateError as error:
        sys.exit(f"error: {error}")
    publish("signals", results, as_json=args.json, save=args.save)


def config_of(args: argparse.Namespace, variant: str) -> Config:
    """The demo's recipe with the fields of a variant."""
    values = recipe()
    del values["text"], values["train"]["offset"]
    values["ratings"] = {"source": args.ratings}
    values["model"]["base"] = args.model
    values["prompt"] |= {"candidate_line": LINE.format(VARIANTS[variant]), "estimate": args.estimate}
    values["tokens"]["cutoff_len"] = 512
    values["train"] |= {"max_samples": args.samples, "targets_per_prompt": args.targets, "report_to": []}
    values["evaluate"] |= {"max_samples": args.rows}
    return config_in(args.folder, values)


def fields(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The AUC of each numeric field on the samples of each split, and the processor's seconds that all take."""
    from palate.baselines.signals import signals_of
    from palate.baselines.statistics import BaselineData
    from palate.config import PrepareConfig
    from palate.ratings.load import load_ratings
    from palate.samples import build_samples

    samples = build_samples(load_ratings(args.ratings), PrepareConfig())
    rows = []
    for name in (name for name in SIGNAL_FIELDS if name != "neighbour"):
        began = time.process_time()
        prompt = PromptSpec(candidate_line=f"{{{name}}}", estimate=args.estimate)
        score = signals_of(BaselineData.of(samples), prompt)[name].to_numpy()
        row: dict[str, Any] = {"field": name, "distinct": len(np.unique(score)), "took": time.process_time() - began}
        score = (score - score.min()) / max(np.ptp(score), 1e-9)  # `measure` takes probabilities
        for split in ("train", "val", "test"):
            index = samples.of(split)
            row[split] = measure(samples.label[index], score[index], samples.user[samples.position[index]]).auc
        rows.append(row)
    return rows


def measured(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each variant, compared with the prompt without signals."""
    rows, scores = [], {}
    for name in dict.fromkeys([NONE, *args.variants]):
        config = config_of(args, name)
        found = scored(config) | recommended(config)
        y, users, scores[name] = rows_of(found)
        metrics = measure(y, scores[name], users)
        rows.append({"variant": name, "n": y.size, **{m: getattr(metrics, m) for m in METRICS}, **found})
        print(f"{name}: AUC {metrics.auc:.4f}", file=sys.stderr)
    pairs = [(name, NONE) for name in scores if name != NONE]
    compared = {
        (pair.first, pair.metric): told(pair)
        for pair in compare(y, users, scores, pairs, resamples=args.resamples).pairs
    }
    for row in rows:
        row["differences"] = {m: compared[row["variant"], m] for m in METRICS if (row["variant"], m) in compared}
    return rows


def recommended(config: Config) -> dict[str, Any]:
    """Seconds of a list for one user, the best of three; measured once."""
    kept = config.run_path / "recommended.json"
    if not kept.is_file():
        write_json(kept, in_own_process(recommend_once, config, scored(config)))
    found: dict[str, Any] = read_json(kept)
    return found


def recommend_once(config: Config, run: Mapping[str, Any]) -> dict[str, Any]:
    """Recommend three times."""
    from palate.commands.recommend import Request, recommend

    request = Request(user=run["user"], retrieve=CANDIDATES)
    times = []
    for _ in range(3):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            recommend(config, request, adapter=Path(run["adapter"]), as_json=True)
        times.append(json.loads(out.getvalue())["scored"]["seconds"])
    return {"recommend": min(times)}


Columns = Mapping[str, Callable[[Mapping[str, Any]], str]]
FIELDS: Columns = {
    "field": lambda row: f"`{{{row['field']}}}`",
    "AUC on training": metric("train"),
    "on validation": metric("val"),
    "on test": metric("test"),
    "distinct values": lambda row: f"{row['distinct']:,}",
    "processor": seconds("took"),
}
COLUMNS: Columns = {
    "signals": lambda row: row["variant"],
    "AUC": metric("auc"),
    "GAUC": metric("gauc"),
    "log loss": metric("log_loss"),
    "AUC − none": difference("auc"),
    "detects": detects,
    "GAUC − none": difference("gauc"),
    "tokens a prompt": lambda row: f"{row['tokens']:.1f}",
    "prepare, processor": seconds("prepare"),
    f"recommend, {CANDIDATES} candidates": seconds("recommend"),
}


if __name__ == "__main__":
    main()
