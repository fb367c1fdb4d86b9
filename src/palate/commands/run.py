"""A whole run: prepare, lengths, zero-shot scores, train, scores, calibration, evaluation and report.

A stage that is finished is skipped as long as what it was made from is the same; the ledger in the run's
folder remembers that. Whatever is interrupted goes on where it stopped when the same command is given again.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.text import Text

from palate import __version__, console
from palate.baselines.registry import RANKERS
from palate.commands import calibrate, correction, evaluate, offset, recommend, scores, seeds
from palate.commands import lengths as lengths_stage
from palate.commands import prepare as data_stage
from palate.commands import train as model_stage
from palate.commands.audit import check_leaks
from palate.commands.ledger import Ledger, reading, training
from palate.commands.report import METRICS, REPORT, run_metrics, show_answer
from palate.commands.score import adapter_identity
from palate.commands.table_rows import Collected
from palate.config import Config, write_config
from palate.console import log
from palate.errors import InputError
from palate.measure.calibration import FILE
from palate.measure.offset import FILE as OFFSET
from palate.models.adapter import check_own
from palate.models.item_vectors import FILE as FILE_OF_VECTORS
from palate.progress import clock, stage
from palate.prompt.chat import Chat
from palate.prompt.tokenizer import tokenizer_identity
from palate.report.answer import answer
from palate.report.outcome import Outcome
from palate.samples import Prepared, load_prepared
from palate.samples.prepared import read_manifest
from palate.store.artifacts import MANIFEST, read_json, sha256_file, sha256_of, write_json
from palate.text.vectors import check_text

STAGES, ZERO_SHOT = 7, 3
"""The number of stages, and the place of the zero-shot scores among them."""
ROWS = 5
"""Number of the table's rows at the end, and of the recommendations below it."""
CANDIDATES = 50
"""Number of items that the language model ranks for these recommendations."""
WHOLE = "run"
"""The ledger's entry of a run that went through."""


def run(config: Config) -> None:
    """Do all stages that are not done, then print the answer, recommendations for one user, and the next commands.

    Raises `InputError` for a server that is to score: it cannot have the adapter that is still to be trained.
    """
    if config.score.server is not None:
        raise InputError(
            "is another model than the one that `palate run` trains, expected `palate score` or `palate evaluate`",
            "score.server",
        )
    began = time.monotonic()
    console.start_logging()
    outcome = _finished(config)
    if outcome is None:
        whole = _Run(config)
        outcome = whole.go()
        took = time.monotonic() - began
        show_answer(outcome, with_table=True)
        user = _recommend(config, outcome, whole.data)
    else:
        log.info("skipped: all stages are finished, and their inputs are unchanged")
        took = time.monotonic() - began
        show_answer(outcome, with_table=True)
        user = "USER"
    _print_paths(config, took, user, _best(outcome))


def stages_of(config: Config) -> None:
    """Do all stages that are not done, and print no more than their progress."""
    _Run(config).go()


def _finished(config: Config) -> Outcome | None:
    """What the run left, if it went through and neither its inputs nor its files have changed since."""
    ledger = Ledger(config.run_path)
    outputs = [config.run_path / name for name in ledger.entries.get(WHOLE, {}).get("outputs", {})]
    try:
        manifest = read_manifest(config.data_path)
    except InputError:
        return None
    if not outputs or ledger.reason(WHOLE, _whole(config, manifest), outputs) is not None:
        return None
    if config.ratings.source is not None and data_stage.why_again(config, manifest):
        return None
    with contextlib.suppress(ValidationError, InputError):
        return Outcome.of_dict(evaluate.model_name(config), run_metrics(config.run_path))
    return None


