"""Palate's baselines on test sets with published figures: CoLLM's ML-1M split, TALLRec's movies and books.

    git clone https://github.com/zyang1580/CoLLM
    git clone https://github.com/SAI990323/TALLRec
    python benchmarks/published.py --collm CoLLM --tallrec TALLRec --save

The models fit on the training part. Validation stops trees early, scales scores to probabilities, and chooses the model
that a table marks. Each row names what the model sees of the user. `docs/published.md` explains the rows.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate.baselines.registry import RANKERS
from palate.baselines.statistics import BaselineData
from palate.errors import InputError
from palate.measure.bootstrap import Interval, bootstrap, interval, user_counts
from palate.measure.metrics import logit, measure, per_user_auc
from palate.measure.paired import compare
from palate.samples.queries import Labels, Scores
from palate.text.vectors import Vectors
from published_sets import PublishedLog, collm_log, movie_log, prompt_log
from published_views import EARLIER, LIKED, PROMPT, SEED, TRAINING, data_of, only, vectors_of
from report import Result, publish

FEW_USERS = 30
"""A test part of fewer users also gets intervals over rows: they hold for these users alone."""
MODELS = (
    "history-mean",
    "online",
    "logistic",
    "logistic-knn",
    "lightgbm",
    "strongest",
    "text",
    "logistic-text",
    "strongest-text",
    "corrected",
    "corrected-text",
)
FEW = ("history-mean", "online", "logistic", "logistic-text")
"""Models that some samples can fit; the trees need hundreds."""
WITHOUT = {"logistic-text": "logistic-knn", "strongest-text": "strongest", "corrected-text": "corrected"}
SHOTS = (16, 64, 256)
BOTH = f"{LIKED}, {TRAINING}"

Says = Callable[[Mapping[str, Any]], str]
SplitScores = Mapping[str, Scores]
"""P(like) of the examples of validation and test, in the order of the log."""


@dataclass(frozen=True)
class Figure:
    """What others report: AUC, and UAUC if they give it."""

    name: str
    auc: float
    uauc: float | None = None
    samples: int | None = None
    """Training samples, where they are few."""


COLLM = (
    Figure("MF", 0.648, 0.636),
    Figure("SASRec", 0.708, 0.688),
    Figure("DIN", 0.717, 0.646),
    Figure("TALLRec (7B)", 0.710, 0.682),
    Figure("CoLLM-DIN (7B)", 0.735, 0.692),
    Figure("BinLLM (7B)", 0.743, 0.696),
    Figure("GraphLoRA (7B)", 0.747, 0.710),
)
MOVIES = tuple(Figure("TALLRec (7B)", auc, samples=n) for n, auc in zip(SHOTS, (0.6724, 0.6748, 0.7198), strict=True))
BOOKS = tuple(Figure("TALLRec (7B)", auc, samples=n) for n, auc in zip(SHOTS, (0.5636, 0.6039, 0.6438), strict=True))


@dataclass(frozen=True)
class Task:
    """A published set: its name, its log, the figures of others, and what the models may see in turn."""

    name: str
    log: PublishedLog
    figures: Sequence[Figure]
    sees: Sequence[str]
    few: bool = False
    """Whether the others trained on `SHOTS` samples."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the baselines with figures that others published.")
    parser.add_argument("--collm", type=Path, help="clone of CoLLM")
    parser.add_argument("--tallrec", type=Path, help="clone of TALLRec")
    parser.add_argument(
        "--encoder", default="minilm", help="name or folder of a text encoder; random and tf-idf are controls"
    )
    parser.add_argument("--models", nargs="*", choices=MODELS, default=MODELS)
    parser.add_argument("--seeds", type=int, default=10, help="draws of few training samples")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    args = parser.parse_args()
    if args.collm is None and args.tallrec is None:
        parser.error("expected --collm, --tallrec or both")
    try:
        tasks = list(tasks_of(args.collm, args.tallrec))
    except InputError as error:
        parser.error(str(error))
    results: list[Result] = []
    for task in tasks:
        results += measured(task, args.models, args.encoder, args.seeds, args.resamples)
    publish("published", results, as_json=args.json, save=args.save)


def tasks_of(collm: Path | None, tallrec: Path | None) -> Iterator[Task]:
    """The sets of the folders."""
    if collm is not None:
        yield Task("CoLLM's ML-1M", collm_log(collm), COLLM, (LIKED, TRAINING, BOTH, EARLIER))
    if tallrec is not None:
        movies = movie_log(tallrec / "data" / "movie")
        has_times = movies.frame["user"].n_unique() < movies.examples.size
        yield Task("TALLRec's movies", movies, MOVIES, (PROMPT, EARLIER) if has_times else (PROMPT,), few=True)
        yield Task("TALLRec's books", prompt_log(tallrec / "data" / "book"), BOOKS, (PROMPT,), few=True)


