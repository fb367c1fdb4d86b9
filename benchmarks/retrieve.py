"""How much of what users went on to like is among the candidates of a first stage.

    python benchmarks/retrieve.py [--ratings NAME] [--split val|test] [--json]

Recall@N: of the liked ratings of the split, the share whose item is among the N candidates that the user's past
retrieves. Of each user the past is everything before the first rating of the split; nothing in it is a candidate.
"""

import argparse
import json
import os
import time
from typing import Any

import numpy as np

from palate.config import PrepareConfig
from palate.ratings import load_ratings
from palate.retrieve import ItemKNN, Known, Past, Popularity, Retriever
from palate.samples import Samples, build_samples
from palate.samples.render import item_rows

NUMBERS = (20, 50, 100, 200, 500)
NEIGHBOURS = (20, 50, 100, 200)


def recalls(samples: Samples, retriever: Retriever, split: str) -> list[float]:
    """Recall at each of `NUMBERS`."""
    timeline = samples.timeline
    item = item_rows(timeline["item_id"], samples.items["item_id"]).to_numpy().astype(np.int64)
    rating, position = timeline["rating"].to_numpy(), samples.position[samples.of(split)]
    liked = samples.label[samples.of(split)]
    user = np.repeat(np.arange(timeline["user_id"].n_unique()), timeline["user_id"].rle().struct.field("len"))
    begins = np.flatnonzero(np.diff(user, prepend=-1))
    found = np.zeros(len(NUMBERS))
    _, first, count = np.unique(user[position], return_index=True, return_counts=True)
    for at, n in zip(first.tolist(), count.tolist(), strict=True):
        past = slice(begins[user[position[at]]], position[at])
        asked = item[position[at : at + n]][liked[at : at + n]]
        best = retriever.top(Past(item[past], rating[past]), NUMBERS[-1], np.unique(item[past]))
        found += [np.isin(asked, best[:n]).sum() for n in NUMBERS]
    return (found / liked.sum()).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ratings", default=os.environ.get("PALATE_BENCH_RATINGS", "ml-100k"))
    parser.add_argument("--split", choices=["val", "test"], default="test")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    options = PrepareConfig()
    samples = build_samples(load_ratings(args.ratings), options)
    known = Known.of(samples, options.rating_threshold)
    rows: list[dict[str, Any]] = []
    for name in ("popularity", *(f"item-knn, {k} neighbours" for k in NEIGHBOURS)):
        began = time.perf_counter()
        k = int(name.split()[1]) if "," in name else 0
        retriever: Retriever = ItemKNN.fit(known, k) if k else Popularity.fit(known)
        fitted = time.perf_counter()
        found = recalls(samples, retriever, args.split)
        rows.append({"retriever": name, "recall": dict(zip(NUMBERS, found, strict=True)), "fit_s": fitted - began})
    if args.json:
        print(json.dumps({"ratings": args.ratings, "split": args.split, "items": known.items, "rows": rows}, indent=2))
        return
    print(f"{args.ratings}, {args.split}, {known.items:,} items\n")
    print(f"{'':26}" + "".join(f"recall@{n:<6}" for n in NUMBERS) + "fit")
    for row in rows:
        print(
            f"{row['retriever']:26}" + "".join(f"{r:<13.3f}" for r in row["recall"].values()) + f"{row['fit_s']:.1f} s"
        )


if __name__ == "__main__":
    main()
