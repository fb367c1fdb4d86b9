"""Engine: load a run's models for a service."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from pydantic import TypeAdapter, ValidationError

from palate import __version__
from palate.baselines.kept import read_state
from palate.baselines.platt import State
from palate.baselines.registry import RANKERS, Baseline, chosen_baselines, fit_one, ladder_of, stored
from palate.baselines.statistics import BaselineData
from palate.commands.calibrate import source_of
from palate.commands.correction import Correction, correction_of
from palate.commands.evaluate import model_name
from palate.commands.item_vectors import check_vectors
from palate.commands.prepare import baseline_data, kept_baselines, prepared, scored_tokens, token_options
from palate.commands.recommend import scale_of
from palate.commands.report import METRICS, run_metrics
from palate.commands.score import adapter_identity, load_scorer, model_key
from palate.commands.scores import VALIDATION, adapted, score_files
from palate.commands.server_model import check_scored_with
from palate.commands.signals import signal_data
from palate.config import Config
from palate.console import log
from palate.errors import InputError
from palate.measure.calibration import CalibrationSource, Floats, load_calibration, sigmoid
from palate.measure.keys import ZERO_SHOT
from palate.measure.ladder import LANGUAGE_MODEL, Ladder
from palate.measure.offset import Offset, load_offset
from palate.models.adapter import as_trained, check_same_prompt, chosen_adapter
from palate.report.ladder import sentences
from palate.samples import Prepared
from palate.samples.items import shown_items
from palate.samples.lines import renderer
from palate.samples.people import Longs
from palate.samples.queries import Queries
from palate.samples.questions import asked_now
from palate.samples.signals import Asked
from palate.score.files import read_scores
from palate.score.local import LocalBackend
from palate.score.scorer import Scorer
from palate.serve.engine import ALONE, BASE, FINE_TUNED, Engine, Model
from palate.serve.language import LanguageModel, SignalsOf
from palate.serve.worker import Forwarder, Worker

KINDS = ("genres", "category", "categories", "tags")
"""Columns of several values in one text, as prompts show them."""
COMPARED, ALIKE = 8, 0.5
"""Validation prompts that compare a server's model with the run's, and the difference of logits that numbers of 16 and
8 bits explain."""
NUMBERS = 0.95
"""Share of a text column's values that are numbers, from which on it filters as a column of numbers."""
PREFIX_BYTES = 1 << 28
"""Memory of keys and values of histories that are kept, 256 MiB."""


def engine_of(
    config: Config, *, model: str | None = None, language: bool = True, together: int = 16,
    prefix_bytes: int = PREFIX_BYTES,
) -> Engine:  # fmt: skip
    """The models of a run: those baselines that it kept, and its language model if it has an adapter.

    `model` is the one that answers unless a request names another; None: the one that the run's evidence recommends.
    Without `language` no language model is loaded. A pass of the model takes candidates of up to `together` requests.
    Raises `InputError` for a run without data, an unknown model, and as `palate recommend` does.
    """
    data = prepared(config)
    metrics = _metrics(config)
    known = baseline_data(config, data, text=True)
    baselines = _baselines(config, data, known)
    llm, sum_of, adapter = _language_model(config, data, together, prefix_bytes) if language else (None, None, None)
    if sum_of is not None:
        key = sum_of.offset.baseline
        baselines[key] = (RANKERS[key], sum_of.state)
    corrected = None if sum_of is None else sum_of.offset
    models = _models(baselines, llm, corrected, metrics)
    if not models:
        raise InputError(
            "has neither fitted baselines nor an adapter, expected what `palate run` leaves", config.run_path
        )
    default = model or _recommended(metrics, models)
    if default not in models:
        raise InputError(f"is {default!r}, expected one of {', '.join(models)}", "--model")
    items, scale = shown_items(data.samples.items), scale_of(config, data)
    about = {
        "palate": __version__,
        "run": config.name,
        "default": default,
        "models": [vars(each) for each in models.values()],
        "base": None if llm is None else model_name(config),
        "adapter": None if adapter is None else adapter.name,
        "prompt": None if llm is None else config.prompt.model_dump(mode="json"),
        "calibration": None if sum_of is None else sum_of.describe(),
        "data": {**data.manifest["stats"], "items": items.height},
        "scale": scale,
        "threshold": data.samples.threshold,
        "filters": _filters(items),
        "why": _why(metrics),
        "verdict": metrics.get("verdict", []),
        "metrics": {entry["key"]: entry["metrics"] for entry in metrics.get("entries", [])},
    }
    engine = Engine(known, items, models, default, about, scale, baselines, llm, corrected)
    if llm is None:
        log.debug("%s has no adapter: classical models alone answer", config.run_path)
    return engine


