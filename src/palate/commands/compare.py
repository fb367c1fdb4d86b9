"""Compare: runs side by side, read from their folders or from files of metrics or scores."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from pydantic import TypeAdapter

from palate import console
from palate.commands.ledger import flat
from palate.commands.report import METRICS
from palate.config import read_mapping
from palate.errors import InputError
from palate.measure.calibration import apply, sigmoid
from palate.measure.evaluation import Evaluation
from palate.measure.keys import CALIBRATED, FINE_TUNED, ZERO_SHOT, main_key
from palate.models.adapter import TRAINING
from palate.report.outcome import read_metrics
from palate.report.page import render_comparison, write_page
from palate.report.side_by_side import Run, side_by_side
from palate.report.table import show_runs
from palate.score.files import read_scores
from palate.store.artifacts import MANIFEST, read_json
from palate.store.keys import damage_in
from palate.store.manifest import read_manifest

WANTED = "expected a run's or an evaluation's folder, its metrics.json, or a file of scores"
AGAIN = "run `palate run` again"
TRAINED = ("samples", "steps", "seconds", "train_loss", "eval_loss", "eval_decision_loss", "eval_auc")
"""The fields of `training.json` to compare."""


def compare(places: Sequence[Path], *, seed: int, as_json: bool = False, out: Path | None = None) -> None:
    """Print runs side by side, and write the page `out`, if given.

    Raises `InputError` for fewer than two places, for a repeated place, and for one that is no run or scores.
    """
    if len(places) < 2:
        raise InputError("only one is named, expected two or more to compare", "palate compare")
    resolved = [place.resolve() for place in places]
    twice = next((place for n, place in enumerate(places) if resolved[n] in resolved[:n]), None)
    if twice is not None:
        raise InputError("is given twice, expected each once", twice)
    if out is not None and out.suffix != ".html":
        raise InputError("has another suffix, expected .html", out)
    runs = _with_own_names([read_run(place) for place in places])
    found = side_by_side(runs, seed=seed)
    if out is not None:
        write_page(out, render_comparison(found))
    if as_json:
        console.print_json(found.to_dict())
        return
    show_runs(found, console.out)
    if out is not None:
        console.out.print(f"page: {out}", soft_wrap=True)


def read_run(place: Path) -> Run:
    """Read a run or an evaluation from its folder or `metrics.json`, or a single file of scores.

    Raises `InputError` for anything else, and for a damaged file.
    """
    if not place.exists():
        raise InputError(f"does not exist, {WANTED}", place)
    if place.is_dir():
        if not (place / METRICS).is_file():
            raise InputError(f"has no {METRICS}, {WANTED}; `palate run` and `palate evaluate` write it", place)
        return _read_folder(place, place / METRICS)
    if place.suffix in (".parquet", ".npz"):
        return _read_scores_alone(place)
    if place.suffix != ".json":
        raise InputError(f"has an unknown suffix, {WANTED}", place)
    return _read_folder(place.parent, place)


def _read_folder(folder: Path, metrics: Path) -> Run:
    stored = read_metrics(metrics)
    _check_pinned(metrics)
    try:
        evaluation = TypeAdapter(Evaluation).validate_python(stored)
        models = [entry.key for entry in evaluation.models]
        main = main_key(models)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError(
            "has other contents than metrics of an evaluation, expected the metrics.json of `palate evaluate`", metrics
        ) from error
    calibrated = main + CALIBRATED
    config = _config(folder / "config.yaml")
    prefix = "" if evaluation.split == "test" else f"{evaluation.split}-"
    calibration = stored.get("calibrations", {}).get(main) if calibrated in models else None
    part = ".sum" if main in stored.get("offsets", {}) else ""
    return Run(
        name=str(config.get("name", folder.name)),
        place=folder,
        model=main if calibration is None else calibrated,
        scores=_scores(folder / "scores" / f"{prefix}{main}{part}.parquet", calibration),
        evaluation=evaluation,
        config=config,
        training=_training(folder, config),
        data=_data(folder, config, evaluation),
    )


def _check_pinned(metrics: Path) -> None:
    """Raise `InputError` if metrics are not those that the manifest of their run lists."""
    manifest = metrics.with_name(MANIFEST)
    if manifest.is_file():
        pinned = {METRICS: read_manifest(manifest, AGAIN)["outputs"].get(METRICS)}
        if metrics.name == METRICS and pinned[METRICS] and (damage := damage_in(manifest.parent, pinned)):
            raise InputError(f"{damage.problem} since `palate run` wrote it, see {MANIFEST}; {AGAIN}", metrics)


def _read_scores_alone(path: Path) -> Run:
    key = FINE_TUNED if read_scores(path).key.get("adapter") else ZERO_SHOT
    return Run(name=path.stem, place=path, model=key, scores=_scores(path, None))


def _scores(path: Path, calibration: Mapping[str, Any] | None) -> pl.DataFrame | None:
    """The scores in a file, calibrated, or those of the sum with a baseline; None without the file."""
    if not path.is_file():
        return None
    scored = read_scores(path)
    columns, logit = scored.columns, scored.columns["logit"].astype(np.float64)
    if "offset" in scored.key:
        p = columns["p"].astype(np.float64)
    else:
        p = sigmoid(logit) if calibration is None else apply(calibration["method"], calibration["parameters"], logit)
    return pl.DataFrame({name: columns[name] for name in ("row", "user_id", "item_id", "label")} | {"p": p})


def _config(path: Path) -> dict[str, Any]:
    """A resolved config as `section.key`: value; empty without the file."""
    if not path.is_file():
        return {}
    try:
        return flat(read_mapping(path)[0])
    except RecursionError:
        raise InputError("is nested too deeply, expected the config of a run", path) from None


def _training(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The training facts of the adapter in this folder, else in the config's run, else in the parent folder."""
    homes = [folder, *([Path(config["run_dir"])] if config.get("run_dir") else []), folder.parent]
    facts: Any = next((read_json(path) for home in homes if (path := home / "adapter" / TRAINING).is_file()), {})
    return {name: facts[name] for name in TRAINED if facts.get(name) is not None}


def _data(folder: Path, config: Mapping[str, Any], evaluation: Evaluation) -> dict[str, Any]:
    """The origin of the rows: data, split, threshold, hash of the timeline."""
    origin: dict[str, Any] = {
        "data": config.get("ratings.source"),
        "split": config.get("prepare.split"),
        "rows of": evaluation.split,
        "liked from": evaluation.rating_threshold,
    }
    run = f"{config['run_dir']}/data" if config.get("run_dir") else None
    for home in (config.get("data_dir"), run, folder / "data"):
        if home and (path := Path(home) / MANIFEST).is_file():
            return origin | {"timeline": read_manifest(path, AGAIN)["outputs"].get("ratings.parquet")}
    return origin


def _with_own_names(runs: Sequence[Run]) -> list[Run]:
    """The runs under unique names: that of the config, or the path where two configs share a name."""
    names = [run.name for run in runs]
    return [replace(run, name=str(run.place) if names.count(run.name) > 1 else run.name) for run in runs]
