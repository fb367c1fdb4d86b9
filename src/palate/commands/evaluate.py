"""Evaluate and report: the models' scores beside the baselines that cost nothing."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from palate import console
from palate.commands import calibrate, comparisons, rankings, seeds
from palate.commands.audit import check_leaks
from palate.commands.prepare import chat_of, prepared
from palate.commands.report import REPORT, report
from palate.commands.score_files import brought, models_brought
from palate.commands.scores import (
    MEASURED,
    VALIDATION,
    Model,
    main_model,
    measured_rows,
    models_of,
    score_files,
    score_model,
)
from palate.commands.server_model import check_scored_with, served_name
from palate.commands.table_rows import Collected, notes, rows_of
from palate.commands.train import begin
from palate.config import Config
from palate.errors import InputError
from palate.samples import Prepared
from palate.store.artifacts import write_json
from palate.store.hub import locate

if TYPE_CHECKING:
    from palate.measure.ablations import Ablations
    from palate.measure.leaks import Audit
    from palate.report.outcome import Outcome

METRICS = "metrics.json"
SENTENCES = 7
"""Of the verdict, shown on the terminal; the report has all of them."""


def evaluate(
    config: Config,
    *,
    adapters: Sequence[Path] = (),
    base_only: bool = False,
    scores: Sequence[Path] = (),
    out: str | None = None,
    as_json: bool = False,
) -> None:
    """Score rows of a split, measure, and write scores, `metrics.json` and `report.html` to a folder of their own.

    The folder is `out`, else `evaluation` in the run's, whose own evidence stays as it is. Without `adapters` it is
    the run's own. Raises `InputError` if there is no adapter, unless `base_only` asks for none.

    `scores` are files that `palate score` wrote, here or elsewhere; no model is loaded then. Raises `InputError` if
    they are not of this data, prompt, base model and adapter.
    """
    from palate.models.adapter import as_trained, check_same_prompt

    console.start_logging()
    chosen = _chosen(config, adapters, base_only, needed=not scores)
    config = as_trained(config, *chosen)
    chat = chat_of(config) if scores else check_scored_with(config)
    for adapter in chosen:
        if adapter.is_dir():
            check_same_prompt(adapter, chat, config.prompt)
    data = prepared(config)
    leaks = check_leaks(config, data)
    folder = Path(out) if out else config.run_path / "evaluation"
    if scores:
        if config.evaluate.ablations:
            raise InputError("scores with a model, expected no --scores beside it", "--ablations")
        if config.evaluate.rank_users:
            raise InputError("scores with a model, expected 0 beside --scores", "evaluate.rank_users")
        parts = brought(config, data, chat, models_brought(chosen), scores, model_name(config))
        known = {model: calibrate.known_calibration(config, model) for model in parts}
        begin(config, folder)
    else:
        models = models_of(config, chosen)
        known = {model: calibrate.known_calibration(config, model) for model in models}
        if config.score.server is not None:
            for model in models:
                served_name(config, model.adapter)  # now rather than after the first has been scored
        begin(config, folder)
        main = main_model(models)
        parts = {
            model: score_model(
                config, data, model, score_files(config, data, model, folder, ablated=model is main), known[model]
            )
            for model in models
        }
    calibrations = {}
    for model, files in parts.items():
        measured, validation = files[MEASURED], files.get(VALIDATION)
        found = calibrate.calibration_of(config, chat, model, measured, validation, known[model], folder)
        if found is not None:
            calibrations[model.key] = found
    outcome = measure(config, data, Collected(parts, calibrations), leaks, folder)
    report(config, data, outcome, folder)
    if as_json:
        print(json.dumps(outcome.to_dict(), ensure_ascii=False, indent=2))
    else:
        show(outcome, config)
        console.out.print(f"report: {folder / REPORT}", highlight=False, soft_wrap=True)


def _chosen(config: Config, adapters: Sequence[Path], base_only: bool, *, needed: bool) -> list[Path]:
    """The adapters that are named, else the run's own; none for the base model alone."""
    from palate.models.adapter import chosen_adapter

    twice = [adapter for n, adapter in enumerate(adapters) if adapter in adapters[:n]]
    if twice:
        raise InputError("is named twice, expected each adapter once", twice[0])
    if not adapters and not needed:
        return [config.run_path / "adapter"]
    named: Sequence[Path | None] = adapters or (None,)
    found = [chosen_adapter(config, adapter, base_only) for adapter in named]
    return [adapter for adapter in found if adapter is not None]


