"""What fine-tuning the text encoder on the log adds to the models that read its vectors.

    PALATE_DATA_DIR=… python benchmarks/tuned.py --save
    PALATE_DATA_DIR=… python benchmarks/tuned.py --quick        # a few steps: does it all run?

The last layers of the encoder are trained to make a user's next ratings predictable from earlier ones: a kernel ridge
regression with the texts' vectors predicts what the item means leave of the ratings, and its squared error is the loss
(deep kernel learning, Wilson et al. 2016, arXiv 1511.02222, with one small regression for each user). So the vectors
learn which texts the same users like. A fit for each part of the users leaves out the part's ratings, and the part's
features are of this fit: no sample's features have seen its answer. The columns stand beside those of the frozen
encoder. Second table: `cold-items`, where a fifth of the items is in test alone. A fit that is there is not made again.
"""

import argparse
import copy
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from palate.baselines.features import GROUPS
from palate.baselines.learned import SMALL_TREES, boosted_trees, logistic_regression
from palate.baselines.registry import EVERYTHING, STRONGEST, TEXT, TEXT_ALONE, Baseline
from palate.baselines.statistics import PARTS, BaselineData, Floats
from palate.baselines.text import text_features
from palate.config import PrepareConfig
from palate.measure.bootstrap import detectable
from palate.measure.metrics import measure
from palate.measure.paired import compare
from palate.ratings.load import load_ratings
from palate.samples import Samples, build_samples
from palate.samples.queries import Queries
from palate.store.artifacts import atomic_file, sha256_of
from palate.text.encoder import Encoder, encoder_of
from palate.text.vectors import Vectors, encoded, item_texts
from report import Result, publish
from text import difference, metric

TUNED = "tuned"
"""The group of features by the tuned encoders."""
METRICS = ("auc", "gauc", "log_loss")
PAST, NEXT, USERS = 64, 24, 8
"""Ratings that a regression is fitted on, those that it predicts, and users in a step."""
LONGEST = 40
"""Tokens of a text that are read; titles with genres have 20 in the mean."""
PENALTY, SCALE = 3.0, 3.0
"""Where the logarithm of the ridge penalty and the vectors' scale begin: near the frozen encoder's best."""
RATE = 1e-4
BATCH = 128
"""Texts in a forward pass."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what fine-tuning the text encoder on the log adds.")
    parser.add_argument("--ratings", default="ml-latest-small", help="name or path")
    parser.add_argument("--encoder", default="minilm", help="name or folder of an encoder such as BERT")
    parser.add_argument("--splits", nargs="+", default=["user-time", "cold-items"], help="of the samples")
    parser.add_argument("--layers", type=int, default=2, help="last layers that are trained (2)")
    parser.add_argument("--steps", type=int, default=110, help="steps of each fit (110)")
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark-tuned"), help="where fits are kept")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--quick", action="store_true", help="two steps of each fit")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    args = parser.parse_args()
    if args.quick:
        args.steps, args.resamples = 2, 100
    ratings = load_ratings(args.ratings)
    results = []
    for split in args.splits:
        samples = build_samples(ratings, PrepareConfig(split=split))
        rows = list(measured(samples, args))
        results.append(Result(f"{args.ratings}, {split}: {rows[0]['n']:,} test rows", rows, COLUMNS))
    publish("tuned", results, as_json=args.json, save=args.save)


def measured(samples: Samples, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each model with the frozen encoder alone, and with the tuned ones beside it."""
    encoder, texts = encoder_of(args.encoder), item_texts(samples.items)
    frozen = Vectors(encoded(texts, encoder), sha256_of([texts, encoder.digest()]))
    data = BaselineData.of(samples, vectors=frozen)
    parts = []
    for part in range(PARTS):
        about = [frozen.identity, args.layers, args.steps, part, samples.timeline["split"].cast(str).to_list()]
        kept = args.folder / f"{sha256_of(about)[:12]}.npy"
        if not kept.is_file():
            began = time.process_time()
            values = tuned(data, part, encoder, texts, args.layers, args.steps)
            kept.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(kept) as file:
                np.save(file, values)
            print(f"part {part + 1} of {PARTS}: {time.process_time() - began:.0f} s of processor", file=sys.stderr)
        parts.append(Vectors(np.load(kept), kept.stem))
    GROUPS[TUNED] = partial(tuned_features, parts)
    scores, names = {}, {}
    for label, with_text, fit in MODELS:
        for beside in ((), (TUNED,)):
            model = Baseline(label, label, *fit((*with_text, *beside)))
            key = f"{label}, {TUNED}" if beside else label
            scores[key] = model.predictor(data, model.fitted(data))(data.of_split("test")[0])
            names[key] = label
    position = samples.position[samples.of("test")]
    y, users = samples.liked[position], samples.user[position]
    pairs = [(key, label) for key, label in names.items() if key != label]
    compared = {
        (pair.first, pair.metric): pair for pair in compare(y, users, scores, pairs, resamples=args.resamples).pairs
    }
    for key, p in scores.items():
        found = measure(y, p, users)
        differences = {
            m: {"value": pair.value, "interval": pair.interval and [pair.interval.low, pair.interval.high]}
            for m in METRICS
            if (pair := compared.get((key, m))) is not None
        }
        auc = compared.get((key, "auc"))
        yield {
            "model": names[key],
            "encoder": args.encoder if key == names[key] else f"{args.encoder}, and {TUNED}",
            "n": int(y.size),
            **{m: getattr(found, m) for m in METRICS},
            "differences": differences,
            "detects": None if auc is None or auc.interval is None else detectable(auc.interval),
        }


