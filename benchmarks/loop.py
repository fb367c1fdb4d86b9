"""What a refresh gains: a run on the older part of a log, and a store with the rest of it.

    python benchmarks/loop.py --ratings ml-latest-small --save      # six minutes on a busy core

Each model is served by a run of its own, which `palate refresh` builds anew with the store's ratings. Both the old and
the new model score the newest test samples, which neither learned from, with the history before each.
"""

import argparse
import contextlib
import io
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl

from palate.commands.prepare import prepare
from palate.commands.refresh import RESULT, refresh
from palate.config import Config
from palate.ratings.load import load_ratings
from palate.serve.release import RELEASES, feedback
from palate.serve.schemas import NewRating
from palate.serve.store import Store
from palate.store.artifacts import write_json
from report import Result, number, publish

MODELS = ("user-item", "item-knn", "logistic-knn", "strongest", "corrected")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what a refresh on a service's ratings gains.")
    parser.add_argument("--ratings", default="ml-latest-small", help="name or path of a log in MovieLens's CSV form")
    parser.add_argument(
        "--share", type=float, default=0.2, help="share of the newest ratings that go to the store (0.2)"
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="keys of baselines")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        newer = split(args.ratings, args.share, Path(folder))
        rows = [refreshed(key, Path(folder), newer) for key in args.models]
    title = f"{args.ratings}: the newest {args.share:.0%} of the ratings through the store"
    publish("loop", [Result(title, rows, COLUMNS)], as_json=args.json, save=args.save)


def split(ratings: str, share: float, folder: Path) -> pl.DataFrame:
    """Write the older part of a log into a folder, and return the rest."""
    log = load_ratings(ratings)
    border = log.frame["timestamp"].quantile(1 - share)
    log.frame.filter(pl.col("timestamp") <= border).write_csv(folder / "ratings.csv")
    log.items.write_csv(folder / "items.csv")
    return log.frame.filter(pl.col("timestamp") > border)


def refreshed(key: str, log: Path, newer: pl.DataFrame) -> dict[str, Any]:
    """What a refresh of a run that serves one model finds."""
    run = log / key
    config = Config.model_validate({"name": key, "run_dir": str(run), "ratings": {"source": str(log)}})
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        prepare(config)
        write_json(run / "metrics.json", {"ladder": {"use": key}})
        with closing(Store(feedback(run))) as store:
            rows = [NewRating(user_id=u, item_id=i, rating=r, timestamp=t) for u, i, r, t in newer.iter_rows()]
            store.add_ratings(rows)
        began = time.process_time()
        refresh(config, store=None)
        seconds = time.process_time() - began
    found: dict[str, Any] = json.loads((run / RELEASES / "1" / RESULT).read_text())
    return {"model": key, **{name: found[name] for name in ("rows", "users", "detects")}, "seconds": seconds,
            "old": found["old"]["auc"], "new": found["new"]["auc"], "gain": found["difference"]}  # fmt: skip


Say = Callable[[Mapping[str, Any]], str]
COLUMNS: Mapping[str, Say] = {
    "model": lambda row: row["model"],
    "rows (users)": lambda row: f"{row['rows']:,} ({row['users']:,})",
    "AUC before": lambda row: f"{row['old']:.3f}",
    "after": lambda row: f"{row['new']:.3f}",
    "difference": lambda row: f"{row['gain']['value']:+.3f}",
    "95 %": lambda row: "[{low:+.3f}, {high:+.3f}]".format(**row["gain"]["interval"]),
    "detects": lambda row: f"{row['detects']:.3f}",
    "processor time": lambda row: f"{number(row['seconds'])} s",
}

if __name__ == "__main__":
    main()
