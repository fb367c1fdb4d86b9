"""Scores of a file of raw samples: written as they come, taken up again after an interruption."""

import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from palate.artifacts import atomic_file, sha256_of, write_json
from palate.errors import InputError
from palate.progress import Meter
from palate.prompt.messages import to_generation_messages
from palate.prompt.spec import PromptSpec
from palate.score.scorer import Scorer

if TYPE_CHECKING:
    from rich.console import Console

log = logging.getLogger(__name__)

BATCHES_A_PART = 16
"""Batches that are sorted by length together, and lost together if the work is interrupted."""
KEY = "key.json"
SCHEMA = {
    "row": pl.Int64,
    "user_id": pl.Int64,
    "item_id": pl.Int64,
    "label": pl.Boolean,
    "p": pl.Float32,
    "mass": pl.Float32,
}


def score_file(
    scorer: Scorer,
    raw: Path,
    rows: Sequence[int] | None,
    *,
    prompt: PromptSpec,
    history_len: int,
    out: Path,
    batch_size: int,
    key: Mapping[str, Any],
    console: "Console | None" = None,
) -> pl.DataFrame:
    """Score rows (counted from 0; None: all) of a `test_raw.jsonl` into the Parquet file `out`.

    `key` says what the scores depend on beside rows and prompt: model, adapter, data. Scores that lie there
    with the same key are taken over, finished or in parts (`out.parts/`); others are removed, and the log
    says so. Returns row, user_id, item_id (int64, or text as in the file), label (bool), p and mass
    (float32), in the order of the rows in the file.

    Raises `InputError` with file and line for a line that is no raw sample, and for rows beyond the end.
    """
    wanted = None if rows is None else sorted({int(row) for row in rows})
    key = {
        **key,
        "prompt": prompt.model_dump(mode="json"),
        "history_len": history_len,
        "cutoff_len": scorer.cutoff_len,
        "rows": "all" if wanted is None else sha256_of(wanted),
    }
    digest = sha256_of(key)
    if out.is_file() and pl.read_parquet_metadata(out).get("palate.key") == digest:
        log.info("scores in %s are kept: same model, adapter, data and prompt", out)
        return pl.read_parquet(out, glob=False)
    parts = out.with_name(f"{out.name}.parts")
    done = _believed(parts, digest, key)
    total = len(wanted) if wanted is not None else _count_lines(raw)
    with Meter(f"scoring {out.stem}", total, done=len(done), console=console) as meter:
        for samples in _windows(raw, wanted, done, batch_size * BATCHES_A_PART):
            part = _score(scorer, samples, prompt, history_len, batch_size, meter)
            with atomic_file(parts / f"{samples[0][0]:010d}.parquet") as file:
                part.write_parquet(file)
    files = sorted(parts.glob("*.parquet"))
    scores = pl.concat([pl.read_parquet(f, glob=False) for f in files]) if files else pl.DataFrame(schema=SCHEMA)
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


def _windows(raw: Path, wanted: Sequence[int] | None, done: set[int], size: int) -> Iterator[list[tuple[int, Any]]]:
    """The samples that are still to be scored, with their row numbers, `size` at a time."""
    left = None if wanted is None else set(wanted)
    window: list[tuple[int, Any]] = []
    for row, sample in _read(raw, left):
        if left is not None:
            left.discard(row)
        if row in done:
            continue
        window.append((row, sample))
        if len(window) == size:
            yield window
            window = []
    if left:
        raise InputError(f"has no row {min(left)}, expected at least {max(left) + 1} lines", raw)
    if window:
        yield window


def _read(raw: Path, wanted: set[int] | None) -> Iterator[tuple[int, dict[str, Any]]]:
    needed = ("history_titles", "candidate_title", "label", "user_id", "item_id")
    try:
        with raw.open(encoding="utf-8") as lines:
            for row, line in enumerate(lines):
                if wanted is not None and row not in wanted:
                    if not wanted:
                        return
                    continue
                try:
                    sample = json.loads(line)
                except json.JSONDecodeError as error:
                    raise InputError(f"is not JSON: {error.msg}", raw, row + 1) from None
                missing = [name for name in needed if not isinstance(sample, dict) or name not in sample]
                if missing:
                    raise InputError(f"has no {missing[0]!r}, expected a raw sample", raw, row + 1)
                yield row, sample
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {error}", raw) from None


def _score(
    scorer: Scorer,
    samples: Sequence[tuple[int, Mapping[str, Any]]],
    prompt: PromptSpec,
    history_len: int,
    batch_size: int,
    meter: Meter,
) -> pl.DataFrame:
    """Score one window; within it, batches are of like length."""
    conversations = [
        to_generation_messages(prompt.alpaca(s["history_titles"], s["candidate_title"], s["label"], history_len))
        for _, s in samples
    ]
    p, mass = scorer.score_ids(scorer.prompts(conversations), batch_size, on_batch=meter.advance)
    return pl.DataFrame(
        {
            "row": [row for row, _ in samples],
            "user_id": [s["user_id"] for _, s in samples],
            "item_id": [s["item_id"] for _, s in samples],
            "label": [s["label"] == "Yes" for _, s in samples],
            "p": p,
            "mass": mass,
        }
    )


def _count_lines(path: Path) -> int:
    try:
        with path.open("rb") as file:
            return sum(1 for _ in file)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", path) from None