MODELS: Sequence[tuple[str, tuple[str, ...], Callable[..., Any]]] = (
    ("text alone", TEXT_ALONE, logistic_regression),
    ("logistic regression + kNN + text", EVERYTHING + TEXT, logistic_regression),
    ("LightGBM (strongest) + text", STRONGEST + TEXT, lambda groups: boosted_trees(groups, **SMALL_TREES)),
)


def tuned_features(parts: Sequence[Vectors], data: BaselineData, queries: Queries) -> dict[str, Floats]:
    """The features of the user's taste, each user's by the vectors that were fitted without the user's part.

    The prior and the components are left out: those of two fits are no column of one meaning.
    """
    part_of = data.fold[queries.anchor] % PARTS
    columns: dict[str, Floats] = {}
    for part, vectors in enumerate(parts):
        rows = np.flatnonzero(part_of == part)
        apart = replace(data, vectors=vectors, sums=OWN_SUMS.setdefault(vectors.identity, {}))
        for name, values in text_features(apart, queries.take(rows)).items():
            if not name.startswith("text ") or name == "text ridge":
                columns.setdefault(f"{TUNED} {name}", np.empty(len(queries)))[rows] = values
    return columns


OWN_SUMS: dict[str, dict[str, Floats]] = {}
"""What `text_features` keeps for each fit's vectors."""


