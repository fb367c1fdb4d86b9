"""The outputs of an evaluation: `metrics.json`, the page, the model card's table, and the terminal's."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from palate import console
from palate.commands import seeds
from palate.commands.prepare import chat_of
from palate.config import Config, dump_config
from palate.errors import InputError
from palate.measure.evaluation import Evaluation
from palate.measure.metrics import metrics_in
from palate.measure.slices import Slices
from palate.models.adapter import ABOUT, TRAINING
from palate.prompt.messages import to_generation_messages
from palate.report.answer import answer
from palate.report.costs import Cost
from palate.report.ladder import ladder_table, use_sentence
from palate.report.outcome import Outcome, read_metrics
from palate.report.page import About, render_report, write_page
from palate.report.table import ablation_table, evaluation_table
from palate.report.user_examples import UserExample
from palate.samples import Prepared
from palate.store.artifacts import read_json, write_json
from palate.store.keys import recorded
from palate.store.places import check_results
from palate.train.card import write_card

METRICS = "metrics.json"
REPORT = "report.html"
SPEED = "scores/ladder.speed.json"
"""The times of the ladder in a run's folder, apart from its metrics: they differ each time."""
SENTENCES = 7
"""Number of the verdict's sentences on the terminal; the report has all of them."""


def evidence_folder(config: Config, out: str | None) -> Path:
    """Where an evaluation goes: `out`, else `evaluation` in the run's; raises `InputError` if it has others' files."""
    folder = Path(out) if out else config.run_path / "evaluation"
    check_results(folder, "palate evaluate", ("config.yaml", METRICS, REPORT, "calibration.json", "scores"))
    return folder


def publish(
    config: Config,
    data: Prepared,
    outcome: Outcome,
    folder: Path,
    *,
    users: Sequence[UserExample] = (),
    costs: Sequence[Cost] = (),
) -> None:
    """Write `metrics.json` and `report.html` to `folder`; a run's own evidence also goes into its adapter's card, and
    the times of its ladder into a file.

    `users` and `costs` are shown on the page.
    """
    about = replace(_about(config, data, outcome), users=users, costs=costs)
    write_evidence(outcome, about, folder)
    if folder == config.run_path and outcome.ladder is not None:
        write_json(folder / SPEED, {rung.key: rung.thousand_seconds for rung in outcome.ladder.rungs})
    adapter = config.run_path / "adapter"
    if folder == config.run_path and all((adapter / name).is_file() for name in (ABOUT, TRAINING)):
        write_card(adapter, config, metrics=card_rows(outcome.evaluation), data_manifest=data.manifest)


def run_metrics(run: Path) -> dict[str, Any]:
    """The content of a run's `metrics.json`, with the times of its ladder; raises `InputError` without one."""
    metrics, seconds = read_metrics(run / METRICS), recorded(run / SPEED)
    for rung in (metrics.get("ladder") or {}).get("rungs", ()):
        rung["thousand_seconds"] = seconds.get(rung.get("key"))
    return metrics


def write_evidence(outcome: Outcome, about: About, folder: Path) -> None:
    """Write `metrics.json` and `report.html`."""
    write_json(folder / METRICS, outcome.to_dict())
    write_page(folder / REPORT, render_report(outcome, about))


def show_evidence(config: Config, outcome: Outcome, folder: Path, *, as_json: bool) -> None:
    """Print the answer, the table, the verdict and the report's path, or the metrics as JSON."""
    if as_json:
        console.print_json(outcome.to_dict())
        return
    show_answer(outcome)
    tables = [evaluation_table(outcome.evaluation, console.out.width)]
    if outcome.ablations is not None:
        tables.append(ablation_table(outcome.ablations))
    for table in tables:
        console.out.print()
        console.out.print(table)
    console.out.print()
    apart = seeds.sentence(config)
    for sentence in (*outcome.evaluation.verdict[:SENTENCES], *([apart] if apart else []), _in_the_report(outcome)):
        console.out.print(f"• {sentence}")
    console.out.print()
    console.out.print(f"report: {folder / REPORT}", soft_wrap=True)


def show_answer(outcome: Outcome, *, with_table: bool = False) -> None:
    """Print the first lines of the report with their warnings; with a table, also the ladder."""
    first, ladder = answer(outcome.evaluation), outcome.ladder
    console.out.print()
    if ladder is not None:
        console.out.print(use_sentence(ladder), style="bold")
    if first is not None:
        console.out.print(first.sentence, style="" if ladder is not None else "bold")
        for warning in first.warnings:
            console.out.print(f"Warning: {warning}", style="yellow")
    if with_table and ladder is not None:
        console.out.print()
        against = "" if outcome.evaluation.negatives is None else f", {outcome.evaluation.negatives}"
        console.out.print(ladder_table(ladder, f"{ladder.n:,} {outcome.evaluation.split} rows{against}"))


