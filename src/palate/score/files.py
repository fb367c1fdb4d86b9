"""Files of scores: scoring writes them in parts and resumes after an interruption."""

import json
import logging
import struct
import time
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from palate.errors import InputError
from palate.progress import Meter
from palate.score.backend import AnswerScores
from palate.score.scorer import Scorer
from palate.store.artifacts import atomic_file, read_json, sha256_of, write_json
from palate.store.keys import reason
from palate.store.parquet import metadata_of, read_parquet
from palate.store.resume import LongWork
from palate.tokens.dataset import TokenDataset

log = logging.getLogger(__name__)

BATCHES_A_PART = 16
"""Batches per part: scoring sorts their prompts by length together, and an interruption loses them together."""
COLUMNS = ("row", "user_id", "item_id", "label", "p", "mass", "logit")
_KINDS = {"row": "iu", "label": "b", "p": "f", "mass": "f", "logit": "f"}
_BOUNDS = {"row": (0, np.inf), "p": (0, 1), "mass": (0, 1.01)}  # `mass` is a sum in single precision
_EXPECTED = {"row": "whole numbers from 0", "label": "true and false", "p": "numbers from 0 to 1"}
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, ValueError, TypeError, LookupError,
           OverflowError, RuntimeError)  # fmt: skip
"""Exceptions of `numpy`, `zipfile` and `json` for a file that is damaged or that Palate did not write."""
PARQUET_KEY = "palate.key"
PARQUET_MADE_FROM = "palate.made_from"

Columns = dict[str, NDArray[Any]]
"""One array per column, ordered by row: row (int64), user_id, item_id, label (bool), p, mass, logit (float32)."""


@dataclass(frozen=True)
class Scored:
    """A file of scores: its columns, and the key that records what they depend on."""

    columns: Columns
    key: dict[str, Any]


def score_file(
    scorer: Scorer,
    tokens: TokenDataset,
    ids: Mapping[str, NDArray[Any]],
    rows: Sequence[int] | None,
    *,
    out: Path,
    batch_size: int,
    key: Mapping[str, Any],
    console: Console | None = None,
) -> Columns:
    """Score samples (by index; None: all) of a token dataset into the file `out`: `.npz`, or else Parquet.

    `ids` has `user_id` and `item_id` of every sample. `key` records what the scores depend on beside the rows: model,
    adapter, tokens. The function reuses scores with the same key, finished or in parts (`out.parts/`), and removes
    others, which it logs. Beside a Parquet file it writes `speed_file(out)`: the number of `rows`, their wall time in
    `seconds`, and their prompt `tokens`, added up over the calls that scored them.

    Raises `InputError` for a row beyond the last sample.
    """
    wanted = sorted({int(row) for row in (range(len(tokens)) if rows is None else rows)})
    if wanted and wanted[-1] >= len(tokens):
        beyond = next(row for row in wanted if row >= len(tokens))
        raise InputError(
            f"there is no row {beyond} among {len(tokens):,} {tokens.split} samples, expected a smaller one", "rows"
        )
    key = {**key, "rows": "all" if rows is None else sha256_of(wanted), "columns": list(COLUMNS)}
    work = LongWork(f"scoring {out.stem}", out, key, len(wanted), "rows")

    def score(done: int) -> Columns:
        size, began = batch_size * BATCHES_A_PART, time.monotonic()
        windows = [np.array(wanted[begin : begin + size], np.int64) for begin in range(done, len(wanted), size)]
        start = done
        with Meter(work.what, len(wanted), done=done, console=console) as meter:

            def scored(window: NDArray[np.int64]) -> tuple[int, AnswerScores]:
                prompts = tokens.prompts(window)
                return sum(map(len, prompts)), scorer.score_ids(prompts, batch_size, on_batch=meter.advance)

            for window, (read, found) in zip(windows, scorer.in_order(scored, windows), strict=True):
                part: dict[str, Any] = {name: ids[name][window] for name in ("user_id", "item_id")}
                part |= {"row": window, "label": tokens.labels[window]} | found._asdict()
                ended = time.monotonic()
                with work.part(start, start + len(window)) as file:
                    np.savez(file, **part, spent=np.array([len(window), ended - began, read]))
                start, began = start + len(window), ended
        files = [_arrays(path) for path in work.parts()] or [_empty(ids)]
        spent = np.sum([part.get("spent", np.zeros(3)) for part in files], axis=0)
        if out.suffix == ".parquet" and spent[0]:
            write_json(speed_file(out), {"rows": int(spent[0]), "seconds": spent[1], "tokens": int(spent[2])})
        scores = {name: np.concatenate([part[name] for part in files]) for name in COLUMNS}
        write_scores(out, Scored(scores, key))
        return scores

    return work.result(lambda: _finished(out, key), score)


