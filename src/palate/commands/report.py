"""The page of an evaluation: what it tells, gathered from the run's folder and the data."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palate.commands import seeds
from palate.commands.prepare import chat_of
from palate.config import Config, dump_config
from palate.samples import Prepared

if TYPE_CHECKING:
    from palate.measure.evaluation import Evaluation
    from palate.measure.leaks import Audit
    from palate.measure.slices import Slices
    from palate.report.outcome import Outcome

REPORT = "report.html"


def report(config: Config, data: Prepared, outcome: "Outcome", folder: Path) -> None:
    """Write `report.html` to `folder`; a run's own evidence also goes into its adapter's model card."""
    from palate.models.adapter import ABOUT
    from palate.report.run_page import ReportInputs, write_report
    from palate.train.card import RUN, write_card

    run, found, split = config.run_path, outcome.evaluation, config.evaluate.split
    trained = config.train.max_samples or data.manifest["stats"]["samples"]["train"]
    write_report(
        folder / REPORT,
        ReportInputs(
            title=config.name,
            evaluation=found,
            comparison=outcome.comparison,
            calibrations=outcome.calibrations,
            slices=outcome.slices,
            histories=_histories(config, data, outcome.slices),
            rankings=outcome.rankings,
            ablations=outcome.ablations,
            seeds=outcome.seeds,
            leaks=outcome.leaks,
            run={
                "model": outcome.model + (", in 4 bits (NF4)" if config.model.quantization == "nf4" else ""),
                "data": data.manifest["stats"]["name"],
                "split": config.prepare.split,
                "trained on": f"{trained:,} samples",
                "scored": f"{found.n:,} of {data.manifest['stats']['samples'][split]:,} {split} samples",
                "seed": config.seed,
            }
            | ({} if config.score.server is None else {"scored by": config.score.server})
            | ({} if (apart := seeds.sentence(config)) is None else {"seeds": apart})
            | {"leak audit": _fatal(outcome.leaks)},
            lengths=_json_if_there(run / "lengths.json"),
            training=lines_if_there(run / "training_log.jsonl"),
            data_stats=data.manifest["stats"],
            prompt=_prompt(config, data),
            config=dump_config(config),
            commands=_commands(config),
        ),
    )
    adapter = run / "adapter"
    if folder == run and all((adapter / name).is_file() for name in (ABOUT, RUN)):
        write_card(adapter, config, metrics=card_rows(found), data_manifest=data.manifest)


def _fatal(found: "Audit | None") -> str:
    """The worst of the leak audit; the page has the rest."""
    if found is None or not found.fatal:
        return "nothing fatal"
    return f"{len(found.fatal)} fatal: {', '.join(finding.check for finding in found.fatal)}"


def card_rows(found: "Evaluation") -> list[dict[str, Any]]:
    """The table of the model card."""
    from palate.measure.metrics import metrics_in

    rows = []
    for entry in found.entries:
        row: dict[str, Any] = {"": entry.label}
        for metric in metrics_in("card"):
            row[metric.label] = getattr(entry.metrics, metric.key)
            if metric.key == "auc":
                row["95 %"] = (i := entry.intervals.get("auc")) and f"[{i.low:.3f}, {i.high:.3f}]"
        row["ECE, noise alone"] = entry.metrics.ece_floor
        rows.append({name: "–" if value is None else value for name, value in row.items()})
    return rows


def _histories(config: Config, data: Prepared, slices: "Slices | None") -> dict[int, list[str]]:
    """The histories of the rows that are told as examples; of training samples there is no raw file."""
    split = config.evaluate.split
    if slices is None or split == "train":
        return {}
    wanted = {example.row for example in (*slices.wins, *slices.losses)}
    with (data.folder / f"{split}_raw.jsonl").open(encoding="utf-8") as lines:
        told = {row: json.loads(line)["history_titles"] for row, line in enumerate(lines) if row in wanted}
    return {row: text.splitlines() if isinstance(text, str) else list(text) for row, text in told.items()}


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
        f"palate run {config.run_path}",
        f"palate lengths {config.run_path} --show-examples 2",
        f"palate evaluate {config.run_path}",
    ]


def _json_if_there(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def lines_if_there(path: Path) -> list[Any] | None:
    """The JSON of each whole line of a file; None where there is no file."""
    if not path.is_file():
        return None
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]  # what follows the last line break was cut off