def _in_the_report(outcome: Outcome) -> str:
    """The sentence that names the parts of the page."""
    more = len(outcome.evaluation.verdict) - SENTENCES
    slices = outcome.slices and f"{len(outcome.slices.slices)} slices, and rows that the model wins and loses"
    rankings = [
        f"{'the model' if any(e.kind == 'model' for e in table.entries) else 'quick baselines'} ranking items for "
        f"{table.users:,} users"
        for table in outcome.rankings
    ]
    parts = [
        more > 0 and f"{more} more of these",
        outcome.ablations and "what the ablations come to",
        outcome.comparison and "paired tests",
        slices,
        *rankings,
        outcome.calibrations and not outcome.evaluation.negatives and "reliability before and after calibration",
        outcome.seeds and "how far the adapters lie apart",
        outcome.leaks and "the leak audit",
        "curves" if outcome.evaluation.negatives else "curves and reliability",
    ]
    return f"In the report: {'; '.join(str(part) for part in parts if part)}."


def _about(config: Config, data: Prepared, outcome: Outcome) -> About:
    """The context of the page, from the run's folder and the data."""
    run, split, stats = config.run_path, config.evaluate.split, data.manifest["stats"]
    trained, pairs = config.train.max_samples or stats["samples"]["train"], config.train.unrated
    facts = {
        "model": outcome.model + (", in 4 bits (NF4)" if config.model.quantization == "nf4" else ""),
        "data": stats["name"],
        "split": config.prepare.split,
        "trained on": f"{trained:,} samples" + (f", each with up to {pairs} unrated pairs" if pairs else ""),
        "scored": f"{outcome.evaluation.n:,} of {stats['samples'][split]:,} {split} samples",
        "seed": config.seed,
        "scored by": config.score.server,
        "seeds": seeds.sentence(config),
        "leak audit": "nothing fatal" if outcome.leaks is None else outcome.leaks.fatal_text,
    }
    lengths = run / "lengths.json"
    return About(
        title=config.name,
        histories=_histories(config, data, outcome.slices),
        run={name: fact for name, fact in facts.items() if fact is not None},
        lengths=read_json(lengths) if lengths.is_file() else None,
        training=lines_if_there(run / "training_log.jsonl"),
        data_stats=stats,
        prompt=_prompt(config, data),
        config=dump_config(config),
        commands=[
            f"palate run {config.run_path}",
            f"palate lengths {config.run_path} --show-examples 2",
            f"palate evaluate {config.run_path}",
        ],
    )


def card_rows(found: Evaluation) -> list[dict[str, Any]]:
    """The table of the model card."""
    rows = []
    for entry in found.entries:
        row: dict[str, Any] = {"": entry.label}
        for metric in metrics_in("card", sampled=found.negatives is not None):
            row[metric.label] = getattr(entry.metrics, metric.key)
            if metric.key == "auc":
                row["95 %"] = (i := entry.intervals.get("auc")) and f"[{i.low:.3f}, {i.high:.3f}]"
        if found.negatives is None:
            row["ECE, noise alone"] = entry.metrics.ece_floor
        rows.append({name: "–" if value is None else value for name, value in row.items()})
    return rows


def _histories(config: Config, data: Prepared, slices: Slices | None) -> dict[int, list[str]]:
    """The histories of the example rows, by row; training samples have no raw file."""
    split = config.evaluate.split
    if slices is None or split == "train":
        return {}
    wanted = {example.row for example in (*slices.wins, *slices.losses)}
    with (data.folder / f"{split}_raw.jsonl").open(encoding="utf-8") as lines:
        histories = {row: json.loads(line)["history_titles"] for row, line in enumerate(lines) if row in wanted}
    return {row: text.splitlines() if isinstance(text, str) else list(text) for row, text in histories.items()}


def _prompt(config: Config, data: Prepared) -> str | None:
    """The first test sample as the model reads it, up to its answer."""
    with (data.folder / "test_raw.jsonl").open(encoding="utf-8") as lines:
        line = next(lines, None)
    if line is None:
        return None
    sample = json.loads(line)
    example = config.prompt.alpaca(
        sample["history_titles"], sample["candidate_title"], sample["label"], len(sample["history"])
    )
    chat = chat_of(config)
    return str(chat.tokenizer.decode(chat.decision_prompts([to_generation_messages(example)])[0]))


def lines_if_there(path: Path) -> list[Any] | None:
    """The JSON of each complete line of a file; None without a file."""
    if not path.is_file():
        return None
    lines, found = path.read_bytes().split(b"\n"), []
    for number, line in enumerate(lines[:-1], 1):  # a line without its line break is incomplete
        try:
            found.append(json.loads(line))
        except ValueError:
            raise InputError("is not JSON, expected what the training wrote; remove the file", path, number) from None
    return found
