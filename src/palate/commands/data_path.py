"""Detects the data at a path: Alpaca files, tables with splits, or a folder that Palate wrote."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from palate.errors import InputError
from palate.ratings.formats import split_suffixes
from palate.ratings.source import is_saved
from palate.ratings.split_names import SPLIT_NAMES, split_files
from palate.store.artifacts import MANIFEST

JSON = (".json", ".jsonl", ".ndjson")
PICKLES = (".pkl", ".pickle")
EXPECTED = (
    "expected a folder that `palate prepare` or `palate tokenize --portable` wrote, an Alpaca file (.json, .jsonl), or "
    "tables with splits (.csv, .tsv, .parquet, or a saved DatasetDict)"
)


@dataclass(frozen=True)
class DataPath:
    """Foreign data: Alpaca files by split, or the path of tables."""

    kind: Literal["alpaca", "tables"]
    path: Path
    name: str
    files: dict[str, Path]
    """The Alpaca files: `train`, `val`, `test`, those that are there."""


def source_of(path: Path) -> DataPath | None:
    """The foreign data at a path; None for a folder that Palate wrote, and for a path that does not exist.

    A file called `test` stands for its folder where other splits lie beside it. Raises `InputError` for a pickle, which
    runs whatever code it holds when it is read, and for another file that is not readable.
    """
    if path.is_dir():
        return None if (path / MANIFEST).is_file() else _in_folder(path)
    if not path.exists():
        return None
    suffix = path.suffix.lower()
    if suffix in PICKLES:
        _refuse_pickle(path)
    if suffix not in JSON and suffix not in split_suffixes():
        raise InputError(f"has an unknown suffix, {EXPECTED}", path)
    if path.stem.lower() == "test":
        whole = _in_folder(path.parent, ("alpaca",) if suffix in JSON else ("tables",))
        if whole is not None and (whole.kind == "tables" or whole.files["test"] == path):
            return whole
    if suffix in JSON:
        return DataPath("alpaca", path, path.stem, {"test": path})
    return DataPath("tables", path, path.stem, {})


def _in_folder(folder: Path, kinds: tuple[str, ...] = ("alpaca", "tables")) -> DataPath | None:
    """The splits in a folder; None if there are no two."""
    names = sorted(p.name for p in folder.iterdir() if p.is_file() or is_saved(p))
    alpaca: dict[str, Path] = {}
    for split, called in SPLIT_NAMES.items():
        found = [n for n in names if Path(n).suffix.lower() in JSON and Path(n).stem.lower() in called]
        if len(found) > 1:
            raise InputError(
                f"is of the split {split}, as {found[1]} is, expected one file for each split", folder / found[0]
            )
        if found:
            alpaca[split] = folder / found[0]
    name = folder.resolve().name
    if "alpaca" in kinds and alpaca.keys() & {"train", "test"}:
        return DataPath("alpaca", folder, name, alpaca)
    if "tables" in kinds and split_files(names).keys() >= {"train", "test"}:
        return DataPath("tables", folder, name, {})
    pickles = [n for n in names if Path(n).suffix.lower() in PICKLES]
    if pickles and kinds == ("alpaca", "tables"):
        _refuse_pickle(folder / pickles[0])
    return None


def _refuse_pickle(path: Path) -> None:
    convert = f"pandas.read_pickle('{path.name}').to_parquet('{path.stem}.parquet')"
    raise InputError(f"is a pickle, which can run any code when it is read; expected CSV or Parquet: {convert}", path)
