"""Evaluate and report: the model's scores beside the baselines that cost nothing."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palate import console
from palate.artifacts import write_json
from palate.config import Config, dump_config
from palate.console import log
from palate.hub import MODELS
from palate.samples import Prepared
from palate.stages.data import chat_of, prepared
from palate.stages.model import begin, chosen_rows, score

if TYPE_CHECKING:
    import polars as pl

    from palate.evaluate.evaluation import Evaluation

METRICS = "metrics.json"
REPORT = "report.html"


@dataclass(frozen=True)
class ScoreFile:
    """A file of scores: under which key it is reported, and which adapter it is of (None: the base model)."""

    key: str
    adapter: Path | None
    path: Path


def score_files(config: Config, adapter: Path | None) -> list[ScoreFile]:
    """What is to be scored: the base model if the config asks for it, and the adapter if there is one."""
    from palate.evaluate.evaluation import FINE_TUNED, ZERO_SHOT

    folder = config.run_path / "scores"
    wanted = []
    if config.evaluate.zero_shot or adapter is None:
        wanted.append(ScoreFile(ZERO_SHOT, None, folder / f"{ZERO_SHOT}.parquet"))
    if adapter is not None:
        wanted.append(ScoreFile(FINE_TUNED, adapter, folder / f"{FINE_TUNED}.parquet"))
    return wanted


def evaluate(config: Config, *, adapter: Path | None = None, as_json: bool = False) -> None:
    """Score the test rows, measure, and write scores, `metrics.json` and `report.html` to the run's folder.

    Without `adapter` it is the run's own; if there is none either, the base model is scored alone.
    """
    console.start_logging()
    data = prepared(config)
    chat_of(config)
    begin(config)
    if adapter is None and (config.run_path / "adapter").is_dir():
        adapter = config.run_path / "adapter"
    if adapter is None:
        log.info("%s: no adapter there, so the base model is scored alone", config.run_path / "adapter")
    scores = {file.key: score(config, data, file.adapter, file.path) for file in score_files(config, adapter)}
    found = measure(config, data, scores)
    report(config, data, found, scores)
    if as_json:
        print(json.dumps(found.to_dict(), ensure_ascii=False, indent=2))
    else:
        show(found)
        console.out.print(f"report: {config.run_path / REPORT}", highlight=False, soft_wrap=True)


def measure(config: Config, data: Prepared, scores: Mapping[str, "pl.DataFrame"]) -> "Evaluation":
    """Metrics with intervals, the baselines on the same rows; written to `metrics.json`."""
    from palate.evaluate.evaluation import evaluate as compare

    name = model_name(config)
    found = compare(
        data.samples.timeline,
        scores,
        rating_threshold=config.prepare.rating_threshold,
        history_len=config.prepare.history_len,
        rows=chosen_rows(config, data),
        bootstrap=config.evaluate.bootstrap,
        seed=config.seed,
        labels={key: f"{name}, {key}" for key in scores},
    )
    write_json(config.run_path / METRICS, found.to_dict())
    return found


def show(found: "Evaluation") -> None:
    """Print the table and what it comes to."""
    from palate.evaluate.table import rich_table

    console.out.print()
    console.out.print(rich_table(found))
    console.out.print()
    for sentence in found.verdict:
        console.out.print(f"• {sentence}", highlight=False)
    console.out.print()


def report(config: Config, data: Prepared, found: "Evaluation", scores: Mapping[str, "pl.DataFrame"]) -> None:
    """Write `report.html`, and the metrics into the adapter's model card."""
    from palate.evaluate.report import ReportInputs, write_report
    from palate.train.adapter import ABOUT
    from palate.train.card import RUN, write_card

    run = config.run_path
    last = list(scores)[-1]
    trained = config.train.max_samples or data.manifest["stats"]["samples"]["train"]
    write_report(
        run / REPORT,
        ReportInputs(
            title=config.name,
            evaluation=found,
            run={
                "model": config.model.base + (", 4 bits (NF4)" if config.model.quantization == "nf4" else ""),
                "data": data.manifest["stats"]["name"],
                "split": config.prepare.split,
                "trained on": f"{trained:,} samples",
                "scored": f"{found.n:,} of {data.manifest['stats']['samples']['test']:,} test samples",
                "seed": config.seed,
            },
            lengths=_json_if_there(run / "lengths.json"),
            training=_lines_if_there(run / "training_log.jsonl"),
            examples=_examples(data, scores[last]),
            data_stats=data.manifest["stats"],
            prompt=_prompt(config, data),
            config=dump_config(config),
            commands=_commands(config),
        ),
    )
    adapter = run / "adapter"
    if all((adapter / name).is_file() for name in (ABOUT, RUN)) and len(scores) > 0:
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
        }
        for entry in found.entries
    ]


def model_name(config: Config) -> str:
    """A short name of the base model for tables: what comes after the last slash."""
    base = config.model.base
    shipped = MODELS.get(base)
    return Path(shipped.hub_id if shipped else base).name.removesuffix(".gguf")


def _examples(data: Prepared, scores: "pl.DataFrame") -> list[dict[str, Any]]:
    """Raw test samples with their scores: those that the model gets most right and most wrong."""
    from palate.evaluate import extreme_rows

    test = data.samples.of("test")
    p_of = dict(zip(scores["row"].to_list(), scores["p"].to_list(), strict=True))
    wanted = set(extreme_rows(scores, data.samples.label[test]))
    with (data.folder / "test_raw.jsonl").open(encoding="utf-8") as lines:
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
        sample["history_titles"], sample["candidate_title"], sample["label"], config.prepare.history_len
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
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else None
