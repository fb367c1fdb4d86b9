"""Read a prepared folder, the output of `palate prepare`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from palate.config import PrepareConfig
from palate.errors import InputError
from palate.ratings.likes import Likes
from palate.samples.build import ROLES, Samples, samples_of, with_negatives
from palate.samples.items import item_rows
from palate.samples.negatives import FILE as NEGATIVES
from palate.samples.signals import FILE, USERS
from palate.store.artifacts import MANIFEST, read_json, reading
from palate.store.keys import Damage, damage_in
from palate.store.manifest import PREPARE_AGAIN, PreparedManifest, check_record
from palate.store.parquet import read_blocks, row_count
from palate.store.scratch import Scratch

STAGE = "prepare"
TABLES = ("ratings.parquet", "items.parquet")


def hashes_of(manifest: Mapping[str, Any]) -> dict[str, str]:
    """The hashes of the tables of prepared data, of negatives, and of signals and users if the prompt names some."""
    tables = (*TABLES, NEGATIVES, FILE, USERS)
    return {name: manifest["outputs"][name] for name in tables if name in manifest["outputs"]}


@dataclass(frozen=True)
class Prepared:
    """Prepared data: the folder, its manifest, and the samples."""

    folder: Path
    manifest: dict[str, Any]
    samples: Samples


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a prepared folder; raises `InputError` if it is damaged, or if a file is missing or cut off."""
    path = folder / MANIFEST
    if not path.is_file():
        state = f"has no {MANIFEST}" if folder.is_dir() else "does not exist"
        raise InputError(f"{state}, expected a folder that `palate prepare` wrote", folder)
    manifest: dict[str, Any] = read_json(path)
    outputs = manifest.get("outputs")
    if manifest.get("stage") != STAGE or (isinstance(outputs, dict) and not outputs.keys() >= set(TABLES)):
        raise InputError(f"is of stage {manifest.get('stage')!r}, expected one that `palate prepare` wrote", path)
    check_record(manifest, PreparedManifest, path, PREPARE_AGAIN)
    _refuse(folder, damage_in(folder, manifest["outputs"], hashes=False))
    return manifest


def load_prepared(folder: Path, memory: int | None = None) -> Prepared:
    """Read a prepared folder; raises `InputError` if it is missing, incomplete or was changed.

    The tables are compared with their hashes; the other files must only exist. A timeline that may need more than
    `memory` bytes (None: half of the machine's) is mapped from the disk.
    """
    manifest = read_manifest(folder)
    outputs = manifest["outputs"]
    _refuse(folder, damage_in(folder, hashes_of(manifest)))
    options = PrepareConfig.model_construct(**manifest["options"]["prepare"])
    scratch = Scratch.of(row_count(folder / "ratings.parquet"), memory)
    items = _table(folder / "items.parquet")
    samples = samples_of(_timeline(folder / "ratings.parquet", scratch), items, options, scratch)
    if NEGATIVES in outputs:
        drawn = _table(folder / NEGATIVES)
        negative = item_rows(drawn["item_id"], items["item_id"]).to_numpy().astype(np.int64)
        of, rule = np.searchsorted(samples.position, drawn["row"].to_numpy()), manifest["options"]["ratings"]
        samples = with_negatives(samples, of, negative, Likes(rule["likes"], rule["negatives_per_like"]))
    if FILE in outputs:
        samples = replace(samples, signals=_table(folder / FILE))
    if USERS in outputs:
        samples = replace(samples, users=_table(folder / USERS))
    return Prepared(folder, manifest, samples)


def _timeline(path: Path, scratch: Scratch | None) -> pl.DataFrame:
    """The ratings with their roles."""
    if scratch is None:
        return _table(path).with_columns(pl.col("split").cast(ROLES))
    names = list(pl.read_parquet_schema(path))
    blocks = (block.with_columns(pl.col("split").cast(ROLES).to_physical()) for block in read_blocks(path, names))
    return scratch.table(blocks).with_columns(pl.col("split").cat.to(ROLES))


def _table(path: Path) -> pl.DataFrame:
    with reading(path):
        return pl.read_parquet(path, glob=False)


def _refuse(folder: Path, damage: Damage | None) -> None:
    if damage:
        raise InputError(f"{damage.problem}; {PREPARE_AGAIN}", folder / damage.file)
