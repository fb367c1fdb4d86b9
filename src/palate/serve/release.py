"""Which folder a run's service answers from: the run itself, or the release that `palate refresh` switched to."""

from pathlib import Path
from typing import Any

from palate.errors import InputError
from palate.store.artifacts import read_json, sync, write_json
from palate.store.keys import recorded

POINTER, RELEASES, FEEDBACK = "release.json", "releases", "feedback.sqlite"


def feedback(run: Path) -> str:
    """The URL of a run's usual store."""
    return f"sqlite:///{run / FEEDBACK}"


def current(run: Path) -> Path:
    """The folder to serve, itself the folder of a run.

    Raises `InputError` if the pointer is damaged or names a folder that is gone; a service then keeps the old one.
    """
    pointer = run / POINTER
    if not pointer.is_file():
        return run
    name = read_json(pointer).get("folder")
    if not isinstance(name, str) or not (run / name / "config.yaml").is_file():
        raise InputError(
            f"names {name!r}, expected the folder of a run; remove the file to serve the run itself", pointer
        )
    return run / name


def switch(run: Path, folder: Path) -> None:
    """Serve `folder`, within the run's or the run itself, from now on: by one rename, on the disk when it returns."""
    write_json(run / POINTER, {"folder": folder.relative_to(run).as_posix()})
    sync(run)


def served(folder: Path, *, otherwise: str = "user-item") -> str:
    """The key of the model that a run's folder serves by default: a baseline's, or `language-model`.

    It is the one that the run's ladder (`metrics.json`) recommends, else its best baseline by AUC; of a release without
    a language model the one that `palate refresh` compared; `otherwise` for a run that measured nothing.
    """
    from palate.report.outcome import read_metrics  # imports much

    file = folder / "metrics.json"
    metrics = read_metrics(file) if file.is_file() else {}
    if metrics.get("ladder"):
        return str(metrics["ladder"]["use"])
    rows: list[dict[str, Any]] = [row for row in metrics.get("entries", []) if row["kind"] == "baseline"]
    best = max(rows, key=lambda row: row["metrics"]["auc"] or 0.0, default=None)
    return str(recorded(folder / "refresh.json").get("use", otherwise) if best is None else best["key"])