def _metrics(config: Config) -> Mapping[str, Any]:
    return run_metrics(config.run_path) if (config.run_path / METRICS).is_file() else {}


def _baselines(config: Config, data: Prepared, known: BaselineData) -> dict[str, tuple[Baseline, State]]:
    """The baselines that the run kept and that work here; the first of the ladder is fitted if there are none.

    Raises `InputError` for a damaged file: without it another model would answer than the evidence is about.
    """
    likes = data.samples.likes
    kept = kept_baselines(config, data)
    found = {}
    for baseline in chosen_baselines("all", text=known.vectors is not None, likes=likes is not None):
        state = stored(baseline, kept, known.vectors)
        file = kept.folder / f"{baseline.key}.npz"
        if state is not None:
            found[baseline.key] = (baseline, state)
        elif file.is_file() and read_state(file) is None:
            raise InputError("is damaged, expected a fitted baseline; without the file its model is not served", file)
    if not found:
        key = ladder_of(likes)[1]
        found[key] = (RANKERS[key], fit_one(RANKERS[key], known, kept))
    return found


def _language_model(
    config: Config, data: Prepared, together: int, prefix_bytes: int
) -> tuple[LanguageModel | None, Correction | None, Path | None]:
    """The run's language model, the sum that it is part of, and its adapter; None for what the run lacks."""
    if config.score.server is None and not (config.run_path / "adapter").is_dir():
        return None, None, None
    adapter = chosen_adapter(config, None, False)
    config = as_trained(config, adapter)
    chat = check_scored_with(config)
    if adapter is not None:
        check_same_prompt(adapter, chat, config.prompt)
    check_vectors(config, data, adapter)
    scorer = load_scorer(config, adapter, all_gpus=False)  # a worker keeps prefixes on one device
    folder = adapter or config.run_path
    source: CalibrationSource | None = source_of(config, chat, model_key(scorer, config, adapter))
    if config.score.server is not None and _answers_alike(config, data, scorer, adapter):
        source = None  # what the run fitted to its own model holds for the server's
    sum_of = correction_of(config, data, adapter, load_offset(folder, source=source))
    to_p: Callable[[Floats], Floats] = sigmoid
    if sum_of is None and config.score.calibration != "none":
        calibration = load_calibration(folder, source=source)
        to_p = sigmoid if calibration is None else calibration.p
    questions = asked_now(data.samples)
    signals = _signals(config, data)
    render = renderer(questions.samples, config.prompt, None if signals is None else _unasked)
    backend = scorer.backend
    worker: Worker | Forwarder = Forwarder(backend)
    if isinstance(backend, LocalBackend):
        worker = Worker(backend, prefix_bytes=prefix_bytes, together=together)
    model = LanguageModel(worker, scorer.chat, token_options(config), render, questions.target, to_p, signals)
    if sum_of is not None:
        sum_of.warn()
    return model, sum_of, adapter


def _answers_alike(config: Config, data: Prepared, scorer: Scorer, adapter: Path | None) -> bool:
    """Whether a server answers validation prompts as the model did that the run scored; False without such scores.

    Raises `InputError` if it does not: calibration and sum belong to another model then.
    """
    if adapter is None:
        return False
    places = (config.run_path, config.run_path / "evaluation")  # of `palate run`, and of `palate evaluate`
    files = [score_files(config, data, adapted([adapter])[0], place, ablated=False).get(VALIDATION) for place in places]
    kept = [read_scores(path) for path in files if path is not None and path.is_file()]
    known = next((each for each in kept if each.key.get("adapter") == dict(adapter_identity(adapter))), None)
    if known is None:
        return False
    rows = known.columns["row"][:COMPARED]
    found = scorer.score_ids(scored_tokens(config, data, scorer.chat, ("val",))["val"].prompts(rows)).logit
    apart = float(np.abs(found - known.columns["logit"][:COMPARED]).max())
    if apart > ALIKE:
        raise InputError(
            f"its logits of {len(rows)} validation prompts are up to {apart:.2g} from those of the run's model, "
            f"expected the same model within {ALIKE:g}",
            str(config.score.server),
        )
    log.info("%s answers %d validation prompts as the run's model does, within %.2g", config.score.server, len(rows),
             apart)  # fmt: skip
    return True


