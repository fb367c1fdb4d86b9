"""What vectors of the items' text add to classical models, beside random vectors and TF-IDF.

    PALATE_DATA_DIR=… python benchmarks/text.py --save

All test rows of ml-latest-small. The control has random vectors in place of the encoder's. TF-IDF is scikit-learn's on
words, reduced to 128 columns by SVD. Each model is compared with the same one without text, by paired differences over
users. The second table has the rows of items without a rating in training or warm-up. `--layers` compares layers of a
causal language model on validation rows alone, as the default layer was chosen:

    PALATE_DATA_DIR=… python benchmarks/text.py --layers 0 6 12 18 24 30 --save
"""

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palate.baselines.registry import RANKERS
from palate.baselines.statistics import BaselineData
from palate.config import PrepareConfig
from palate.measure.bootstrap import Interval, detectable
from palate.measure.metrics import Metrics, measure
from palate.measure.paired import Paired, compare
from palate.ratings.load import load_ratings
from palate.samples import Samples, build_samples
from palate.samples.queries import Scores
from palate.store.artifacts import sha256_of
from palate.text.encoder import encoder_of
from palate.text.vectors import Vectors, encoded, item_texts
from report import Result, number, publish
from unrated import unrated

RANDOM, TFIDF = "random", "tf-idf"
WITHOUT = {"strongest-text": "strongest", "logistic-text": "logistic-knn", "text": None}
"""The model that each one with text is compared with; None: with none."""
METRICS = ("auc", "gauc", "log_loss")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what vectors of the items' text add to classical models.")
    parser.add_argument("--ratings", default="ml-latest-small", help="name or path")
    parser.add_argument("--encoders", nargs="*", default=["minilm", "smollm2-135m"], help="names or folders")
    parser.add_argument("--layers", type=int, nargs="+", help="of the last encoder, on validation rows, saved apart")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    args = parser.parse_args()
    samples = build_samples(load_ratings(args.ratings), PrepareConfig())
    if args.layers:
        found = Result(
            f"{args.encoders[-1]}, {args.ratings}", list(layers(samples, args.encoders[-1], args.layers)), LAYERS
        )
        publish("text-layers", [found], as_json=args.json, save=args.save)
        return
    sources = [RANDOM, TFIDF, *args.encoders]
    publish("text", measured(samples, args.ratings, sources, args.resamples), as_json=args.json, save=args.save)


def measured(samples: Samples, name: str, sources: Sequence[str], resamples: int) -> list[Result]:
    """The tables of all test rows, and of those of items without ratings."""
    scores: dict[str, Scores] = {}
    about: dict[str, dict[str, Any]] = {}
    for model, source, vectors, seconds in models(samples, sources):
        key = model if source is None else f"{model}, {source}"
        began = time.process_time()
        scores[key] = fitted(samples, model, vectors)
        fit = time.process_time() - began
        about[key] = {"model": RANKERS[model].label, "text": source, "encoded": seconds, "fit": fit}
    results = []
    for what, rows in (("", None), (" of items without ratings", unrated(samples))):
        found = list(rows_of(samples, scores, about, rows, resamples))
        results.append(Result(f"{name}: {found[0]['n']:,} test rows{what}", found, COLUMNS))
    return results


def models(samples: Samples, sources: Sequence[str]) -> Iterator[tuple[str, str | None, Vectors | None, float | None]]:
    """The models: key, source of the vectors, the vectors, and the processor's seconds that made them."""
    for model in ("logistic-knn", "strongest"):
        yield model, None, None, None
    for source in sources:
        began = time.process_time()
        vectors, cached = vectors_from(samples, source)
        seconds = None if cached else time.process_time() - began
        for model in WITHOUT:
            yield model, source, vectors, seconds


def vectors_from(samples: Samples, source: str) -> tuple[Vectors, bool]:
    """Vectors of the items' texts, and whether the cache had them."""
    texts = item_texts(samples.items)
    if source == RANDOM:
        return Vectors(np.random.default_rng(0).normal(size=(len(texts), 384)).astype(np.float32), RANDOM), False
    if source == TFIDF:
        return Vectors(tf_idf(texts), TFIDF), False
    encoder = encoder_of(source)
    values = encoded(texts, encoder)
    return Vectors(values, sha256_of([texts, encoder.digest()])), "loaded" not in vars(encoder)


