"""How long it takes to measure: metrics with intervals, paired tests, slices, and rankings of the whole catalogue.

    python benchmarks/metrics.py --quick         # 50 resamples, 2 models
    python benchmarks/metrics.py --save          # 1,000 resamples, 16 models; kept in benchmarks/results/

The scores are random: what they are does not change the work. Making them is not counted.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from palate.config import PrepareConfig
from palate.errors import InputError
from palate.measure.bootstrap import bootstrap
from palate.measure.candidates import candidate_sets
from palate.measure.metrics import measure
from palate.measure.paired import compare
from palate.measure.ranking import rank
from palate.measure.ranking_table import ranking_table
from palate.measure.seeds import over_seeds
from palate.measure.slices import measure_slices
from palate.ratings.load import load_ratings
from palate.samples import Samples, build_samples
from palate.samples.queries import Queries
from report import Result, clock, number, publish


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how long it takes to measure.")
    parser.add_argument("--ratings", default="ml-latest-small", help="a data set's name or path")
    parser.add_argument("--quick", action="store_true", help="50 resamples, 2 models")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    options = parser.parse_args()
    try:
        samples = build_samples(load_ratings(options.ratings), PrepareConfig())
    except InputError as error:
        sys.exit(f"error: {error}")
    resamples, models = (50, 2) if options.quick else (1000, 16)
    rows = list(timed(samples, resamples, models))
    title = f"{samples.of('test').size:,} test samples, {resamples:,} resamples of users"
    columns: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
        "": lambda row: row["what"],
        "models": lambda row: str(row["models"]),
        "seconds": lambda row: number(row["seconds"]),
        "highest memory": lambda row: f"{row['peak'] / 2**20:,.0f} MiB",
    }
    publish("metrics", [Result(title, rows, columns)], as_json=options.json, save=options.save)


def timed(samples: Samples, resamples: int, models: int) -> Iterator[Mapping[str, Any]]:
    """Each kind of measuring, with how many models it measures."""
    test = samples.of("test")
    y, users = samples.label[test], samples.timeline["user_id"].rle_id().to_numpy()[samples.position[test]]
    users = users.astype(np.int64)
    rng = np.random.default_rng(0)
    scores = {f"model {i}": 1 / (1 + np.exp(-(y + rng.normal(size=y.size)))) for i in range(models)}
    first, second = list(scores)[:2]
    sets, ranked = candidate_sets(samples), {}
    noise: np.ndarray = rng.random(2 * samples.items.height)

    def predict(asked: Queries) -> np.ndarray:
        found: np.ndarray = noise[asked.item + asked.anchor % samples.items.height]
        return found

    def rankings() -> None:
        ranked.update({key: rank(sets, predict) for key in scores})

    work: list[tuple[str, int, Callable[[], Any]]] = [
        ("metrics", models, lambda: [measure(y, p, users) for p in scores.values()]),
        ("intervals", models, lambda: bootstrap(y, users, scores, resamples=resamples, seed=13)),
        ("paired tests", 2, lambda: compare(y, users, scores, [(first, second)], resamples=resamples)),
        (
            "seeds",
            2,
            lambda: over_seeds(y, users, {k: scores[k] for k in (first, second)}, name="m", resamples=resamples),
        ),
        (
            "slices",
            2,
            lambda: measure_slices(
                samples, {k: scores[k] for k in (first, second)}, model=first, baseline=second, resamples=resamples
            ),
        ),
        (f"rankings of {len(sets):,} users × {sets.items:,} items", models, rankings),
        ("intervals of rankings", models, lambda: ranking_table(ranked, baselines=[first], resamples=resamples)),
    ]
    measure(y, scores[first], users)  # scikit-learn is imported once
    for what, count, call in work:
        with clock() as spent:
            call()
        yield {"what": what, "models": count, "seconds": spent.seconds, "peak": spent.peak}


if __name__ == "__main__":
    main()