def _unasked(position: Longs, item: Longs) -> pl.DataFrame:
    raise AssertionError("each person has signals of their own")


def _signals(config: Config, data: Prepared) -> SignalsOf | None:
    """Computes the signals of a person that the prompt names; None if it names none."""
    from palate.baselines.signals import estimate_state, source_of

    if not config.prompt.signals:
        return None
    state = estimate_state(signal_data(config, data.samples), config.prompt, kept_baselines(config, data))

    def of(small: BaselineData, anchor: int) -> Asked:
        source = source_of(small, config.prompt, state)
        return lambda position, item: source.of(Queries(np.full(item.size, anchor), item))

    return of


def _models(
    baselines: Mapping[str, tuple[Baseline, State]],
    llm: LanguageModel | None,
    corrected: Offset | None,
    metrics: Mapping[str, Any],
) -> dict[str, Model]:
    """The models that can be asked, the language models first."""
    auc = {entry["key"]: entry["metrics"] for entry in metrics.get("entries", [])}
    # The ladder has all test rows, the table those that the language model scored.
    auc |= {rung["key"]: rung["metrics"] for rung in (metrics.get("ladder") or {}).get("rungs", [])}

    def measured(key: str) -> tuple[float | None, int | None]:
        return (auc[key].get("auc"), auc[key].get("n")) if key in auc else (None, None)

    found: dict[str, Model] = {}
    if llm is not None:
        tuned, calibrated = "fine-tuned model", llm.to_p is not sigmoid
        if corrected is None:
            found[FINE_TUNED] = Model(FINE_TUNED, tuned, "language model", calibrated, *measured(FINE_TUNED))
        else:
            label = f"{baselines[corrected.baseline][0].label} + {tuned}"
            calibrated = corrected.fitted_on is not None
            found[FINE_TUNED] = Model(FINE_TUNED, label, "sum", calibrated, *measured(FINE_TUNED))
            found[ALONE] = Model(ALONE, f"{tuned} alone", "language model", False, None)
        if hasattr(llm.model, "disable_adapter"):
            found[BASE] = Model(BASE, "base model", "language model", False, *measured(ZERO_SHOT))
    for key, (baseline, _) in baselines.items():
        found[key] = Model(key, baseline.label, "baseline", True, *measured(key))
    return found


def _why(metrics: Mapping[str, Any]) -> list[str]:
    """The sentences of the run's ladder: what to use, and what does not pay."""
    try:
        return list(sentences(TypeAdapter(Ladder).validate_python(metrics.get("ladder"))))
    except ValidationError:  # measured nothing, or by another version
        return []


def _recommended(metrics: Mapping[str, Any], models: Mapping[str, Model]) -> str:
    """The model that the ladder of the run ends on, else that of the highest AUC, else the first."""
    used = (metrics.get("ladder") or {}).get("use")
    used = FINE_TUNED if used == LANGUAGE_MODEL else used
    if used in models:
        return str(used)
    measured = {key: each.auc for key, each in models.items() if each.auc is not None}
    return max(measured, key=lambda key: measured[key]) if measured else next(iter(models))


def _filters(items: pl.DataFrame) -> dict[str, str]:
    """The columns that filter, and how: a number, a text, a list of values, or a flag.

    These are all but columns of bytes and nested ones other than lists of plain values.
    """
    kinds = {}
    for name, dtype in items.schema.items():
        if name == "item_id":
            kinds[name] = "text"  # of which each is one item, and large numbers are exact
        elif dtype == pl.Boolean:
            kinds[name] = "flag"
        elif dtype.is_numeric():
            kinds[name] = "number"
        elif isinstance(dtype, pl.List):
            if not (dtype.inner.is_nested() or dtype.inner == pl.Binary):
                kinds[name] = "list"
        elif dtype == pl.String and name in KINDS:
            kinds[name] = "list"
        elif name == "title":
            kinds[name] = "text"
        elif dtype == pl.String:
            values = items[name].drop_nulls()
            values = values.filter(values != "")
            numbers = values.cast(pl.Float64, strict=False).is_not_null()
            # A few items of a log have no year that could be read; they pass no filter of numbers.
            kinds[name] = "number" if len(values) and numbers.sum() >= NUMBERS * len(values) else "text"
        elif not (dtype.is_nested() or dtype == pl.Binary):  # dates, categories
            kinds[name] = "text"
    return kinds