def tf_idf(texts: Sequence[str]) -> NDArray[np.float32]:
    """TF-IDF of words, 128 columns, float32 (n, 128)."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(sublinear_tf=True, min_df=2).fit_transform(texts)
    columns = min(128, words.shape[1] - 1)
    reduced: NDArray[np.float32] = TruncatedSVD(columns, random_state=0).fit_transform(words).astype(np.float32)
    return reduced


def layers(samples: Samples, source: str, wanted: Sequence[int]) -> Iterator[dict[str, Any]]:
    """The log loss of validation rows with the vectors of each layer."""
    texts = item_texts(samples.items)
    for layer in wanted:
        encoder = encoder_of(source, layer)
        vectors = Vectors(encoded(texts, encoder), sha256_of([texts, encoder.digest()]))
        data = BaselineData.of(samples, vectors=vectors)
        queries, liked = data.of_split("val")
        row: dict[str, Any] = {"layer": layer, "n": len(liked)}
        for model in ("text", "logistic-text"):
            p = RANKERS[model].predictor(data, RANKERS[model].fitted(data))(queries)
            found = measure(liked, p, data.user[queries.anchor])
            row |= {f"{model} {name}": getattr(found, name) for name in ("auc", "log_loss")}
        yield row


def fitted(samples: Samples, model: str, vectors: Vectors | None) -> Scores:
    """P(like) of all test rows, by a model fitted on vectors."""
    data = BaselineData.of(samples, vectors=vectors)
    return RANKERS[model].predictor(data, RANKERS[model].fitted(data))(data.of_split("test")[0])


def rows_of(
    samples: Samples,
    scores: Mapping[str, Scores],
    about: Mapping[str, dict[str, Any]],
    rows: NDArray[np.int64] | None,
    resamples: int,
) -> Iterator[dict[str, Any]]:
    """A row for each model: metrics, and differences to the same model without text."""
    position = samples.position[samples.of("test")]
    among = np.arange(position.size) if rows is None else rows
    y, users = samples.liked[position[among]], samples.user[position[among]]
    own = {key: p[among] for key, p in scores.items()}
    pairs = [(key, other) for key in own if (other := WITHOUT.get(key.partition(",")[0])) is not None]
    compared = {(pair.first, pair.metric): pair for pair in compare(y, users, own, pairs, resamples=resamples).pairs}
    for key, p in own.items():
        found: Metrics = measure(y, p, users)
        differences = {m: told(pair) for m in METRICS if (pair := compared.get((key, m))) is not None}
        yield {**about[key], "n": int(y.size), **{m: getattr(found, m) for m in METRICS}, "differences": differences}


def told(pair: Paired) -> dict[str, Any]:
    """A difference with its interval, as JSON."""
    interval = None if pair.interval is None else [pair.interval.low, pair.interval.high]
    return {"value": pair.value, "interval": interval}


def difference(metric: str) -> Callable[[Mapping[str, Any]], str]:
    """What a column of differences says."""

    def say(row: Mapping[str, Any]) -> str:
        found = row["differences"].get(metric)
        if found is None or found["value"] is None or found["interval"] is None:
            return ""
        low, high = found["interval"]
        return f"{found['value']:+.4f} [{low:+.4f}, {high:+.4f}]"

    return say


def detects(row: Mapping[str, Any]) -> str:
    """What the column beside the difference in AUC says: the smallest one that these rows detect."""
    interval = row["differences"].get("auc", {}).get("interval")
    return "" if interval is None else f"{detectable(Interval(*interval)):.4f}"


def metric(name: str) -> Callable[[Mapping[str, Any]], str]:
    """What a column of a metric says."""
    return lambda row: "" if row[name] is None else f"{row[name]:.4f}"


def seconds(name: str) -> Callable[[Mapping[str, Any]], str]:
    """What a column of seconds says."""
    return lambda row: "" if row[name] is None else f"{number(row[name])} s"


COLUMNS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "": lambda row: row["model"],
    "vectors": lambda row: row["text"] or "",
    "AUC": metric("auc"),
    "GAUC": metric("gauc"),
    "log loss": metric("log_loss"),
    "AUC − without text": difference("auc"),
    "detects": detects,
    "GAUC − without text": difference("gauc"),
    "log loss − without text": difference("log_loss"),
    "encoded in": seconds("encoded"),
    "fitted in": seconds("fit"),
}
LAYERS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "layer": lambda row: f"{row['layer']}",
    "validation rows": lambda row: f"{row['n']:,}",
    "text alone, AUC": metric("text auc"),
    "text alone, log loss": metric("text log_loss"),
    "logistic regression + kNN + text, AUC": metric("logistic-text auc"),
    "logistic regression + kNN + text, log loss": metric("logistic-text log_loss"),
}


if __name__ == "__main__":
    main()
