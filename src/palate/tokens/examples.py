"""Alpaca files as datasets: `train.json`, `eval.json`, or someone else's file in the same form."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from palate.errors import InputError, WorkError
from palate.progress import quiet_bars
from palate.store.hub import cache_dir

if TYPE_CHECKING:
    from datasets import Dataset

COLUMNS = ("instruction", "input", "output", "system", "history")


def load_examples(path: Path) -> "Dataset":
    """Read an Alpaca file (a JSON array, or an object a line), in its order.

    Columns that an example needs and the file lacks are empty; others are left out. Raises `InputError` for a
    file that is missing, is not JSON, or has no `instruction` and `output`; `WorkError` if the cache is full.
    """
    from datasets import Dataset, Features, List, Value, load_dataset
    from datasets.exceptions import DatasetGenerationError

    if not path.is_file():
        raise InputError("not found, expected an Alpaca file; `palate prepare` writes one", path)
    if path.stat().st_size < 3:  # nothing, or "[]"
        return Dataset.from_dict({name: [] for name in COLUMNS})
    try:
        with quiet_bars():
            data = load_dataset("json", data_files=str(path), split="train", cache_dir=str(cache_dir() / "datasets"))
    except (DatasetGenerationError, ValueError) as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__
        if cause is not None:  # the file is not to blame
            raise WorkError(f"{cache_dir() / 'datasets'}: cannot be written: {cause.strerror or cause}") from error
        raise _broken(path) from error
    missing = [name for name in ("instruction", "output") if name not in data.column_names]
    if missing:
        have = ", ".join(data.column_names)
        raise InputError(f"has no {' and no '.join(missing)}, only {have}: expected Alpaca examples", path)
    for name in ("input", "system"):
        if name not in data.column_names:
            data = data.add_column(name, [""] * len(data))
    # An empty list of turns in every example leaves the column without a type.
    if "history" not in data.column_names or data.features["history"] in (List(Value("null")), Value("null")):
        kept = data.remove_columns([name for name in ("history",) if name in data.column_names])
        return kept.select_columns([name for name in COLUMNS if name != "history"])
    assert isinstance(data.features, Features)
    return data.select_columns(list(COLUMNS))


def _broken(path: Path) -> InputError:
    """The line at which a file stops being JSON."""
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        for number, line in enumerate(text.splitlines(), start=1):
            try:
                json.loads(line)
            except json.JSONDecodeError:
                if text.lstrip().startswith("["):
                    return InputError(f"is not JSON: {error.msg}", path, error.lineno)
                return InputError("is not a JSON object", path, number)
    return InputError("cannot be read as a table of examples, expected the same keys and types throughout", path)
