"""Tokenized datasets, kept under a key of everything that decides their content.

An entry is a folder that `datasets.load_from_disk` reads. It appears by one rename, and is believed only if
its files still have the sizes that were written down; anything else is a miss, and the log says why.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palate.artifacts import sha256_of, write_json
from palate.hub import cache_dir as default_cache_dir
from palate.progress import quiet_bars
from palate.prompt.chat import Chat
from palate.tokens.plain import chat_of, tokenize_batch

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)

STAGE = 1
"""Raised whenever the same input would give other tokens."""
ENTRY = "entry.json"


def preprocess_datasets_parallel(
    datasets: Mapping[str, "Dataset"],
    tokenizer: Any,
    cutoff_len: int,
    num_proc: int | None = None,
    cache_dir: Path | None = None,
) -> dict[str, "Dataset"]:
    """Tokenize Alpaca datasets, or take them from the cache.

    Returns for each name a dataset of `input_ids` (int32), `attention_mask` (int8) and `labels` (int32), in
    the order of the input. `cache_dir` is `.cache/preprocessed` if not given.
    """
    folder = cache_dir or default_cache_dir() / "preprocessed"
    chat = chat_of(tokenizer)
    return {name: _cached(name, dataset, chat, cutoff_len, num_proc, folder) for name, dataset in datasets.items()}


def content_hash(dataset: "Dataset") -> str:
    """SHA-256 of a dataset's rows, whatever file or shuffle they came from."""
    import pyarrow as pa

    digest = hashlib.sha256()

    class Sink:
        closed = False

        def write(self, data: Any) -> int:
            digest.update(data)
            return len(data)

        def flush(self) -> None: ...

        def close(self) -> None: ...

    # Batches of one size and no metadata: the bytes then depend on the rows alone.
    for table in dataset.with_format("arrow").iter(batch_size=10_000):
        table = table.replace_schema_metadata(None).combine_chunks()
        with pa.ipc.new_stream(pa.PythonFile(Sink(), mode="w"), table.schema) as writer:
            writer.write_table(table)
    return digest.hexdigest()


def tokenizer_identity(tokenizer: Any) -> dict[str, str]:
    """What decides a tokenizer's output: its `tokenizer.json` and its chat template, hashed."""
    return {
        "tokenizer": hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
        "chat template": hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest(),
    }


def _cached(
    name: str, dataset: "Dataset", chat: Chat, cutoff_len: int, num_proc: int | None, folder: Path
) -> "Dataset":
    from datasets import load_from_disk

    parts = {
        "data": content_hash(dataset),
        **tokenizer_identity(chat.tokenizer),
        "cutoff_len": cutoff_len,
        "stage": STAGE,
    }
    entry = folder / sha256_of(parts)[:24]
    if _is_whole(entry):
        log.info("tokens of %s: cache hit, same data, tokenizer, template and options (%s)", name, entry)
        return load_from_disk(str(entry))
    log.info("tokens of %s: cache miss, %s", name, _reason(folder, entry, parts))
    partial_entry = folder / f".{entry.name}.partial-{uuid.uuid4().hex[:8]}"
    try:
        tokenized = _tokenize(name, dataset, chat, cutoff_len, num_proc, partial_entry)
        with quiet_bars():
            tokenized.save_to_disk(str(partial_entry / "done"))
        sizes = {p.name: p.stat().st_size for p in sorted((partial_entry / "done").iterdir())}
        write_json(partial_entry / "done" / ENTRY, {"parts": parts, "files": sizes})
        _put(partial_entry / "done", entry)
    finally:
        shutil.rmtree(partial_entry, ignore_errors=True)
    return load_from_disk(str(entry))


def _put(done: Path, entry: Path) -> None:
    """Let an entry appear under its name; another process may have been first, and may be reading it."""
    try:
        done.rename(entry)
    except OSError:
        if _is_whole(entry):
            return
        with contextlib.suppress(FileNotFoundError):  # the other process moves the damaged one too
            entry.rename(done.with_name("damaged"))
        try:
            done.rename(entry)
        except OSError:
            if not _is_whole(entry):
                raise


def _tokenize(
    name: str, dataset: "Dataset", chat: Chat, cutoff_len: int, num_proc: int | None, folder: Path
) -> "Dataset":
    from datasets import Features, List, Value

    processes = num_proc or (os.cpu_count() or 1)
    if len(dataset) < 5_000:
        processes = 1  # starting processes would take longer than the work
    (folder / "map").mkdir(parents=True)
    # A bar is worth its line only where there is something to wait for.
    with contextlib.nullcontext() if len(dataset) >= 5_000 else quiet_bars():
        return dataset.map(
            partial(tokenize_batch, chat=chat, cutoff_len=cutoff_len),
            batched=True,
            batch_size=500,
            num_proc=processes if processes > 1 else None,
            remove_columns=dataset.column_names,
            features=Features(
                input_ids=List(Value("int32")), attention_mask=List(Value("int8")), labels=List(Value("int32"))
            ),
            cache_file_name=str(folder / "map" / "tokens.arrow"),
            new_fingerprint=folder.name.strip("."),
            load_from_cache_file=False,
            desc=f"Tokenizing {name}",
        )


def _is_whole(entry: Path) -> bool:
    try:
        sizes = json.loads((entry / ENTRY).read_text())["files"]
        return all((entry / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _reason(folder: Path, entry: Path, parts: Mapping[str, Any]) -> str:
    """Why there is no entry: what differs from the one that is most like it."""
    if entry.exists():
        return "the entry is damaged"
    best: list[str] | None = None
    for other in sorted(folder.glob(f"*/{ENTRY}")):
        try:
            known = json.loads(other.read_text())["parts"]
        except (OSError, ValueError, KeyError):
            continue
        changed = [key for key, value in parts.items() if known.get(key) != value]
        if best is None or len(changed) < len(best):
            best = changed
    if best is None:
        return "nothing kept yet"
    return "these samples are new" if best == ["data"] else f"{' and '.join(best)} changed"