def measure(config: Config, data: Prepared, collected: Collected, leaks: "Audit", folder: Path) -> "Outcome":
    """Metrics with intervals, the baselines on the same rows; written to `metrics.json`."""
    from palate.baselines.registry import fit_baselines, scores_of
    from palate.baselines.statistics import BaselineData
    from palate.report.evaluate import beside_baselines
    from palate.report.evaluate import evaluate as compare
    from palate.report.outcome import Outcome

    name = model_name(config).replace("-Instruct", "")  # every model here is one; the tables are narrow
    known = BaselineData.of(data.samples, config.prepare.rating_threshold, config.seed)
    fitted = fit_baselines(known, config.evaluate.baselines)
    rows = rows_of(config, data, collected, name, known, fitted)
    threshold, split = config.prepare.rating_threshold, config.evaluate.split
    baselines, measured = scores_of(known, fitted, split), measured_rows(config, data)
    found = compare(
        data.samples,
        rows.frames,
        rating_threshold=threshold,
        baselines=baselines,
        rows=measured,
        bootstrap=config.evaluate.bootstrap,
        seed=config.seed,
        labels=rows.labels,
        split=split,
        aside=rows.aside,
        pairs=rows.pairs,
    )
    if found.n:
        found = replace(found, verdict=[*found.verdict, *notes(config, found, collected, rows)])
    main = main_model(collected.models)
    same = beside_baselines(
        data.samples, rows.frames, rating_threshold=threshold, baselines=baselines, rows=measured, split=split
    )
    ranking = rankings.RankedModel(main, rows.labels[main.key], collected.scored[main][MEASURED].key)
    outcome = Outcome(
        model=model_name(config),
        evaluation=found,
        calibrations=collected.calibrations,
        ablations=_ablations(config, data, collected, main, name),
        stack=rows.stack,
        beside=rows.beside,
        rankings=rankings.rankings(config, data, known, fitted, ranking, folder),
        slices=comparisons.slices(config, data, same, found, main.key),
        comparison=comparisons.paired_tests(config, same, found, main.key, rows.beside and rows.beside[0]),
        seeds=rows.seeds,
        leaks=leaks,
    )
    write_json(folder / METRICS, outcome.to_dict())
    return outcome


def _ablations(config: Config, data: Prepared, collected: Collected, model: Model, name: str) -> "Ablations | None":
    """The ablations of one model, if some were scored; P(like) is the uncalibrated one in all of them."""
    from palate.measure.ablations import ABLATIONS, UNCHANGED, compare_ablations
    from palate.measure.calibration import sigmoid

    parts = collected.scored[model]
    scored = [ablation for ablation in ABLATIONS if ablation in parts]
    if not scored:
        return None
    samples = data.samples
    chosen = samples.timeline[samples.position[samples.of(config.evaluate.split)[parts[MEASURED].columns["row"]]]]
    scores = {UNCHANGED: sigmoid(collected.logit(model))}
    scores |= {ablation: sigmoid(collected.logit(model, ablation)) for ablation in scored}
    return compare_ablations(
        samples.timeline,
        chosen,
        scores,
        model=f"{name}, {model.key}",
        rating_threshold=config.prepare.rating_threshold,
        resamples=config.evaluate.bootstrap,
        seed=config.seed,
    )


def show(outcome: "Outcome", config: Config) -> None:
    """Print the table and what it comes to."""
    from palate.report.table import ablation_table, rich_table

    console.out.print()
    console.out.print(rich_table(outcome.evaluation))
    if outcome.ablations is not None:
        console.out.print()
        console.out.print(ablation_table(outcome.ablations))
    console.out.print()
    for sentence in outcome.evaluation.verdict[:SENTENCES]:
        console.out.print(f"• {sentence}", highlight=False)
    if (apart := seeds.sentence(config)) is not None:
        console.out.print(f"• {apart}", highlight=False)
    console.out.print(f"• {_in_the_report(outcome)}", highlight=False)
    console.out.print()


def _in_the_report(outcome: "Outcome") -> str:
    """What the terminal leaves to the page."""
    more = len(outcome.evaluation.verdict) - SENTENCES
    parts = [f"{more} more of these"] if more > 0 else []
    if outcome.ablations is not None:
        parts.append("what the ablations come to")
    if outcome.comparison is not None:
        parts.append("paired tests")
    if outcome.slices is not None:
        parts.append(f"{len(outcome.slices.slices)} slices, and rows that the model wins and loses")
    parts += [
        f"{'the model' if any(e.kind == 'model' for e in table.entries) else 'quick baselines'} ranking items for "
        f"{table.users:,} users"
        for table in outcome.rankings
    ]
    if outcome.calibrations:
        parts.append("reliability before and after calibration")
    if outcome.seeds is not None:
        parts.append("how far the adapters lie apart")
    if outcome.leaks is not None:
        parts.append("the leak audit")
    return f"In the report: {'; '.join([*parts, 'curves and reliability'])}."


def model_name(config: Config) -> str:
    """A short name of the base model for tables; of a GGUF file its own, which tells the quantization."""
    location = locate(config.model.base)
    return location.path.stem if location.path is not None else str(location.hub_id).rpartition("/")[2]