def measured(task: Task, models: Sequence[str], encoder: str, seeds: int, resamples: int) -> list[Result]:
    """The tables of a set: with all training samples, and with few ones."""
    vectors = vectors_of(task.log, encoder)
    split = task.log.frame["split"]
    sizes = {name: int((split == name).sum()) for name in ("train", "val", "test")}
    users = task.log.frame.filter(pl.col("split") == "test")["user"].n_unique()
    title = "{}: fitted on {train:,}, validated on {val:,}, tested on {test:,} rows".format(task.name, **sizes)
    title += f" of {users:,} users" + (f"; {task.log.note}" if task.log.note else "")
    rows = [published(figure) for figure in task.figures if not task.few]
    rows += full_rows(task, models, vectors, resamples)
    results = [Result(title, rows, filled(COLUMNS, rows))]
    if task.few:
        few = [*map(published, task.figures), *few_rows(task, vectors, seeds, resamples)]
        few.sort(key=lambda row: row["samples"])
        results.append(Result(f"{task.name}: few training samples, {seeds} draws", few, filled(FEW_COLUMNS, few)))
    return results


def filled(columns: Mapping[str, Says], rows: Sequence[Mapping[str, Any]]) -> dict[str, Says]:
    """The columns that say something of a row."""
    return {name: says for name, says in columns.items() if any(map(says, rows))}


def full_rows(task: Task, models: Sequence[str], vectors: Vectors, resamples: int) -> list[dict[str, Any]]:
    """A row for each model and what it sees; for each of the latter the one of highest validation AUC is marked."""
    best_auc = max(figure.auc for figure in task.figures)
    best_uauc = max((figure.uauc for figure in task.figures if figure.uauc is not None), default=None)
    rows: list[dict[str, Any]] = []
    scores: dict[str, dict[str, SplitScores]] = {}
    for sees in task.sees:
        if sees == BOTH:
            scores[sees] = {key: mean_of([scores[part][key] for part in (LIKED, TRAINING)]) for key in scores[LIKED]}
        else:
            data = data_of(task.log, sees, vectors)
            own = [key for key in models if key != "history-mean" or sees in (PROMPT, EARLIER)]  # likes have one mean
            scores[sees] = {key: scored(data, key) for key in own}
        found = []
        for key, own_scores in scores[sees].items():
            about = {"model": RANKERS[key].label, "key": key, "sees": sees}
            difference = gain(task.log, scores[sees], key, resamples)
            found.append(
                about
                | measured_row(task.log, own_scores, (best_auc, best_uauc), resamples)
                | {"difference": difference}
            )
        max(found, key=lambda row: float(row["validation"]))["chosen"] = True
        rows += found
    return rows


def scored(data: BaselineData, key: str) -> SplitScores:
    """P(like) by a model for the validation and the test examples, in the order of the log."""
    baseline = RANKERS[key]
    predict = baseline.predictor(data, baseline.fitted(data))
    return {split: predict(data.of_split(split)[0]) for split in ("val", "test")}


def few_rows(task: Task, vectors: Vectors, seeds: int, resamples: int) -> Iterator[dict[str, Any]]:
    """A row for each number of samples and model: the mean over draws of samples."""
    bests = {figure.samples: figure.auc for figure in task.figures}
    train = np.flatnonzero((task.log.frame["split"] == "train").to_numpy())
    y, users = task.log.labels("test")
    for shots in (n for n in SHOTS if n <= train.size):
        scores: dict[str, dict[str, Scores]] = {key: {} for key in FEW}
        for seed in range(seeds):
            drawn = np.sort(np.random.default_rng(seed).choice(train, shots, replace=False))
            data = data_of(only(task.log, drawn), PROMPT, vectors)
            for key in FEW:
                scores[key][str(seed)] = scored(data, key)["test"]
        for key, draws in scores.items():
            aucs = [measure(y, p, users).auc or 0.5 for p in draws.values()]
            between, over_rows = (mean_interval(y, draws, units, resamples) for units in (users, np.arange(y.size)))
            about = {
                "model": RANKERS[key].label,
                "key": key,
                "samples": shots,
                "auc": float(np.mean(aucs)),
                "aucs": aucs,
            }
            few_users = np.unique(users).size < FEW_USERS
            intervals = {"auc_interval": ends(between), "over_rows": ends(over_rows) if few_users else None}
            yield about | intervals | {"against": verdict(between, bests[shots])}


def mean_of(parts: Sequence[SplitScores]) -> SplitScores:
    """The mean of models' logits as P(like), for each split."""
    mean = {split: np.mean([logit(part[split]) for part in parts], axis=0) for split in parts[0]}
    return {split: 1 / (1 + np.exp(-z)) for split, z in mean.items()}


