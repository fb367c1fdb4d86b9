"""How much of what users went on to like is among the candidates of a first stage.

    PALATE_DATA_DIR=… python benchmarks/retrieve.py --save

Recall@N: of the liked ratings of the split, the share whose item is among the N candidates that the user's past
retrieves. Of each user the past is everything before the first rating of the split; nothing in it is a candidate.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from palate.baselines.retriever import ItemKNN, Past, Popularity, Retriever, RetrieverData
from palate.config import PrepareConfig
from palate.ratings.load import load_ratings
from palate.samples import Samples, build_samples
from palate.samples.queries import item_rows
from report import Result, clock, number, publish

NUMBERS = (20, 50, 100, 200, 500)
NEIGHBOURS = (20, 50, 100, 200)


def recalls(samples: Samples, retriever: Retriever, split: str) -> list[float]:
    """Recall at each of `NUMBERS`."""
    timeline = samples.timeline
    item = item_rows(samples)
    rating, position = timeline["rating"].to_numpy(), samples.position[samples.of(split)]
    liked = samples.label[samples.of(split)]
    found = np.zeros(len(NUMBERS))
    _, first, count = np.unique(samples.user[position], return_index=True, return_counts=True)
    for at, n in zip(first.tolist(), count.tolist(), strict=True):
        past = slice(samples.first[position[at]], position[at])
        asked = item[position[at : at + n]][liked[at : at + n]]
        best = retriever.top(Past(item[past], rating[past], samples.liked[past]), NUMBERS[-1], np.unique(item[past]))
        found += [np.isin(asked, best[:n]).sum() for n in NUMBERS]
    shares: list[float] = (found / liked.sum()).tolist()
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure which share of what users liked a first stage finds.")
    parser.add_argument("--ratings", nargs="+", default=["ml-100k", "ml-latest-small"], help="names or paths")
    parser.add_argument("--split", choices=["val", "test"], default="val")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    args = parser.parse_args()
    results = [measured(name, args.split) for name in args.ratings]
    publish("retrieve", results, as_json=args.json, save=args.save)


def measured(ratings: str, split: str) -> Result:
    """The table of one data set."""
    options = PrepareConfig()
    samples = build_samples(load_ratings(ratings), options)
    known = RetrieverData.of(samples)
    title = f"{ratings}, {known.items:,} items: recall of what users liked of split {split}, among the first N"
    return Result(title, list(rows_of(samples, known, split)), COLUMNS)


def rows_of(samples: Samples, known: RetrieverData, split: str) -> Iterator[dict[str, Any]]:
    """A row a retriever."""
    for k in (None, *NEIGHBOURS):
        with clock() as work:
            retriever: Retriever = ItemKNN.fit(known, k) if k else Popularity.fit(known)
        name = f"item-kNN, {k} neighbours" if k else "popularity"
        found = recalls(samples, retriever, split)
        yield {"retriever": name, "recall": dict(zip(map(str, NUMBERS), found, strict=True)), "seconds": work.seconds}


def recall_at(n: int) -> Callable[[Mapping[str, Any]], str]:
    """What a column says."""
    return lambda row: f"{row['recall'][str(n)]:.3f}"


COLUMNS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "": lambda row: row["retriever"],
    **{f"N = {n}": recall_at(n) for n in NUMBERS},
    "fitted in": lambda row: f"{number(row['seconds'])} s",
}


if __name__ == "__main__":
    main()