def _whole(config: Config, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What the whole run is made from."""
    return {**reading(config), "options": config.model_dump(mode="json"), "data": manifest["outputs"]}


class _Run:
    """The stages of a run that is not finished."""

    def __init__(self, config: Config) -> None:
        self.config, self.folder = config, config.run_path
        self.chat = data_stage.check_model(config)
        check_own(self.folder / "adapter")
        with self._place(1, "prepare") as made:
            self.data = _prepare(config, made)
            check_text(self.data.samples.items, config.text, config.model.base)
            self.leaks = check_leaks(config, self.data)
        # What the user gave has been checked by now: from here on the run leaves its traces.
        console.start_logging(self.folder / "run.log")
        write_config(config, self.folder / "config.yaml")
        self.ledger = Ledger(self.folder)
        self.adapter = self.folder / "adapter"
        self.models = scores.models_of(config, [self.adapter])
        main = scores.main_model(self.models)
        self.files = {
            model: scores.score_files(config, self.data, model, self.folder, ablated=model == main)
            for model in self.models
        }

    def _place(self, number: int, name: str) -> AbstractContextManager[list[str]]:
        """A stage by its number; without a zero-shot model, those behind its own count one less."""
        left_out = not self.config.evaluate.zero_shot
        return stage(f"{number - (left_out and number > ZERO_SHOT)}/{STAGES - left_out}", name)

    def go(self) -> Outcome:
        """Do what is not done, and return what was measured."""
        lengths_file = self.folder / "lengths.json"
        made_from = {"data": self._hashes("train.json"), **reading(self.config)}

        def measure() -> str:
            _lengths(self.config, self.chat, lengths_file)
            return _lengths_sentence(read_json(lengths_file))

        self._stage(2, "lengths", made_from, [lengths_file], measure)
        if self.models[0].adapter is None:
            self._score(ZERO_SHOT, self.models[0], {})
        self._train()
        self._score(5, scores.main_model(self.models), {"adapter": dict(adapter_identity(self.adapter))})
        return self._conclude()

    def _stage(
        self, number: int, name: str, made_from: Mapping[str, Any], outputs: list[Path], do: Callable[[], str]
    ) -> None:
        """Do a stage and log what it made, as `do` returns it; skip it if its outputs were made from the same."""
        with self._place(number, name) as made:
            reason = self.ledger.reason(name, made_from, outputs)
            if reason is None:
                made.append("skipped, finished before, and its inputs are unchanged")
                return
            if reason != "not done yet":
                log.info("%s again: %s", name, reason)
            made.append(do())
            self.ledger.note(name, made_from, outputs)

    def _hashes(self, *names: str) -> dict[str, str]:
        """The hashes of prepared files."""
        return {name: self.data.manifest["outputs"][name] for name in names}

    def _score(self, number: int, model: scores.Model, made_from: Mapping[str, Any]) -> None:
        """Score with one model."""
        config, data, files = self.config, self.data, self.files[model]
        asked = {"rows": scores.measured_rows(config, data), "validation": scores.validation_rows(config, data)}
        made_from = {
            **made_from,
            "data": self._hashes("test_raw.jsonl", "val_raw.jsonl"),
            "evaluate.split": config.evaluate.split,
            "files": sorted(files),
            **{name: sha256_of(rows.tolist()) for name, rows in asked.items()},
            **reading(config),
        }

        def score() -> str:
            scores.score_model(config, data, model, files)
            rows = {config.evaluate.split: asked["rows"].size, "validation": asked["validation"].size}
            return " and ".join(f"{count:,} {split}" for split, count in rows.items() if count) + " rows"

        self._stage(number, f"score, {model.key}", made_from, list(files.values()), score)

    @property
    def _weights(self) -> list[Path]:
        """What training leaves."""
        names = ("adapter_model.safetensors", "adapter_config.json", "palate.json")
        apart = [self.folder / seeds.SEEDS] if self.config.train.seeds > 1 else []
        baseline = [self.adapter / correction.STATE] if self.config.train.offset is not None else []
        vectors = [self.adapter / FILE_OF_VECTORS] if self.config.prompt.names_vectors else []
        return [*(self.adapter / name for name in names), *baseline, *vectors, *apart]

    def _train(self) -> None:
        config = self.config
        made_from = {
            "data": self._hashes("train.json", "eval.json"),
            **training(config),
            "seed": config.train_seed,
            "train.seeds": config.train.seeds,
        }
        self._stage(4, "train", made_from, self._weights, lambda: f"adapter in {model_stage.train(config)}")

    def _conclude(self) -> Outcome:
        """Calibrate, measure, report, and note that the run went through."""
        config, data, folder = self.config, self.data, self.folder
        with self._place(6, "calibrate") as made:
            scored = {model: scores.read_model(config, data, paths) for model, paths in self.files.items()}
            calibrations = calibrate.calibrations_of(config, self.chat, scored, {}, folder)
            (self.adapter / OFFSET).unlink(missing_ok=True)
            offsets = offset.offsets_of(config, self.chat, data, scored, {}, folder)
            for model in self.models:
                if model.key not in calibrations:
                    (calibrate.calibration_folder(config, model) / FILE).unlink(missing_ok=True)
            made.append(f"{len(calibrations)} of {len(self.models)} models")

        with self._place(7, "evaluate and report") as made:
            outcome = evaluate.conclude(Collected(config, data, scored, calibrations, offsets), self.leaks, folder)
            kept = [path for paths in self.files.values() for path in paths.values()]
            kept += [calibrate.calibration_folder(config, model) / FILE for model in self.models]
            kept += [self.adapter / OFFSET, *(scores.sum_file(config, model, folder) for model in self.models)]
            _write_manifest(config, data, self.chat, kept, self._weights)
            left = [folder / name for name in read_json(folder / MANIFEST)["outputs"]]
            self.ledger.note(WHOLE, _whole(config, data.manifest), [*left, folder / MANIFEST])
            made.append(f"{outcome.evaluation.n:,} {outcome.evaluation.split} rows in {folder / REPORT}")
        return outcome


def _prepare(config: Config, made: list[str]) -> Prepared:
    """The prepared data, written anew only if ratings, options or version differ from those of the kept data."""
    if config.ratings.source is None:
        kept = data_stage.prepared(config)  # its ratings are not named
        made.append(f"skipped, {config.data_path} was prepared before")
        return kept
    with contextlib.suppress(InputError):
        kept = load_prepared(config.data_path, config.prepare.memory)
        why = data_stage.why_again(config, kept.manifest)
        if not why:
            made.append(f"skipped, {config.data_path} was made from the same ratings and options")
            return kept
        log.info("prepare again: %s", why)
    manifest = data_stage.prepare_data(config, whole=True)
    made.append(f"{data_stage.counts(manifest)} in {config.data_path}")
    return load_prepared(config.data_path, config.prepare.memory)


def _lengths(config: Config, chat: Chat, path: Path) -> None:
    write_json(path, lengths_stage.summary(lengths_stage.source_of(config, chat), config))


def _lengths_sentence(summary: Mapping[str, Any]) -> str:
    stats, cut = summary["stats"], summary["truncation"]
    over = f"{cut['samples_cut']:,}" if cut["samples_cut"] else "none"
    return (
        f"{summary['samples']:,} samples of {stats['min']} to {stats['max']} tokens, mean {stats['mean']:.0f}, "
        f"{over} over the cutoff of {summary['cutoff_len']}"
    )


def _write_manifest(config: Config, data: Prepared, chat: Chat, kept: list[Path], weights: list[Path]) -> None:
    """Name what the run was made from and what it left, the decision token included."""
    folder = config.run_path
    names = ["config.yaml", "lengths.json", "training_log.jsonl", METRICS, REPORT]
    outputs = [folder / name for name in names] + kept + weights
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


def _best(outcome: Outcome) -> str | None:
    """The baseline to use, by its key; None for the language model."""
    if outcome.ladder is not None:
        key = outcome.ladder.used.key
        return key if key in RANKERS else None
    first, best = answer(outcome.evaluation), outcome.evaluation.best_baseline()
    return None if first is None or first.use or best is None or best.key not in RANKERS else best.key


def _recommend(config: Config, outcome: Outcome, data: Prepared) -> str:
    """Print what the better of model and best baseline recommends to the user of the first measured row; that user."""
    ranker, samples = _best(outcome), data.samples
    row = samples.of(config.evaluate.split)[scores.measured_rows(config, data)[0]]
    user = str(samples.timeline["user_id"][int(samples.position[row])])
    request = recommend.Request(user=user, top_k=ROWS, retrieve=CANDIDATES if ranker is None else None)
    recommend.recommend(config, request, baseline=ranker)
    console.out.print()
    return user


def _print_paths(config: Config, seconds: float, user: str, ranker: str | None) -> None:
    """Print the paths of the results, and commands that go on from here."""
    import resource

    folder = config.run_path
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    apart = seeds.sentence(config)
    if apart is not None:
        console.out.print(f"{apart}\n")
    lines = [
        ("report", folder / REPORT),
        ("adapter", folder / "adapter"),
        ("data", config.data_path),
        ("took", f"{clock(seconds)}, {peak / 1e9:.1f} GB of memory at most"),
        ("next", f"palate recommend {folder} --user {user}" + (f" --model {ranker}" if ranker else "")),
        ("", f"palate evaluate {folder}"),
    ]
    if config.train.max_samples is not None:
        more = f"--set name={config.name}-more --set train.max_samples={2 * config.train.max_samples}"
        lines.append(("", f"palate run {folder} {more}"))
    lines.append(("page", f"palate serve {folder}"))
    for name, value in lines:
        console.out.print(Text.assemble((f"{name:8}", "cyan"), str(value)), soft_wrap=True)
