"""Recommendations for many users in a Parquet file: written in parts, taken up again after an interruption."""

import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from palate.errors import InputError
from palate.progress import Meter
from palate.recommend.recommender import Asker, Recommender
from palate.score.files import PARQUET_KEY
from palate.store.artifacts import atomic_file, sha256_of
from palate.store.resume import take_up

if TYPE_CHECKING:
    from rich.console import Console

log = logging.getLogger(__name__)

EVERY = 20.0
"""Seconds of work in a part: what a killed process loses at most, one user beside."""


def is_kept(out: Path, key: Mapping[str, Any]) -> bool:
    """Whether the file holds the recommendations of this key.

    Raises `InputError` for a file that is none of Palate's, which would be replaced.
    """
    if not out.exists():
        return False
    try:
        found = pl.read_parquet_metadata(out).get(PARQUET_KEY)
    except (OSError, pl.exceptions.PolarsError):
        found = None
    if found is None:
        raise InputError("exists and was not written by `palate recommend`, expected another name", out)
    return bool(found == sha256_of(dict(key)))


def recommend_all(
    recommender: Recommender,
    askers: Sequence[Asker],
    users: pl.Series,
    top_k: int,
    out: Path,
    key: Mapping[str, Any],
    console: "Console | None" = None,
) -> pl.DataFrame:
    """Rank for every asker into the file `out`, whose rows are those of `Recommender.rank` behind `user_id`.

    `users` are the askers' ids, in their order. `key` says what the result depends on: parts that an interrupted
    call with the same key has left in `out.parts/` are taken over, so that the file is the same as without.
    """
    parts = out.with_name(f"{out.name}.parts")
    done = 0
    if take_up(parts, key, "recommending"):
        done = max((int(path.stem.split("-")[1]) for path in parts.glob("*.parquet")), default=0)
        log.info("resuming: %s of %s users have recommendations", f"{done:,}", f"{len(askers):,}")
    tables: list[pl.DataFrame] = []

    def keep() -> None:
        """Write what is finished."""
        if tables:
            with atomic_file(parts / f"{done - len(tables):010d}-{done:010d}.parquet") as file:
                pl.concat(tables).write_parquet(file)
            tables.clear()

    with Meter("recommending", len(askers), "users", done=done, console=console) as meter:
        kept = time.monotonic()
        try:
            for asker in askers[done:]:
                item, _ = recommender.asked(asker)
                table = recommender.rank(asker, item, top_k)
                user = users.slice(done, 1).alias("user_id").new_from_index(0, table.height)
                tables.append(table.insert_column(0, user))
                done += 1
                meter.advance(1)
                if time.monotonic() - kept > EVERY:
                    keep()
                    kept = time.monotonic()
        finally:
            keep()
    found = pl.concat([pl.read_parquet(path, glob=False) for path in sorted(parts.glob("*.parquet"))])
    with atomic_file(out) as file:
        found.write_parquet(file, metadata={PARQUET_KEY: sha256_of(dict(key))})
    shutil.rmtree(parts)
    return found