def tuned(
    data: BaselineData, part: int, encoder: Encoder, texts: Sequence[str], layers: int, steps: int
) -> NDArray[np.float32]:
    """The vectors of all texts by an encoder that was tuned without the ratings of a part of the users, (items, d)."""
    torch.manual_seed(part)
    rng = np.random.default_rng(part)
    net = Top(encoder, texts, layers)
    residual = torch.tensor(data.residual, dtype=torch.float32)
    penalty, scale = (torch.nn.Parameter(torch.tensor(value)) for value in (PENALTY, SCALE))
    own = {"params": net.weights, "lr": RATE, "weight_decay": 0.01}
    optimizer = torch.optim.AdamW([own, {"params": [penalty, scale], "lr": 5e-3, "weight_decay": 0.0}])
    waiting: list[tuple[NDArray[np.int64], int]] = []
    for step in range(steps):
        while len(waiting) < USERS:
            waiting += windows(data, part, rng)
        group, waiting = waiting[:USERS], waiting[USERS:]
        items = np.unique(np.concatenate([data.item[rows] for rows, _ in group]))
        x = (net(items) - net.mean) * scale
        errors = [
            squared_errors(x[np.searchsorted(items, data.item[rows])], residual[rows], past, penalty)
            for rows, past in group
        ]
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / steps)
        torch.cat(errors).mean().backward()
        torch.nn.utils.clip_grad_norm_(net.weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        values: NDArray[np.float32] = net(np.arange(len(texts))).numpy()
    return values


def squared_errors(x: torch.Tensor, residual: torch.Tensor, past: int, penalty: torch.Tensor) -> torch.Tensor:
    """Errors of a user's later residuals by a ridge regression on the first `past`; `x` is (n, d)."""
    known, mean = x[:past], residual[:past].sum() / (past + 2)
    kernel = known @ known.T + penalty.exp() * torch.eye(past)
    weights = known.T @ torch.linalg.solve(kernel, residual[:past] - mean)
    return (mean + x[past:] @ weights - residual[past:]) ** 2


def windows(data: BaselineData, part: int, rng: np.random.Generator) -> list[tuple[NDArray[np.int64], int]]:
    """Rows of training ratings of one user in order, and how many of them are the past; users of `part` have none."""
    allowed = np.flatnonzero(data.allowed & (data.fold % PARTS != part))
    found = []
    for rows in np.split(allowed, np.flatnonzero(np.diff(data.user[allowed])) + 1):
        for _ in range(max(1, rows.size // (PAST + NEXT)) if rows.size >= 12 else 0):
            end = int(rng.integers(8, rows.size - 2))
            begin = max(0, end - PAST)
            found.append((rows[begin : end + NEXT], end - begin))
    return [found[at] for at in rng.permutation(len(found))]


class Top:
    """The last layers of an encoder such as BERT, on kept hidden states of the layer below: `Top(items)` is (n, d)."""

    def __init__(self, encoder: Encoder, texts: Sequence[str], layers: int) -> None:
        model, tokenizer, _ = encoder.loaded
        ids = tokenizer(list(texts), truncation=True, max_length=LONGEST)["input_ids"]
        self.lengths = np.array([len(row) for row in ids])
        self.layers = model.encoder.layer[-layers:]
        self.states = torch.zeros(len(ids), int(self.lengths.max()), model.config.hidden_size, dtype=torch.bfloat16)
        for rows, mask in self._batches(np.arange(len(ids))):
            tokens = torch.zeros(mask.shape, dtype=torch.long)
            tokens[mask] = torch.tensor([token for row in rows for token in ids[row]])
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                below = model(input_ids=tokens, attention_mask=mask.long(), output_hidden_states=True)
            self.states[rows, : mask.shape[1]] = below.hidden_states[-layers - 1].bfloat16()
        # `encoder.loaded` is shared by the fits: each starts from a copy of the encoder's own weights.
        self.layers = torch.nn.ModuleList([_copied(layer) for layer in self.layers])
        self.weights = list(self.layers.parameters())
        with torch.no_grad():
            self.mean = self(np.arange(len(ids))).mean(dim=0)

    def __call__(self, items: NDArray[np.int64]) -> torch.Tensor:
        """Vectors of unit length."""
        order, pooled = [], []
        for rows, mask in self._batches(items):
            x, away = self.states[rows, : mask.shape[1]], torch.zeros(mask.shape).masked_fill(~mask, -1e4)
            with torch.autocast("cpu", torch.bfloat16):
                for layer in self.layers:
                    x = layer(x, away[:, None, None].bfloat16())
                    x = x[0] if isinstance(x, tuple) else x
            order.append(rows)
            pooled.append((x.float() * mask[..., None]).sum(dim=1))
        vectors = torch.nn.functional.normalize(torch.cat(pooled), dim=1)
        return vectors[np.argsort(np.concatenate(order))]

    def _batches(self, items: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], torch.Tensor]]:
        """Items of similar length, and the mask of their tokens."""
        order = items[np.argsort(self.lengths[items], kind="stable")]
        for begin in range(0, order.size, BATCH):
            rows = order[begin : begin + BATCH]
            lengths = torch.tensor(self.lengths[rows])
            yield rows, torch.arange(int(lengths.max())) < lengths[:, None]


def _copied(layer: torch.nn.Module) -> torch.nn.Module:
    """A copy whose weights are trained, without dropout."""
    own = copy.deepcopy(layer).requires_grad_(True)
    for module in own.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return own


COLUMNS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "": lambda row: row["model"],
    "encoder": lambda row: row["encoder"],
    "AUC": metric("auc"),
    "GAUC": metric("gauc"),
    "log loss": metric("log_loss"),
    "AUC − frozen alone": difference("auc"),
    "detects": lambda row: "" if row["detects"] is None else f"{row['detects']:.4f}",
    "GAUC − frozen alone": difference("gauc"),
    "log loss − frozen alone": difference("log_loss"),
}


if __name__ == "__main__":
    main()
