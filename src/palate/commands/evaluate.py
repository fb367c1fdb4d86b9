"""Evaluate: the models' scores calibrated, measured beside the baselines that cost nothing, and reported."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from palate import console
from palate.ablations import ABLATIONS
from palate.baselines.registry import RANKERS, ladder_of, scores_of
from palate.commands import rankings
from palate.commands.audit import check_leaks
from palate.commands.calibrate import calibrations_of
from palate.commands.correction import correction_of
from palate.commands.item_vectors import check_vectors
from palate.commands.offset import known_fits, offsets_of
from palate.commands.prepare import chat_of, prepared
from palate.commands.report import evidence_folder, publish, show_evidence
from palate.commands.score_files import possible_models, scores_in
from palate.commands.scores import (
    MEASURED,
    Model,
    main_model,
    measured_file,
    measured_rows,
    models_of,
    score_files,
    score_model,
    sum_file,
)
from palate.commands.server_model import check_scored_with, served_name
from palate.commands.table_rows import Collected, adapters_apart, notes, rows_of
from palate.commands.train import begin
from palate.config import Config
from palate.errors import InputError
from palate.measure.ablations import UNCHANGED, Ablations, compare_ablations
from palate.measure.evaluation import Evaluation
from palate.measure.keys import ALONE, BESIDE, STACKED, ZERO_SHOT
from palate.measure.ladder import Ladder
from palate.measure.leaks import Audit
from palate.measure.paired import Comparison, SameRows, compare
from palate.measure.rows import beside_baselines, measure_rows
from palate.measure.slices import Slices, measure_slices
from palate.models.adapter import as_trained, check_same_prompt, chosen_adapter
from palate.report.costs import Cost, timed
from palate.report.outcome import Outcome
from palate.report.user_examples import user_examples
from palate.samples import Prepared
from palate.score.files import speed_file, thousand_seconds
from palate.store.artifacts import read_json
from palate.store.hub import locate


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
    console.start_logging()
    chosen = _chosen(config, adapters, base_only, needed=not scores)
    config = as_trained(config, *chosen)
    chat = chat_of(config) if scores else check_scored_with(config)
    for adapter in chosen:
        if adapter.is_dir():
            check_same_prompt(adapter, chat, config.prompt)
    data = prepared(config)
    for adapter in chosen:
        correction_of(config, data, adapter)  # what it refuses, it refuses before anything is scored
        check_vectors(config, data, adapter)
    leaks = check_leaks(config, data)
    folder = evidence_folder(config, out)
    if scores:
        if config.evaluate.ablations:
            raise InputError("scores with a model, expected none beside --scores", "evaluate.ablations")
        if config.evaluate.rank_users:
            raise InputError("scores with a model, expected 0 beside --scores", "evaluate.rank_users")
        scored = scores_in(config, data, chat, possible_models(chosen), scores, model_name(config))
        known, factors = known_fits(config, scored)
        begin(config, folder)
    else:
        models = models_of(config, chosen)
        known, factors = known_fits(config, models)
        if config.score.server is not None:
            for model in models:
                served_name(config, model.adapter)  # now rather than after the first has been scored
        begin(config, folder)
        main = main_model(models)
        files = {model: score_files(config, data, model, folder, ablated=model is main) for model in models}
        scored = {
            model: score_model(config, data, model, files[model], factors[model] or known[model]) for model in models
        }
    calibrations = calibrations_of(config, chat, scored, known, folder)
    offsets = offsets_of(config, chat, data, scored, factors, folder)
    outcome = conclude(Collected(config, data, scored, calibrations, offsets), leaks, folder)
    show_evidence(config, outcome, folder, as_json=as_json)


def _chosen(config: Config, adapters: Sequence[Path], base_only: bool, *, needed: bool) -> list[Path]:
    """The adapters that are named, else the run's own; none for the base model alone."""
    twice = [adapter for n, adapter in enumerate(adapters) if adapter in adapters[:n]]
    if twice:
        raise InputError("is named twice, expected each adapter once", twice[0])
    if not adapters and not needed:
        return [config.run_path / "adapter"]
    found = [chosen_adapter(config, adapter, base_only) for adapter in (adapters or (None,))]
    return [adapter for adapter in found if adapter is not None]


