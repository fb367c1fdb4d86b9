"""Load Alpaca files as datasets: `train.json`, `eval.json`, or another file of this form."""

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
    """Read an Alpaca file, a JSON array or one object a line, in its order.

    The dataset has the columns `COLUMNS`: missing ones are empty (`history` may be absent), others are dropped. Raises
    `InputError` for a file that is missing, is not JSON, or has no `instruction` and `output`; `WorkError` if the cache
    cannot be written.
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
        if cause is not None:  # the cache failed, not the file
            raise WorkError(f"{cache_dir() / 'datasets'}: cannot be written: {cause.strerror or cause}") from error
        raise _broken(path) from error
    missing = [name for name in ("instruction", "output") if name not in data.column_names]
    if missing:
        have = ", ".join(data.column_names)
        raise InputError(f"has no {' and no '.join(missing)}, only {have}: expected Alpaca examples", path)
    for name in ("input", "system"):
        if name not in data.column_names:
            data = data.add_column(name, [""] * len(data))
    # If every example has an empty list of turns, the column has no type.
    if "history" not in data.column_names or data.features["history"] in (List(Value("null")), Value("null")):
        return data.select_columns([name for name in COLUMNS if name != "history"])
    assert isinstance(data.features, Features)
    return data.select_columns(list(COLUMNS))


def _broken(path: Path) -> InputError:
    """The error for a file that cannot be read, with the line of the first JSON error."""
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        for number, line in enumerate(text.splitlines(), start=1):
            try:
                json.loads(line)
            except json.JSONDecodeError:
                if text.lstrip().startswith("["):
                    return InputError(
                        f"is not JSON: {error.msg}, expected a list of Alpaca examples", path, error.lineno
                    )
                return InputError("is not a JSON object, expected an Alpaca example", path, number)
    return InputError("cannot be read as a table of examples, expected the same keys and types throughout", path)
