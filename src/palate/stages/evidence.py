"""Evaluate and report: the models' scores beside the baselines that cost nothing."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palate import console
from palate.artifacts import write_json
from palate.config import Config, dump_config
from palate.errors import InputError
from palate.hub import locate
from palate.samples import Prepared
from palate.stages import calibrate, seeds
from palate.stages.brought import brought, models_brought
from palate.stages.data import chat_of, prepared
from palate.stages.leaks import check_leaks, keep_leaks, told_leaks
from palate.stages.model import begin
from palate.stages.rows import Collected, notes, rows_of
from palate.stages.scoring import (
    MEASURED,
    VALIDATION,
    Model,
    main_model,
    measured_rows,
    models_of,
    score_files,
    score_model,
)
from palate.stages.served import check_scored_with, served_name

if TYPE_CHECKING:
    import polars as pl

    from palate.evaluate.ablations import Ablations
    from palate.evaluate.calibration import Calibration
    from palate.evaluate.evaluation import Evaluation
    from palate.evaluate.seeds import OverSeeds
    from palate.evaluate.stacking import Stack

METRICS = "metrics.json"
REPORT = "report.html"


@dataclass(frozen=True)
class Outcome:
    """What an evaluation comes to."""

    evaluation: "Evaluation"
    calibrations: "Mapping[str, Calibration]"
    ablations: "Ablations | None"
    stack: "Stack | None"
    seeds: "OverSeeds | None"
    believed: "pl.DataFrame"
    """`row` and P(like) of the last model of the table's rows, calibrated if it is."""

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON's own types, as `metrics.json` holds it."""
        stack = None
        if self.stack is not None:
            stack = {"weights": self.stack.weights, "rows": self.stack.rows}
        return self.evaluation.to_dict() | {
            "calibrations": {key: asdict(calibration) for key, calibration in self.calibrations.items()},
            "ablations": None if self.ablations is None else self.ablations.to_dict(),
            "stack": stack,
            "seeds": None if self.seeds is None else self.seeds.to_dict(),
        }


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
    from palate.train.adapter import check_same_prompt

    console.start_logging()
    chat = chat_of(config) if scores else check_scored_with(config)
    chosen = _chosen(config, adapters, base_only, needed=not scores)
    for adapter in chosen:
        if adapter.is_dir():
            check_same_prompt(adapter, chat, config.prompt)
    data = prepared(config)
    leaks = check_leaks(config, data)
    folder = Path(out) if out else config.run_path / "evaluation"
    if scores:
        if config.evaluate.ablations:
            raise InputError("asks a model again, expected no --scores beside it", "--ablations")
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
    outcome = measure(config, data, Collected(parts, calibrations), folder)
    keep_leaks(leaks, folder / METRICS)
    report(config, data, outcome, folder)
    if as_json:
        print(json.dumps(outcome.to_dict(), ensure_ascii=False, indent=2))
    else:
        show(outcome, config)
        console.out.print(f"report: {folder / REPORT}", highlight=False, soft_wrap=True)


def _chosen(config: Config, adapters: Sequence[Path], base_only: bool, *, needed: bool) -> list[Path]:
    """The adapters that are named, else the run's own; none for the base model alone."""
    from palate.train.adapter import chosen_adapter

    twice = [adapter for n, adapter in enumerate(adapters) if adapter in adapters[:n]]
    if twice:
        raise InputError("is named twice, expected each adapter once", twice[0])
    if not adapters and not needed:
        return [config.run_path / "adapter"]
    named: Sequence[Path | None] = adapters or (None,)
    found = [chosen_adapter(config, adapter, base_only) for adapter in named]
    return [adapter for adapter in found if adapter is not None]


def measure(config: Config, data: Prepared, collected: Collected, folder: Path) -> Outcome:
    """Metrics with intervals, the baselines on the same rows; written to `metrics.json`."""
    from palate.evaluate.evaluation import evaluate as compare

    name = model_name(config).replace("-Instruct", "")  # every model here is one; the tables are narrow
    rows = rows_of(config, data, collected, name)
    found = compare(
        data.samples,
        rows.frames,
        rating_threshold=config.prepare.rating_threshold,
        baselines=config.evaluate.baselines,
        rows=measured_rows(config, data),
        bootstrap=config.evaluate.bootstrap,
        seed=config.seed,
        labels=rows.labels,
        split=config.evaluate.split,
        aside=rows.aside,
        pairs=rows.pairs,
    )
    if found.n:
        found = replace(found, verdict=[*found.verdict, *notes(config, found, collected, rows)])
    main = main_model(collected.models)
    ablations = _ablations(config, data, collected, main, name)
    outcome = Outcome(found, collected.calibrations, ablations, rows.stack, rows.seeds, collected.believed(main))
    write_json(folder / METRICS, outcome.to_dict())
    return outcome


def _ablations(config: Config, data: Prepared, collected: Collected, model: Model, name: str) -> "Ablations | None":
    """The ablations of one model, if some were scored; P(like) is the uncalibrated one in all of them."""
    from palate.evaluate.ablations import ABLATIONS, UNCHANGED, compare_ablations
    from palate.evaluate.calibration import sigmoid

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


