"""A portable token folder: the input of training and scoring for a machine without ratings, Polars or a cache.

It has the cache's entries under their names, so a dataset from the folder has the identity of the original. Checkpoints
and scores of both machines are therefore interchangeable.
"""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palate.errors import InputError
from palate.prompt.chat import Chat
from palate.prompt.tokenizer import differing, is_text_hash, rendered_otherwise, tokenizer_identity
from palate.store.artifacts import MANIFEST, read_json, write_json, write_manifest
from palate.store.keys import damage_in
from palate.store.manifest import read_manifest
from palate.tokens.dataset import Options, TokenDataset

STAGE = "portable"
FORMAT = 1
"""Version of the folder's format; increased with every change of it."""
ABOUT = "about.json"
AGAIN = "write the folder again with `palate tokenize --portable`"


@dataclass(frozen=True)
class Portable:
    """An open folder whose files match its manifest."""

    folder: Path
    manifest: dict[str, Any]
    about: dict[str, Any]

    @property
    def data_manifest(self) -> dict[str, Any]:
        """The manifest of the samples' prepared data."""
        return dict(self.about["data"])

    def dataset(self, split: str, chat: Chat | None = None) -> TokenDataset:
        """The samples of `train`, `eval` (the validation samples of `eval.json`) or `test`."""
        stored = self.about["splits"][split]
        plain = self.folder / stored["plain"] if stored["plain"] else None
        rows = np.load(self.folder / stored["rows"]) if stored["rows"] else None
        tables, cut = self.folder / stored["tables"], self.folder / stored["cut"]
        return TokenDataset(tables, plain, cut, stored["of"], Options(**stored["options"]), chat, rows)

    @cached_property
    def test_ids(self) -> dict[str, NDArray[np.int64]]:
        """`user_id` and `item_id` of every test sample."""
        return {name: np.load(self.folder / f"test.{name}.npy") for name in ("user_id", "item_id")}

    def check_tokenizer(self, chat: Chat) -> None:
        """Raise `InputError` if the folder was made for another tokenizer, chat template or answers."""
        what = differing(chat.tokenizer, recorded := self.about["tokenizer"])
        if what is None and is_text_hash(recorded["chat template"]) and rendered_otherwise(chat.tokenizer):
            raise InputError(f"was made by an earlier version that rendered the chat template differently; {AGAIN}",
                             self.folder)  # fmt: skip
        if what is not None:
            raise InputError(
                f"was made for another {what}, expected that of {chat.tokenizer.name_or_path}", self.folder
            )
        if self.about["decision"] != chat.decision.describe(chat.tokenizer):
            raise InputError(
                f"was made for another decision token than this tokenizer and prompt have; {AGAIN}", self.folder
            )


def is_portable(folder: Path) -> bool:
    """Whether a folder's manifest is that of a portable token folder."""
    try:
        return bool(read_json(folder / MANIFEST).get("stage") == STAGE)
    except (InputError, OSError):
        return False


def open_portable(folder: Path) -> Portable:
    """Open a folder; raises `InputError` for another folder, another format, and a changed file."""
    manifest = read_manifest(folder / MANIFEST, AGAIN)
    if manifest["stage"] != STAGE:
        raise InputError("is not of a portable token folder, expected one that `palate tokenize --portable` wrote",
                         folder / MANIFEST)  # fmt: skip
    options = manifest["options"]
    if options.get("format") != FORMAT:
        raise InputError(f"is of format {options.get('format')!r}, expected {FORMAT}; {AGAIN}", folder / MANIFEST)
    damage = damage_in(folder, {ABOUT: "", **manifest["outputs"]})
    if damage:
        raise InputError(f"{damage.problem}; {AGAIN}", folder / damage.file)
    return Portable(folder, manifest, read_json(folder / ABOUT))


def write_portable(
    folder: Path,
    datasets: Mapping[str, TokenDataset],
    test_ids: Mapping[str, NDArray[np.int64]],
    chat: Chat,
    options: Mapping[str, Any],
    data: Mapping[str, Any],
) -> dict[str, Any]:
    """Write `train`, `eval` and `test` into an empty folder, the manifest last; returns the manifest.

    The manifest records `options` and the format; `data` is the manifest of the prepared data.
    """
    splits = {}
    for name, dataset in datasets.items():
        entries = dict(zip(("tables", "plain", "cut"), dataset.folders, strict=True))
        stored = {what: entry and f"{entry.parent.name}/{entry.name}" for what, entry in entries.items()}
        for what, entry in entries.items():
            if entry is not None:
                shutil.copytree(entry, folder / str(stored[what]), dirs_exist_ok=True)
        rows = None
        if dataset.rows is not None:
            rows = f"{name}.rows.npy"
            np.save(folder / rows, dataset.rows)
        splits[name] = {**stored, "rows": rows, "of": dataset.split, "options": asdict(dataset.options)}
    for name, ids in test_ids.items():
        np.save(folder / f"test.{name}.npy", ids)
    identity = tokenizer_identity(chat.tokenizer)
    about = {
        "splits": splits,
        "tokenizer": identity,
        "decision": chat.decision.describe(chat.tokenizer),
        "data": dict(data),
    }
    write_json(folder / ABOUT, about)
    stats = {
        name: {"samples": len(dataset), "tokens": int(dataset.lengths.sum(dtype=np.int64))}
        for name, dataset in datasets.items()
    }
    return write_manifest(
        folder, STAGE, inputs={**data["outputs"], **identity}, options={"format": FORMAT, **options}, stats=stats
    )
