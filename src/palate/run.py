"""A whole run: prepare, lengths, zero-shot scores, train, scores, evaluation and report.

A stage that is finished is skipped as long as what it was made from is the same; the ledger in the run's
folder remembers that. Whatever is interrupted goes on where it stopped when the same command is given again.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from palate import __version__, console
from palate.artifacts import MANIFEST, read_json, sha256_file, sha256_of, write_json
from palate.config import Config, write_config
from palate.console import log
from palate.errors import InputError
from palate.progress import clock
from palate.prompt.chat import Chat
from palate.samples import Prepared, load_prepared
from palate.stages import data as data_stage
from palate.stages import evidence, seeds
from palate.stages import lengths as lengths_stage
from palate.stages import model as model_stage
from palate.stages.leaks import check_leaks, keep_leaks
from palate.stages.ledger import Ledger, reading
from palate.tokens.tokenizer import tokenizer_identity

STAGES = 6


def run(config: Config) -> None:
    """Do all stages that are not done, then print the table and where everything lies.

    Raises `InputError` for a server that is to score: it cannot have the adapter that is still to be trained.
    """
    if config.score.server is not None:
        raise InputError(
            "scores what it serves, and `palate run` what it trains: expected `palate score` or `palate evaluate`",
            "score.server",
        )
    began = time.monotonic()
    folder = config.run_path
    console.start_logging()
    chat = data_stage.check_model(config)

    _headline(1, "prepare")
    data = _prepare(config)
    leaks = check_leaks(config, data)
    # What the user gave has been checked by now: from here on the run leaves its traces.
    console.start_logging(folder / "run.log")
    write_config(config, folder / "config.yaml")
    ledger = Ledger(folder)
    hashes = data.manifest["outputs"]
    reads = reading(config)

    def stage(number: int, name: str, made_from: Mapping[str, Any], outputs: list[Path], do: Callable[[], Any]) -> None:
        _headline(number, name)
        reason = ledger.reason(name, made_from, outputs)
        if reason is None:
            log.info("skipped: done before, and what it was made from is the same")
            return
        if reason != "not done yet":
            log.info("again: %s", reason)
        do()
        ledger.note(name, made_from, outputs)

    lengths_file = folder / "lengths.json"
    made_from = {"data": hashes["train.json"], **reads}
    stage(2, "lengths", made_from, [lengths_file], lambda: _lengths(config, chat, lengths_file))
    _say_lengths(read_json(lengths_file))

    adapter = folder / "adapter"
    scoring = {
        "data": hashes["test_raw.jsonl"],
        "rows": sha256_of(model_stage.chosen_rows(config, data.samples.of("test").size).tolist()),
        **reads,
    }
    files = {file.key: file for file in evidence.score_files(config, adapter, folder)}
    if "zero-shot" in files:
        path = files["zero-shot"].path
        stage(3, "score, zero-shot", scoring, [path], lambda: model_stage.score(config, data, None, path))

    weights = [adapter / "adapter_model.safetensors", adapter / "adapter_config.json", adapter / "palate.json"]
    made_from = {
        "data": [hashes["train.json"], hashes["eval.json"]],
        **reads,
        "seed": config.train_seed,
        "seeds": config.train.seeds,
        **config.train.decisive(),
    }
    if config.train.seeds > 1:
        weights.append(folder / seeds.SEEDS)
    stage(4, "train", made_from, weights, lambda: model_stage.train(config))

    path_after = files["fine-tuned"].path
    made_from = {"adapter": dict(model_stage.adapter_identity(adapter)), **scoring}
    stage(5, "score, fine-tuned", made_from, [path_after], lambda: model_stage.score(config, data, adapter, path_after))

    _headline(6, "evaluate and report")
    scores = {key: _read_scores(file.path) for key, file in files.items()}
    found = evidence.measure(config, data, scores, folder)
    keep_leaks(leaks, folder / evidence.METRICS)
    evidence.report(config, data, found, scores, folder)
    _write_manifest(config, data, chat, list(files.values()), weights)
    evidence.show(found, config)
    _say_where(config, time.monotonic() - began)


def _headline(number: int, name: str) -> None:
    console.err.print(f"[bold cyan]{number}/{STAGES}[/] [bold]{name}[/]", highlight=False)


def _prepare(config: Config) -> Prepared:
    """The prepared data, written anew only if ratings, options or version differ from what lies there."""
    if config.ratings.source is None:
        return data_stage.prepared(config)  # a folder prepared before; its ratings are not named
    try:
        kept = load_prepared(config.data_path)
    except InputError:
        kept = None
    if kept is None:
        reason = None
    elif changed := data_stage.changed_options(kept.manifest, data_stage.prepare_options(config)):
        reason = changed
    elif kept.manifest["palate"] != __version__:
        reason = f"written by palate {kept.manifest['palate']}"
    elif dict(data_stage.ratings_of(config).inputs) != kept.manifest["inputs"]:
        reason = "the ratings changed"
    else:
        log.info("skipped: %s was made from the same ratings and options", config.data_path)
        return kept
    if reason:
        log.info("again: %s", reason)
    data_stage.prepare(config)
    return load_prepared(config.data_path)


def _lengths(config: Config, chat: Chat, path: Path) -> None:
    write_json(path, lengths_stage.summary(lengths_stage.source_of(config, chat), config))


def _say_lengths(summary: Mapping[str, Any]) -> None:
    stats, cut = summary["stats"], summary["truncation"]
    log.info(
        "%s samples of %d to %d tokens, mean %.0f, p99 %.0f; %.1f %% masked; %s over the cutoff of %d",
        f"{summary['samples']:,}",
        *(stats["min"], stats["max"], stats["mean"], stats["p99"]),
        100 * summary["masked_share"],
        f"{cut['samples_cut']:,}" if cut["samples_cut"] else "none",
        summary["cutoff_len"],
    )


def _read_scores(path: Path) -> Any:
    import polars as pl

    return pl.read_parquet(path, glob=False)


def _write_manifest(
    config: Config, data: Prepared, chat: Chat, scores: list[evidence.ScoreFile], weights: list[Path]
) -> None:
    """Name what the run was made from and what it left, the decision token included."""
    folder = config.run_path
    names = ["config.yaml", "lengths.json", "training_log.jsonl", evidence.METRICS, evidence.REPORT]
    outputs = [folder / name for name in names] + [file.path for file in scores] + weights
    write_json(
        folder / MANIFEST,
        {
            "palate": __version__,
            "stage": "run",
            "inputs": {"data": {"folder": str(config.data_path), "outputs": data.manifest["outputs"]}},
            "options": config.model_dump(mode="json"),
            "tokenizer": tokenizer_identity(chat.tokenizer),
            "decision": chat.decision.describe(chat.tokenizer),
            "outputs": {p.relative_to(folder).as_posix(): sha256_file(p) for p in outputs if p.is_file()},
        },
    )


def _say_where(config: Config, seconds: float) -> None:
    import resource
    import sys

    folder = config.run_path
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    lines = [
        ("report", folder / evidence.REPORT),
        ("adapter", folder / "adapter"),
        ("data", config.data_path),
        ("took", f"{clock(seconds)}, {peak / 1e9:.1f} GB of memory at most"),
        ("next", f"palate lengths --config {folder / 'config.yaml'} --show-examples 2"),
    ]
    if config.train.max_samples is not None:
        more = f"--set name={config.name}-more --set train.max_samples={2 * config.train.max_samples}"
        lines.append(("", f"palate run {folder / 'config.yaml'} {more}"))
    for name, value in lines:
        console.out.print(f"[cyan]{name:8}[/]{value}", highlight=False, soft_wrap=True)