def speed_file(out: Path) -> Path:
    """The file with the speed at which a file of scores was made."""
    return out.with_suffix(".speed.json")


def thousand_seconds(out: Path) -> float | None:
    """The wall time of a thousand of these scores; None if `score_file` did not write them here."""
    found = read_json(speed_file(out)) if speed_file(out).is_file() else None
    return 1000 * found["seconds"] / found["rows"] if found else None


def write_scores(out: Path, scored: Scored) -> None:
    """Write a file of scores, `.npz` or Parquet, atomically."""
    with atomic_file(out) as file:
        if out.suffix == ".npz":
            arrays: dict[str, Any] = {"key": np.array(json.dumps(scored.key, sort_keys=True)), **scored.columns}
            np.savez(file, **arrays)
            return
        import polars as pl

        made_from = json.dumps(scored.key, sort_keys=True)
        metadata = {PARQUET_KEY: sha256_of(scored.key), PARQUET_MADE_FROM: made_from}
        pl.DataFrame(scored.columns).write_parquet(file, metadata=metadata)


def read_scores(path: Path) -> Scored:
    """Read a file of scores, `.npz` or Parquet; raises `InputError` for any other file."""
    expected = "expected scores that `palate score` wrote"
    try:
        if path.suffix == ".parquet":
            frame = read_parquet(path)
            columns = {name: frame[name].to_numpy() for name in COLUMNS if name in frame.columns}
            key = json.loads(metadata_of(path)[PARQUET_MADE_FROM])
        else:
            columns = _arrays(path)
            key = json.loads(str(columns.pop("key")))
        found = {name: columns[name] for name in COLUMNS if name in columns}
        shapes = {column.shape for column in found.values()}
        if not isinstance(key, dict) or any(len(shape) != 1 for shape in shapes):
            raise ValueError("no key, or columns of several dimensions")
    except FileNotFoundError:
        raise InputError(f"not found, {expected}", path) from None
    except _DAMAGE as error:
        why = getattr(error, "strerror", None)
        raise InputError(f"is not readable{f' ({why})' if why else ''}, {expected}", path) from error
    if [*found] == [name for name in COLUMNS if name != "logit"]:
        raise InputError("has no logits (an earlier version wrote it), expected new scores of `palate score`", path)
    if len(found) < len(COLUMNS):
        raise InputError(f"is not readable, {expected}", path)
    if len(shapes) != 1:
        raise InputError(f"has columns of different lengths, {expected}", path)
    for name, kind in _KINDS.items():
        column, (low, high) = found[name], _BOUNDS.get(name, (-np.inf, np.inf))
        if column.dtype.kind not in kind or not (np.isfinite(column) & (column >= low) & (column <= high)).all():
            wanted = _EXPECTED.get(name, "finite numbers")
            raise InputError(f"column {name!r} has other values than {wanted}: score again with `palate score`", path)
    return Scored(found, key)


def _finished(out: Path, key: Mapping[str, Any]) -> Columns | None:
    """The finished scores in `out` if they have this key; else None, after logging the difference."""
    if not out.is_file():
        return None
    try:
        scored = read_scores(out)
    except InputError:
        return None
    why = reason(scored.key, key)
    if why:
        log.info("recomputing the scores in %s: %s", out, why)
    return None if why else scored.columns


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def _empty(ids: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """A part without rows."""
    types = {"row": np.int64, "label": np.bool_} | dict.fromkeys(AnswerScores._fields, np.float32)
    empty: dict[str, NDArray[Any]] = {name: np.zeros(0, of) for name, of in types.items()}
    return empty | {name: ids[name][:0] for name in ("user_id", "item_id")}