def conclude(collected: Collected, leaks: Audit, folder: Path) -> Outcome:
    """Measure what was scored, beside the baselines on the same rows, and write the evidence."""
    config, data, known = collected.config, collected.data, collected.known
    rows, split, main = rows_of(collected, short_name(config)), config.evaluate.split, main_model(collected.models)
    baselines = scores_of(known, collected.baselines, split)
    _write_sums(collected, folder)
    same = beside_baselines(data.samples, rows.frames, baselines, rows=measured_rows(config, data), split=split)
    found = measure_rows(
        *(same, rows),
        bootstrap=config.evaluate.bootstrap, seed=config.seed, split=split, likes=data.samples.likes,
    )  # fmt: skip
    rows.seeds = adapters_apart(collected, same)
    sentences = notes(found, collected, rows) if found.n else []
    found = replace(found, rating_threshold=data.samples.threshold, verdict=[*found.verdict, *sentences])
    ranking = rankings.RankedModel(
        main, rows.labels[main.key], collected.scored[main][MEASURED].key, collected.offsets.get(main.key)
    )
    outcome = Outcome(
        model=model_name(config),
        evaluation=found,
        calibrations=collected.calibrations,
        offsets={key: each.offset for key, each in collected.offsets.items()},
        ablations=_ablations(collected, main),
        stack=rows.stack,
        beside=rows.beside,
        rankings=rankings.rankings(config, data, known, collected.baselines, ranking, folder),
        slices=_slices(data, same, found, main.key),
        comparison=_paired_tests(same, found, main.key, rows.beside and rows.beside[0]),
        seeds=rows.seeds,
        leaks=leaks,
        ladder=_ladder(collected, same, found, baselines, main, folder),
    )
    p = same.scores[found.calibrated_key(main.key)]
    users = user_examples(data.samples, split, same.rows, p)
    publish(config, data, outcome, folder, users=users, costs=_costs(collected, found, same, folder))
    return outcome


def _write_sums(collected: Collected, folder: Path) -> None:
    """Write the scores of models that correct a baseline once more, with P(like) of the sum."""
    from palate.score.files import Scored, write_scores

    for model in collected.models:
        offset = collected.offsets.get(model.key)
        if offset is not None:
            scored = collected.scored[model][MEASURED]
            columns = {**scored.columns, "p": collected.p(model).astype(np.float32)}
            found = Scored(columns, {**scored.key, "offset": offset.describe()})
            write_scores(sum_file(collected.config, model, folder), found)


def _ladder(
    collected: Collected, same: SameRows, found: Evaluation, baselines: pl.DataFrame, main: Model, folder: Path
) -> Ladder | None:
    """The fitted baselines of the ladder on all rows of the split, and the main model on the measured ones.

    `folder` has the main model's scores. None without an answer of each kind, without resamples, and without a
    baseline of the ladder.
    """
    from palate.measure.ladder import LANGUAGE_MODEL, Scored, Step, build_ladder

    known, config, likes = collected.known, collected.config, collected.data.samples.likes
    ladder = [key for key in ladder_of(likes) if key in baselines.columns]
    queries, liked = known.of_split(found.split)
    if not config.evaluate.bootstrap or not liked.any() or liked.all() or not ladder:
        return None

    def scored(key: str) -> Scored:
        cost = timed(key, collected.baselines[key], queries)
        return Scored(baselines[key].to_numpy(), thousand_seconds=cost.thousand_seconds)

    steps = [Step(key, RANKERS[key].label, partial(scored, key)) for key in ladder]
    own, thousand = found.calibrated_key(main.key), thousand_seconds(measured_file(config, main, folder))
    label = f"{found.entry(main.key).label}, calibrated" if own != main.key else found.entry(main.key).label
    steps.append(Step(LANGUAGE_MODEL, label, lambda: Scored(same.scores[own], None, thousand, same.rows)))
    users = known.user[queries.anchor]
    sampled, resamples = likes is not None, config.evaluate.bootstrap
    return build_ladder(liked, users, steps, resamples=resamples, seed=config.seed, whole=True, sampled=sampled)


