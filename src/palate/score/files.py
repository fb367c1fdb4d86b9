"""Scores in a file: written as they come, taken up again after an interruption."""

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from palate.artifacts import atomic_file, sha256_of, write_json
from palate.errors import InputError
from palate.progress import Meter
from palate.score.scorer import Scorer
from palate.tokens.dataset import TokenDataset

if TYPE_CHECKING:
    from rich.console import Console

log = logging.getLogger(__name__)

BATCHES_A_PART = 16
"""Batches that are sorted by length together, and lost together if the work is interrupted."""
KEY = "key.json"
COLUMNS = ("row", "user_id", "item_id", "label", "p", "mass")


def score_file(
    scorer: Scorer,
    tokens: TokenDataset,
    about: pl.DataFrame,
    rows: Sequence[int] | None,
    *,
    out: Path,
    batch_size: int,
    key: Mapping[str, Any],
    console: "Console | None" = None,
) -> pl.DataFrame:
    """Score samples (by index; None: all) of a token dataset into the Parquet file `out`.

    `about` has `user_id` and `item_id` of every sample. `key` says what the scores depend on beside the rows:
    model, adapter, tokens. Scores that lie there with the same key are taken over, finished or in parts
    (`out.parts/`); others are removed, and the log says so. Returns row, user_id, item_id, label (bool), p and
    mass (float32), in the order of the rows.

    Raises `InputError` for rows beyond the end.
    """
    wanted = sorted({int(row) for row in (range(len(tokens)) if rows is None else rows)})
    if wanted and wanted[-1] >= len(tokens):
        beyond = next(row for row in wanted if row >= len(tokens))
        raise InputError(f"there is no row {beyond} among {len(tokens):,} {tokens.split} samples", "rows")
    key = {**key, "rows": "all" if rows is None else sha256_of(wanted)}
    digest = sha256_of(key)
    if out.is_file() and pl.read_parquet_metadata(out).get("palate.key") == digest:
        log.info("scores in %s are kept: same model, adapter, data and prompt", out)
        return pl.read_parquet(out, glob=False)
    parts = out.with_name(f"{out.name}.parts")
    done = _believed(parts, digest, key)
    left = [row for row in wanted if row not in done]
    size = batch_size * BATCHES_A_PART
    with Meter(f"scoring {out.stem}", len(wanted), done=len(done), console=console) as meter:
        for start in range(0, len(left), size):
            window = left[start : start + size]
            p, mass = scorer.score_ids(tokens.prompts(window), batch_size, on_batch=meter.advance)
            part = about[window].with_columns(
                row=pl.Series(window), label=pl.Series(tokens.labels[window]), p=p, mass=mass
            )
            with atomic_file(parts / f"{window[0]:010d}.parquet") as file:
                part.select(COLUMNS).write_parquet(file)
    files = sorted(parts.glob("*.parquet"))
    empty = about.clear().with_columns(row=pl.lit(0, pl.Int64), label=pl.lit(None, pl.Boolean), p=None, mass=None)
    scores = pl.concat([pl.read_parquet(f, glob=False) for f in files]) if files else empty.select(COLUMNS)
    scores = scores.sort("row")
    with atomic_file(out) as file:
        scores.write_parquet(file, metadata={"palate.key": digest})
    shutil.rmtree(parts)
    return scores


def _believed(parts: Path, digest: str, key: Mapping[str, Any]) -> set[int]:
    """The rows that an interrupted run with the same key has scored; parts of any other are removed."""
    try:
        before = json.loads((parts / KEY).read_text())
    except (OSError, ValueError):
        before = None
    if before is None or before.get("sha256") != digest:
        if before is not None:
            changed = sorted(k for k in key if before.get("key", {}).get(k) != json.loads(json.dumps(key[k])))
            log.info("scoring starts over: %s changed since %s was written", ", ".join(changed), parts)
        shutil.rmtree(parts, ignore_errors=True)
        write_json(parts / KEY, {"sha256": digest, "key": dict(key)})
        return set()
    done: set[int] = set()
    for path in parts.glob("*.parquet"):
        done.update(pl.read_parquet(path, columns=["row"], glob=False)["row"].to_list())
    if done:
        log.info("scoring goes on: %d rows were scored before", len(done))
    return done
