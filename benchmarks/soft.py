"""What vectors of items in the prompt add, beside titles and beside statistics in words, at equal samples.

    python benchmarks/soft.py --quick        # a tiny model on made-up ratings: does it all run?
    PALATE_DATA_DIR=… python benchmarks/soft.py --save
    PALATE_DATA_DIR=… python benchmarks/soft.py --probe --save

Each way trains the same samples with one recipe, and is scored on the same test rows. Ways are compared in pairs, the
same seeds together, over users. A row has the loss of the last tenth of the training beside that of validation: one
epoch sees each sample once, so a gap says that training shows something that validation does not.

`--probe` trains no language model. A logistic regression and boosted trees read the vectors of all samples: those
fitted without the user's part of the users, those of all ratings, and also a vector of the user. Their gaps between
training and test say how much of a training answer the vectors contain. A run that is there is not made again.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import quality
from curves import search
from palate.baselines.item_vectors import item_vectors
from palate.baselines.statistics import BaselineData
from palate.config import Config, PrepareConfig
from palate.measure.bootstrap import Interval, detectable
from palate.measure.metrics import measure
from palate.measure.paired import compare
from palate.models.item_vectors import ItemVectors
from palate.ratings.load import load_ratings
from palate.samples import build_samples
from palate.store.artifacts import sha256_of, write_json
from report import Result, in_own_process, number, publish

SAMPLES, TARGETS, ROWS = 1_280, 8, 600
PLAIN = {"history_line": "{rating:g} {title}", "candidate_line": "{title}"}
ITEMS = {"history_line": "{rating:g} {title} {item_vector}", "candidate_line": "{title} {item_vector}"}
WORDS = {"history_line": "{rating:g} {title}", "candidate_line": "{title}, rated {item_mean:.1f} by {item_count}"}
BOTH = {
    "history_line": "{rating:g} {title} {item_vector}",
    "candidate_line": "{title} {item_vector}, rated {item_mean:.1f} by {item_count}",
}
WAYS: dict[str, tuple[dict[str, str], bool]] = {
    "titles": (PLAIN, False),
    "titles and vectors": (ITEMS, False),
    "titles and vectors of all ratings": (ITEMS, True),
    "titles and statistics in words": (WORDS, False),
    "titles, statistics in words, and vectors": (BOTH, False),
}
"""The lines of the prompt, and whether training shows vectors of all ratings."""
METRICS = ("auc", "gauc", "log_loss")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what vectors of items add to a prompt.")
    parser.add_argument("--samples", type=int, default=SAMPLES, help=f"labelled examples of each run ({SAMPLES:,})")
    parser.add_argument("--rows", type=int, default=ROWS, help=f"test rows that are scored ({ROWS})")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), metavar="WAY")
    if "--probe" in sys.argv:
        probe()
        return
    search("soft", parser, measured, title, COLUMNS, compared)


def title(args: argparse.Namespace) -> str:
    """What the table is of."""
    return f"{args.samples:,} labelled examples, K = {TARGETS}, {args.rows:,} test rows"


def measured(base: Mapping[str, Any], args: argparse.Namespace, keep: Path) -> Iterator[dict[str, Any]]:
    """A row for every way and seed."""
    for name in args.ways:
        lines, leaking = WAYS[name]
        for seed in args.seeds:
            train = {"targets_per_prompt": TARGETS, "max_samples": args.samples, "save_steps": 16, "seed": seed}
            own = {"train": {**base["train"], "train_on": "answer", **train}}
            own |= {"prompt": {**base["prompt"], **lines}, "prepare": {"max_eval": quality.VALIDATION}}
            config = Config.model_validate({**base, **own})
            out = keep / sha256_of([config.model_dump(mode="json"), leaking, args.rows])[:12]
            kept = out / "row.json"
            if not kept.is_file():
                about = {"way": name, "seed": seed}
                write_json(kept, {**about, **in_own_process(trained, config, leaking, args.rows, out)})
            yield (row := json.loads(kept.read_text()))
            print(f"{name}, seed {seed}: AUC {row['metrics']['auc']:.4f}", file=sys.stderr)


def trained(config: Config, leaking: bool, rows: int, out: Path) -> dict[str, Any]:
    """Train, score test rows, and tell what came of it; `scores` has user, label and P(like) of each row."""
    from palate.commands.prepare import chat_of, evaluation_part, samples_of, tokens_of_ratings
    from palate.commands.score import load_scorer
    from palate.train.finetune import train
    from palate.train.training_prompts import FromBaseline

    tokens = tokens_of_ratings(config, chat_of(config), ["train", "val", "test"])
    samples = samples_of(config)[0]
    beside, seconds = FromBaseline(), 0.0
    if config.prompt.names_vectors:
        began = time.process_time()
        vectors = item_vectors(BaselineData.of(samples, config.seed))
        seconds = time.process_time() - began
        beside = FromBaseline(vectors=of_all_ratings(vectors) if leaking else vectors, vectors_data="benchmark")
    validation = evaluation_part(config, tokens["val"])
    result = train(config, tokens["train"], validation, out, beside=beside)
    asked = np.sort(np.random.default_rng(config.seed).permutation(len(tokens["test"]))[:rows])
    began = time.process_time()
    scores = load_scorer(config, result.adapter).score_ids(tokens["test"].prompts(asked), 8)
    scored_in = time.process_time() - began
    position = samples.position[samples.of("test")][asked]
    user, label, p = samples.user[position], samples.liked[position], scores.p.astype(np.float64)
    found = measure(label, p, user)
    return {
        "scores": {"user": user.tolist(), "label": label.tolist(), "p": [float(f"{each:.6g}") for each in p]},
        "metrics": {name: getattr(found, name) for name in METRICS},
        "train_loss": result.train_loss,
        "eval_loss": result.eval_decision_loss,
        "eval_auc": result.eval_auc,
        "seconds": result.seconds,
        "fit": seconds,
        "scored_in": scored_in,
        "tokens": float(tokens["test"].lengths.mean()),
        "weights": result.trained_weights,
    }


def of_all_ratings(vectors: ItemVectors) -> ItemVectors:
    """The vectors with those of all training ratings in place of those without a part of the users."""
    return replace(vectors, apart=np.broadcast_to(vectors.values, vectors.apart.shape))


def compared(rows: Sequence[Mapping[str, Any]]) -> Iterator[Result]:
    """Every way less the first and less the way with statistics in words, on the same rows; seeds are averaged."""
    p: dict[str, list[NDArray[np.float64]]] = {}
    for row in rows:
        p.setdefault(row["way"], []).append(np.array(row["scores"]["p"]))
    names, words = list(p), "titles and statistics in words"
    if len(names) < 2:
        return
    user, label = (np.array(rows[0]["scores"][name]) for name in ("user", "label"))
    # Logits are averaged over seeds: one model's answers would carry one draw of the samples.
    mean = {name: np.mean([np.log(each / (1 - each)) for each in found], axis=0) for name, found in p.items()}
    scores = {name: 1 / (1 + np.exp(-z)) for name, z in mean.items()}
    pairs = [(name, names[0]) for name in names[1:]]
    pairs += [(name, words) for name in names[1:] if words in names and name != words]
    found = compare(label, user, scores, pairs, resamples=1000, seed=13)
    told = [
        {"metric": each.metric, "first": each.first, "second": each.second, "value": each.value,
         "interval": None if each.interval is None else [each.interval.low, each.interval.high]}
        for name in METRICS for each in found.of(name)
    ]  # fmt: skip
    yield Result("One less another on the same rows, paired over users", told, PAIRED)


def probe() -> None:
    """Print or keep what small classical models learn from the vectors of ml-latest-small, of all samples."""
    parser = argparse.ArgumentParser(description="Measure how much of an answer the vectors contain.")
    parser.add_argument("--probe", action="store_true")
    parser.add_argument("--ratings", default="ml-latest-small", help="name or path")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    args = parser.parse_args()
    data = BaselineData.of(build_samples(load_ratings(args.ratings), PrepareConfig()))
    rows = list(probed(data))
    publish("soft-probe", [Result(f"{args.ratings}: AUC of classical models on vectors", rows, PROBED)],
            as_json=args.json, save=args.save)  # fmt: skip


def probed(data: BaselineData) -> Iterator[dict[str, Any]]:
    """A row for each kind of vectors and each model."""
    from lightgbm import LGBMClassifier
    from sklearn.linear_model import LogisticRegression

    vectors = item_vectors(data)
    for what, shown, with_user in (
        ("items, without the user's part", vectors, False),
        ("items, of all ratings", of_all_ratings(vectors), False),
        ("items, without the user's part, and user", vectors, True),
    ):
        parts = {split: columns_of(data, shown, split, with_user=with_user) for split in ("train", "val", "test")}
        for label, model in (
            ("logistic regression", LogisticRegression(max_iter=2000, C=0.1)),
            ("LightGBM", LGBMClassifier(n_estimators=200, num_leaves=15, learning_rate=0.05, n_jobs=1, verbose=-1)),
        ):
            x, y = parts["train"]
            model.fit(x, y)
            area = {}
            for split, (x, y) in parts.items():
                area[split] = measure(y, np.asarray(model.predict_proba(x))[:, 1], np.zeros(len(y), np.int64)).auc
            yield {"vectors": what, "model": label, **area}


def columns_of(
    data: BaselineData, vectors: ItemVectors, split: str, *, with_user: bool
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Columns of the samples of a split, (n, d), and their labels.

    They are the mean rating of the history, the candidate's vector, the history's vectors weighted by the deviations of
    its ratings, and the product of the two. `with_user` adds the user's static vector by ridge regression of all
    training ratings of the user, the sample's own included, and its product with the candidate's.
    """
    queries, liked = data.of_split(split)
    before = queries.anchor[:, None] - np.arange(1, data.samples.history_len + 1)
    rating = data.rating[before]
    versions = vectors.versions
    version = 1 + vectors.part if split == "train" else np.zeros(len(queries), np.int64)
    own, past = versions[version, queries.item], versions[version[:, None], data.item[before]]
    profile = ((rating - rating.mean())[:, :, None] * past).mean(axis=1)
    columns = [rating.mean(axis=1, keepdims=True), own, profile, profile * own]
    if with_user:
        user = users_of(data, vectors)[data.user[queries.anchor]]
        columns += [user, user[:, 1:] * own]
    return np.hstack(columns), liked