def _costs(collected: Collected, found: Evaluation, same: SameRows, folder: Path) -> list[Cost]:
    """The speed of each model, if its scores were made here, and that of the best baseline, measured now."""
    costs, labels = [], {entry.key: entry.label for entry in found.entries}
    for model in collected.models:
        file = speed_file(measured_file(collected.config, model, folder))
        if file.is_file():
            costs.append(Cost(labels[model.key], **read_json(file)))
    best = found.best_baseline()
    if best is not None and same.rows.size:
        queries = collected.known.of_split(found.split)[0].take(same.rows)
        costs.append(timed(f"{best.label}, the best baseline", collected.baselines[best.key], queries))
    return costs


def _ablations(collected: Collected, model: Model) -> Ablations | None:
    """The ablations of one model, if some were scored; P(like) is the uncalibrated one in all of them."""
    parts, config, samples = collected.scored[model], collected.config, collected.data.samples
    scored = [ablation for ablation in ABLATIONS if ablation in parts]
    if not scored:
        return None
    return compare_ablations(
        samples,
        samples.of(config.evaluate.split)[parts[MEASURED].columns["row"]],
        {UNCHANGED: collected.p(model), **{ablation: collected.p(model, ablation) for ablation in scored}},
        model=f"{short_name(config)}, {model.key}",
        resamples=config.evaluate.bootstrap,
        seed=config.seed,
    )


def _paired_tests(same: SameRows, found: Evaluation, main: str, beside: str | None) -> Comparison | None:
    """The pairs that a reader asks for; each model calibrated if it can be, so that probabilities are compared fairly.

    `beside` is the baseline that the model is stacked with.
    """
    best, calibrated = found.best_baseline(), found.calibrated_key(main)
    if best is None:
        return None
    pairs = [(found.calibrated_key(entry.key), best.key) for entry in found.models if not entry.aside]
    if ZERO_SHOT in same.scores and main != ZERO_SHOT:
        pairs.append((calibrated, found.calibrated_key(ZERO_SHOT)))
    if calibrated != main:
        pairs.append((calibrated, main))
    if {STACKED, ALONE} <= same.scores.keys():
        pairs += [(STACKED, ALONE), (STACKED, calibrated)]
    if beside is not None and beside != best.key:
        pairs.append((BESIDE, beside))
    pairs += [(e.key, e.corrects) for e in found.models if e.corrects is not None and e.corrects != best.key]
    sampled = found.negatives is not None
    return compare(same.y, same.users, same.scores, pairs, resamples=found.resamples, seed=found.seed, sampled=sampled)


def _slices(data: Prepared, same: SameRows, found: Evaluation, main: str) -> Slices | None:
    """The main model, calibrated if it can be, against the best baseline, part by part of the rows."""
    best, model = found.best_baseline(), found.calibrated_key(main)
    if best is None:
        return None
    return measure_slices(
        data.samples,
        {key: same.scores[key] for key in (model, best.key)},
        model=model,
        baseline=best.key,
        rows=same.rows,
        split=found.split,
        resamples=found.resamples,
        seed=found.seed,
    )


def model_name(config: Config) -> str:
    """A short name of the base model for tables; of a GGUF file its own, which tells the quantization."""
    location = locate(config.model.base)
    return location.path.stem if location.path is not None else str(location.hub_id).rpartition("/")[2]


def short_name(config: Config) -> str:
    """The same without `-Instruct`: every model here is one, and the tables are narrow."""
    return model_name(config).replace("-Instruct", "")