def show(outcome: Outcome, config: Config) -> None:
    """Print the table and what it comes to."""
    from palate.evaluate.table import ablation_table, rich_table

    console.out.print()
    console.out.print(rich_table(outcome.evaluation))
    if outcome.ablations is not None:
        console.out.print()
        console.out.print(ablation_table(outcome.ablations))
    console.out.print()
    for sentence in outcome.evaluation.verdict:
        console.out.print(f"• {sentence}", highlight=False)
    for sentence in outcome.ablations.reading if outcome.ablations is not None else ():
        console.out.print(f"• {sentence}", highlight=False)
    if (apart := seeds.sentence(config)) is not None:
        console.out.print(f"• {apart}", highlight=False)
    console.out.print()


def report(config: Config, data: Prepared, outcome: Outcome, folder: Path) -> None:
    """Write `report.html` to `folder`; a run's own evidence also goes into its adapter's model card."""
    from palate.evaluate.report import ReportInputs, write_report
    from palate.train.adapter import ABOUT
    from palate.train.card import RUN, write_card

    run, found, split = config.run_path, outcome.evaluation, config.evaluate.split
    trained = config.train.max_samples or data.manifest["stats"]["samples"]["train"]
    write_report(
        folder / REPORT,
        ReportInputs(
            title=config.name,
            evaluation=found,
            ablations=outcome.ablations,
            run={
                "model": model_name(config) + (", in 4 bits (NF4)" if config.model.quantization == "nf4" else ""),
                "data": data.manifest["stats"]["name"],
                "split": config.prepare.split,
                "trained on": f"{trained:,} samples",
                "scored": f"{found.n:,} of {data.manifest['stats']['samples'][split]:,} {split} samples",
                "seed": config.seed,
            }
            | ({} if config.score.server is None else {"scored by": config.score.server})
            | ({} if (apart := seeds.sentence(config)) is None else {"seeds": apart})
            | told_leaks(folder / METRICS),
            lengths=_json_if_there(run / "lengths.json"),
            training=_lines_if_there(run / "training_log.jsonl"),
            examples=_examples(config, data, outcome.believed),
            data_stats=data.manifest["stats"],
            prompt=_prompt(config, data),
            config=dump_config(config),
            commands=_commands(config),
        ),
    )
    adapter = run / "adapter"
    if folder == run and all((adapter / name).is_file() for name in (ABOUT, RUN)):
        write_card(adapter, config, metrics=card_rows(found), data_manifest=data.manifest)


def card_rows(found: "Evaluation") -> list[dict[str, Any]]:
    """The table of the model card."""
    return [
        {
            "": entry.label,
            "AUC": entry.metrics.auc if entry.metrics.auc is not None else "–",
            "95 %": "–" if (i := entry.intervals.get("auc")) is None else f"[{i.low:.3f}, {i.high:.3f}]",
            "accuracy": entry.metrics.accuracy if entry.metrics.accuracy is not None else "–",
            "log loss": entry.metrics.log_loss if entry.metrics.log_loss is not None else "–",
            "ECE": entry.metrics.ece if entry.metrics.ece is not None else "–",
        }
        for entry in found.entries
    ]


def model_name(config: Config) -> str:
    """A short name of the base model for tables; of a GGUF file its own, which tells the quantization."""
    location = locate(config.model.base)
    return location.path.stem if location.path is not None else str(location.hub_id).rpartition("/")[2]


def _examples(config: Config, data: Prepared, scores: "pl.DataFrame") -> list[dict[str, Any]]:
    """Raw samples with their scores: those that the model gets most right and most wrong; none of training samples."""
    from palate.evaluate import extreme_rows

    split = config.evaluate.split
    if split == "train":  # there is no raw file of them
        return []
    rows = data.samples.of(split)
    p_of = dict(zip(scores["row"].to_list(), scores["p"].to_list(), strict=True))
    wanted = set(extreme_rows(scores, data.samples.label[rows]))
    with (data.folder / f"{split}_raw.jsonl").open(encoding="utf-8") as lines:
        samples = {row: json.loads(line) for row, line in enumerate(lines) if row in wanted}
    return [
        {name: sample[name] for name in ("history_titles", "candidate_title", "label")} | {"p": p_of[row]}
        for row, sample in samples.items()
    ]


def _prompt(config: Config, data: Prepared) -> str | None:
    """The first test sample as the model reads it, up to its answer."""
    from palate.prompt.messages import to_generation_messages

    with (data.folder / "test_raw.jsonl").open(encoding="utf-8") as lines:
        line = next(lines, None)
    if line is None:
        return None
    sample = json.loads(line)
    example = config.prompt.alpaca(
        sample["history_titles"], sample["candidate_title"], sample["label"], len(sample["history"])
    )
    chat = chat_of(config)
    text = chat.tokenizer.decode(chat.decision_prompts([to_generation_messages(example)])[0])
    assert isinstance(text, str)
    return text


def _commands(config: Config) -> Sequence[str]:
    return [
        f"palate run {config.run_path / 'config.yaml'}",
        f"palate lengths --config {config.run_path / 'config.yaml'} --show-examples 2",
        f"palate evaluate --config {config.run_path / 'config.yaml'} --adapter {config.run_path / 'adapter'}",
    ]


def _json_if_there(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _lines_if_there(path: Path) -> list[Any] | None:
    if not path.is_file():
        return None
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]  # what follows the last line break was cut off