def users_of(data: BaselineData, vectors: ItemVectors) -> NDArray[np.float64]:
    """A static vector of each user, (users, 1 + d): ridge regression of the user's training ratings on the items'."""
    found = np.zeros((int(data.user[-1]) + 1, 1 + vectors.values.shape[1]))
    overall = data.rating[data.allowed].mean()
    rows = np.flatnonzero(data.allowed)
    for user, own in zip(*_groups(data.user[rows], rows), strict=True):
        x = np.hstack([np.ones((own.size, 1)), vectors.values[data.item[own]]])
        found[user] = np.linalg.solve(x.T @ x + 5.0 * np.eye(x.shape[1]), x.T @ (data.rating[own] - overall))
    return found


def _groups(key: NDArray[np.int64], rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[NDArray[np.int64]]]:
    """The distinct values of a sorted key, and the rows of each."""
    values, start = np.unique(key, return_index=True)
    return values, np.split(rows, start[1:])


def _interval(row: Mapping[str, Any]) -> str:
    return "" if row["interval"] is None else f"[{row['interval'][0]:+.3f}, {row['interval'][1]:+.3f}]"


COLUMNS: quality.Columns = {
    "the prompt shows": lambda row: row["way"],
    "seed": lambda row: f"{row['seed']}",
    "AUC": lambda row: f"{row['metrics']['auc']:.4f}",
    "GAUC": lambda row: "–" if row["metrics"]["gauc"] is None else f"{row['metrics']['gauc']:.4f}",
    "log loss": lambda row: f"{row['metrics']['log_loss']:.4f}",
    "last training loss": lambda row: f"{row['train_loss']:.4f}",
    "validation loss": lambda row: f"{row['eval_loss']:.4f}",
    "tokens": lambda row: f"{row['tokens']:.0f}",
    "trained weights": lambda row: f"{row['weights']:,}",
    "training": lambda row: f"{row['seconds']:.0f} s",
    "vectors fitted in": lambda row: f"{number(row['fit'])} s" if row["fit"] else "",
}
PAIRED: quality.Columns = {
    "": lambda row: row["metric"].upper().replace("_", " "),
    "of": lambda row: row["first"],
    "less that of": lambda row: row["second"],
    "difference": lambda row: f"{row['value']:+.3f}",
    "95 %": _interval,
    "detects": lambda row: "" if row["interval"] is None else f"{detectable(Interval(*row['interval'])):.3f}",
}
PROBED: quality.Columns = {
    "vectors of": lambda row: row["vectors"],
    "model": lambda row: row["model"],
    "training": lambda row: f"{row['train']:.4f}",
    "validation": lambda row: f"{row['val']:.4f}",
    "test": lambda row: f"{row['test']:.4f}",
}


if __name__ == "__main__":
    main()