def measured_row(
    log: PublishedLog, scores: SplitScores, best: tuple[float, float | None], resamples: int
) -> dict[str, Any]:
    """Metrics with intervals over users, and on which side of the best published AUC and UAUC these lie."""
    val_y, val_users = log.labels("val")
    valid = measure(val_y, scores["val"], val_users)
    (y, users), p = log.labels("test"), scores["test"]
    found = measure(y, p, users)
    between, over_rows = (mean_interval(y, {"": p}, units, resamples) for units in (users, np.arange(y.size)))
    of_users = uauc_interval(y, p, users, resamples)
    return {
        "validation": valid.auc,
        "auc": found.auc,
        "auc_interval": ends(between),
        "over_rows": ends(over_rows) if found.users < FEW_USERS else None,
        "uauc": found.gauc_mean,
        "uauc_interval": ends(of_users),
        "uauc_users": found.gauc_users,
        "against": verdict(between, best[0]),
        "uauc_against": verdict(of_users, best[1]),
    }


def mean_interval(y: Labels, scores: Mapping[str, Scores], units: NDArray[np.int64], resamples: int) -> Interval | None:
    """The interval of the mean AUC of some models over users, or over other units of resampling."""
    replicates = bootstrap(y, units, scores, resamples=resamples, seed=SEED)
    return interval(np.mean([found["auc"] for found in replicates.values()], axis=0)) if resamples else None


def uauc_interval(y: Labels, p: Scores, users: NDArray[np.int64], resamples: int) -> Interval | None:
    """The interval of the mean of the users' AUCs, over users with both classes."""
    aucs = per_user_auc(y, p, users)[0]
    aucs = aucs[~np.isnan(aucs)]
    found = [counts @ aucs / aucs.size for counts in user_counts(aucs.size, resamples, resamples, SEED)]
    return interval(np.concatenate(found)) if found else None


def gain(log: PublishedLog, scores: Mapping[str, SplitScores], key: str, resamples: int) -> dict[str, Any] | None:
    """What vectors of titles add to a model's AUC, paired over users."""
    other = WITHOUT.get(key)
    if other is None or other not in scores:
        return None
    y, users = log.labels("test")
    both = {name: scores[name]["test"] for name in (key, other)}
    pair = compare(y, users, both, [(key, other)], resamples=resamples, seed=SEED).of("auc")[0]
    return {"value": pair.value, "interval": ends(pair.interval)}


def ends(between: Interval | None) -> list[float] | None:
    """An interval as JSON."""
    return None if between is None else [between.low, between.high]


def verdict(between: Interval | None, figure: float | None) -> str:
    """Whether an interval lies above or below a figure, or contains it."""
    if between is None or figure is None:
        return ""
    return "above" if between.low > figure else "below" if between.high < figure else "contains"


def published(figure: Figure) -> dict[str, Any]:
    """The row of a figure that others report."""
    return {"model": f"{figure.name}, published", "auc": figure.auc, "uauc": figure.uauc, "samples": figure.samples}


def value(name: str) -> Says:
    """What a column of a metric says: the value, and its interval if there is one."""

    def say(row: Mapping[str, Any]) -> str:
        if row.get(name) is None:
            return ""
        between = row.get(f"{name}_interval")
        tail = "" if between is None else f" [{between[0]:.3f}, {between[1]:.3f}]"
        return f"{row[name]:.3f}{tail}"

    return say


def _over_rows(row: Mapping[str, Any]) -> str:
    between = row.get("over_rows")
    return "" if between is None else f"[{between[0]:.3f}, {between[1]:.3f}]"


def _difference(row: Mapping[str, Any]) -> str:
    found = row.get("difference")
    if found is None or found["interval"] is None:
        return ""
    low, high = found["interval"]
    return f"{found['value']:+.4f} [{low:+.4f}, {high:+.4f}]"


def _spread(row: Mapping[str, Any]) -> str:
    return f"{min(row['aucs']):.3f} to {max(row['aucs']):.3f}" if "aucs" in row else ""


COLUMNS: Mapping[str, Says] = {
    "": lambda row: f"**{row['model']}**" if row.get("chosen") else row["model"],
    "sees of the user": lambda row: row.get("sees", ""),
    "AUC": value("auc"),
    "interval over rows": _over_rows,
    "interval to best published": lambda row: row.get("against", ""),
    "UAUC": value("uauc"),
    "interval to best published UAUC": lambda row: row.get("uauc_against", ""),
    "validation AUC": value("validation"),
    "AUC − without titles": _difference,
}
FEW_COLUMNS: Mapping[str, Says] = {
    "": lambda row: row["model"],
    "training samples": lambda row: str(row["samples"]),
    "AUC, mean of draws": value("auc"),
    "interval over rows": _over_rows,
    "lowest to highest draw": _spread,
    "interval to published at this number": lambda row: row.get("against", ""),
}


if __name__ == "__main__":
    main()
