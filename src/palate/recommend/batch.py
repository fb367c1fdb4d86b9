"""Recommendations for many users in a Parquet file: the command writes parts and resumes after an interruption."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console

from palate.errors import InputError
from palate.progress import Meter
from palate.recommend.recommender import Asker, Recommender
from palate.score.backend import InOrder
from palate.score.files import PARQUET_KEY
from palate.store.artifacts import atomic_file, reading, sha256_of
from palate.store.resume import LongWork

EVERY = 20.0
"""Seconds of work per part; a killed process loses at most that much, and the user at work."""


def kept_recommendations(out: Path, key: Mapping[str, Any]) -> pl.DataFrame | None:
    """The recommendations in the file `out` if they have this key, else None.

    Raises `InputError` if Palate did not write the file, so that it is not overwritten.
    """
    if not out.exists():
        return None
    try:
        found = pl.read_parquet_metadata(out).get(PARQUET_KEY)
    except (OSError, pl.exceptions.PolarsError):
        found = None
    if found is None:
        raise InputError("exists and was not written by `palate recommend`, expected another name", out)
    with reading(out):
        return pl.read_parquet(out, glob=False) if found == sha256_of(dict(key)) else None


def recommend_all(
    recommender: Recommender,
    askers: Sequence[Asker],
    users: pl.Series,
    top_k: int,
    out: Path,
    key: Mapping[str, Any],
    console: Console | None = None,
    in_order: InOrder = map,
) -> pl.DataFrame:
    """Rank for every asker into the file `out`, with the columns `user_id` and those of `Recommender.rank`.

    `users` are the askers' ids, in the same order. `key` records what the result depends on: the function returns a
    file with this key unchanged, and resumes an interrupted call with this key. A resumed call writes the same file.
    `in_order` is the language model's (see `Scorer`).
    """
    work = LongWork("recommending", out, key, len(askers), "users")

    def rank(done: int) -> pl.DataFrame:
        with Meter(work.what, len(askers), work.unit, done=done, console=console) as meter:

            def ranked(user: int) -> pl.DataFrame:
                return _ranked(recommender, askers[user], users.slice(user, 1), top_k)

            each = in_order(ranked, range(done, len(askers)))
            while done < len(askers):
                begin, since = done, time.monotonic()
                tables: list[pl.DataFrame] = []
                try:
                    while done < len(askers) and not (tables and time.monotonic() - since > EVERY):
                        tables.append(next(each))
                        done += 1
                        meter.advance(1)
                finally:
                    if tables:
                        with work.part(begin, done) as file:
                            pl.concat(tables).write_parquet(file)
        found = pl.concat([pl.read_parquet(path, glob=False) for path in work.parts()])
        with atomic_file(out) as file:
            found.write_parquet(file, metadata={PARQUET_KEY: sha256_of(dict(key))})
        return found

    return work.result(lambda: kept_recommendations(out, key), rank)


def _ranked(recommender: Recommender, asker: Asker, user: pl.Series, top_k: int) -> pl.DataFrame:
    """The rows of one asker."""
    table = recommender.rank(asker, recommender.candidates_for(asker)[0], top_k)
    return table.insert_column(0, user.alias("user_id").new_from_index(0, table.height))
