"""Advise: try models on a log in order of cost, and say which one to use."""

import contextlib
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from palate import console
from palate.baselines.kept import Kept
from palate.baselines.registry import RANKERS, TEACHERS, fit_one, ladder_of
from palate.baselines.statistics import BaselineData
from palate.commands import scores
from palate.commands.plan import samples_within
from palate.commands.prepare import check_model, kept_baselines, outdated, prepared, samples_of, why_again
from palate.commands.run import stages_of
from palate.config import Config, load_config, write_config
from palate.console import log
from palate.errors import InputError, PalateError
from palate.measure.evaluation import Negatives
from palate.measure.ladder import LANGUAGE_MODEL, Scored, Skipped, Step, build_ladder
from palate.models.adapter import corrects
from palate.progress import working
from palate.report.costs import REQUESTS, timed
from palate.report.ladder import ladder_table, sentences
from palate.score.files import Columns, read_scores, thousand_seconds
from palate.store.artifacts import MANIFEST, write_json
from palate.text.vectors import check_text, item_texts, vectors_of

FILE, RECIPE = "advice.json", "advice.yaml"
"""The figures, and the config of the model to use."""
ENCODER = "minilm"
"""The encoder that is tried if the config names none."""
FEW = 64
"""Fewest samples to train on, and rows to score."""


def advise(
    config: Config, *, again: Sequence[str], from_ratings: bool, minutes: float = 10.0, train: bool = False,
    out: Path | None = None, as_json: bool = False,
) -> None:  # fmt: skip
    """Try models in order of cost on the rows of `evaluate.split` within `minutes`, and print which one to use.

    It reads prepared data if the config has some, and takes what a run fitted and scored before. It writes only
    `advice.json` and `advice.yaml`, the config of the model to use, into the folder `out`; with `train` also a run, in
    its folder. `again` are the words that give other commands the same config. Raises `InputError` for data without
    two classes, and for `train` without a config.
    """
    if not minutes > 0:
        raise InputError(f"{minutes:g}, expected more than 0", "--minutes")
    if not config.evaluate.bootstrap:
        raise InputError("0, expected resamples: a gain counts if its interval lies above zero", "evaluate.bootstrap")
    if config.evaluate.split == "train":
        raise InputError("train, expected test: models have seen the answers of training rows", "evaluate.split")
    if train and from_ratings:
        raise InputError("trains a run, expected a config instead of a log; `palate init` writes one", "--train")
    console.start_logging()
    if train:
        check_model(config)
    ends = time.monotonic() + 60 * minutes
    kept = data = None
    if from_ratings or outdated(config) or not (config.data_path / MANIFEST).is_file():
        samples, _, name = samples_of(config)
    elif train and config.ratings.source is not None and why_again(config, prepared(config).manifest):
        samples, _, name = samples_of(config)  # the run prepares them again
    else:
        data = prepared(config)
        samples, name = data.samples, str(data.manifest["stats"]["name"])
        kept = replace(kept_baselines(config, data), writes=train)
    check_text(samples.items, config.text, config.model.base)
    tried = _Steps(config, BaselineData.of(samples, config.seed), kept, ends, train)
    queries, liked = tried.known.of_split(config.evaluate.split)
    if not len(liked):
        raise InputError(f"has no {config.evaluate.split} rows, expected some", name)
    if not liked.any() or liked.all():
        raise InputError(f"has {len(liked):,} {config.evaluate.split} rows of one answer, expected both", name)
    ladder = build_ladder(
        liked,
        tried.known.user[queries.anchor],
        tried.steps(),
        resamples=config.evaluate.bootstrap,
        seed=config.seed,
        whole=config.text.encoder is not None,
        sampled=samples.likes is not None,
    )
    used = tried.config_of(ladder.used.key)
    if out is not None:
        write_json(out / FILE, ladder.to_dict())
        write_config(used, out / RECIPE)
    if as_json:
        console.print_json(ladder.to_dict())
        return
    against = "" if samples.likes is None else f", {Negatives.of(samples.likes)}"
    console.out.print(ladder_table(ladder, f"{name}, {ladder.n:,} {config.evaluate.split} rows{against}"))
    for sentence in sentences(ladder):
        console.out.print(sentence)
    if out is not None:
        again = [str(out / RECIPE)]
    elif tried.trained:
        again = [str(used.run_path)]
    elif used.text != config.text:
        again = [*again, "--set", f"text.encoder={used.text.encoder}"]
    rank = ["recommend", *again, "--user", str(samples.timeline["user_id"][int(queries.anchor[0])])]
    rank += ["--model", ladder.used.key] if ladder.used.key in RANKERS else []
    ready = kept is not None or tried.trained
    for n, words in enumerate([rank] if ready else [["prepare", *again], rank]):
        console.out.print(f"{'' if n else 'next:':6}{shlex.join(['palate', *words])}", soft_wrap=True)


@dataclass
class _Steps:
    """The steps of one log."""

    config: Config
    known: BaselineData
    kept: Kept | None
    ends: float
    """When the time is up, by the monotonic clock."""
    train: bool
    """Whether to train a language model if none was scored."""
    fitted: list[str] = field(default_factory=list)
    """The keys of the baselines so far."""
    trained: bool = False
    """Whether a run was trained."""

    def steps(self) -> Iterator[Step]:
        """The baselines of `RUNGS`, then the language model."""
        for key in ladder_of(self.known.samples.likes):
            yield Step(key, RANKERS[key].label, partial(self._fitted, key))
        yield Step(LANGUAGE_MODEL, "language model", self._language_model)

    def _fitted(self, key: str) -> Scored:
        """A baseline, fitted and scored; raises `Skipped` without its package, and when the time is up."""
        baseline, (queries, _) = RANKERS[key], self.known.of_split(self.config.evaluate.split)
        if baseline.lacks_package:
            raise Skipped(f"not tried, as {baseline.needs} is not installed")
        if not baseline.quick and time.monotonic() > self.ends:
            raise Skipped("not tried, as the time is up: --minutes allows more")
        began = time.process_time()
        if baseline.reads_text:
            self._read_text()
        with working(f"fitting {baseline.label}"):
            state = fit_one(baseline, self.known, self.kept)
            fitted = time.process_time() - began
            predict = baseline.predictor(self.known, state)
            p = predict(queries)
        self.fitted.append(key)
        return Scored(p, fitted, timed(key, predict, queries).thousand_seconds)

    def config_of(self, key: str) -> Config:
        """The config of a model that was tried: with an encoder, if it reads text."""
        if key in RANKERS and RANKERS[key].reads_text and self.config.text.encoder is None:
            return _changed(self.config, {"text": {"encoder": ENCODER}})
        return self.config

    def _read_text(self) -> None:
        """Add vectors of the items' text to the data; raises `Skipped` if the usual encoder is not installed."""
        text, config = self.config.text, self.config
        items = self.known.samples.items
        if text.encoder is None:
            text = text.model_copy(update={"encoder": ENCODER})
            item_texts(items, text.columns)
        try:
            found = vectors_of(items, text, config.model.base, config.run_path, writes=False)
        except (PalateError, ModuleNotFoundError) as error:
            if config.text.encoder is not None:
                raise
            raise Skipped(f"not tried, as there is no encoder: {error}") from None
        self.known = replace(self.known, vectors=found)

    def _language_model(self) -> Scored:
        """The run's adapter, as it was scored; raises `Skipped` if it was not, and none is to be trained."""
        # Scores beside data that are missing or of other options are of other prompts.
        found = None if self.kept is None else self._scored(self.config)
        if found is None and self.train:
            config = self._within_the_time()
            with contextlib.redirect_stdout(sys.stderr):  # the answer alone is the output
                stages_of(config)
            self.config, self.trained = config, True
            found = self._scored(config)
        if found is None:
            best, text = "corrected", ""
            if self.known.vectors is not None:
                best, text = "corrected-text", f"--set text.encoder={self.config.text.encoder or ENCODER} "
            raise Skipped(
                "not tried, as no run has scored it: `palate advise CONFIG --train --minutes 120` trains as much as "
                f"the time allows, `palate run CONFIG {text}--set train.train_on=answer --set train.offset={best}` as "
                "much as its config says"
            )
        return found

    def _within_the_time(self) -> Config:
        """The config of a run that corrects the most expensive baseline so far in the time left; raises `Skipped`."""
        config, left = self.config, self.ends - time.monotonic()
        best = next((key for key in reversed(self.fitted) if key in TEACHERS), None)
        if best is None:
            raise Skipped("not tried, as no baseline was fitted that it could correct: --minutes allows more")
        update: dict[str, Any] = {"train": {"offset": best, "train_on": "answer", "teacher": None, "unrated": 0}}
        if RANKERS[best].reads_text and config.text.encoder is None:
            update["text"] = {"encoder": ENCODER}
        config = _changed(config, update)
        if (begun := _unfinished_run(config)) is not None:
            log.info("the language model: goes on with the run that was interrupted")
            return begun
        samples, rows = samples_within(config, left) if left > 0 else (0, 0)
        if samples < FEW or rows < FEW:
            raise Skipped(
                f"not tried: the {max(left, 0) / 60:.0f} minutes left allow a training on {samples:,} samples and the "
                f"scores of {rows:,} rows, expected {FEW} at least: --minutes allows more"
            )
        validation = min(rows // 3, REQUESTS)
        evaluate = {"max_samples": rows - validation, "calibration_samples": validation, "zero_shot": False}
        log.info("the language model: %s samples to train on, %s rows to score, %d min", f"{samples:,}", f"{rows:,}",
                 left / 60)  # fmt: skip
        return _changed(config, {"train": {"max_samples": samples}, "evaluate": evaluate})

    def _scored(self, config: Config) -> Scored | None:
        """The scores of the run's adapter, of the sum with a baseline if it corrects one; None without scores of these
        rows."""
        model = scores.main_model(scores.models_of(config, [config.run_path / "adapter"]))
        own = scores.measured_file(config, model, config.run_path)
        file = own if corrects(model.adapter) is None else scores.sum_file(config, model, config.run_path)
        if not file.is_file():
            return None
        columns = read_scores(file).columns
        if not self._are_mine(columns):
            log.info("%s is of other data, left out", file)
            return None
        return Scored(columns["p"].astype(np.float64), None, thousand_seconds(own), columns["row"])

    def _are_mine(self, columns: Columns) -> bool:
        """Whether scores are of the samples that the ladder measures."""
        queries, liked = self.known.of_split(self.config.evaluate.split)
        row = columns["row"]
        if not row.size or row.max() >= len(queries):
            return False
        about = self.known.samples.timeline[queries.anchor[row]]
        ids = ((columns[name].astype(str), about[name].to_numpy().astype(str)) for name in ("user_id", "item_id"))
        return np.array_equal(columns["label"], liked[row]) and all(np.array_equal(*both) for both in ids)


def _unfinished_run(config: Config) -> Config | None:
    """The config of an unfinished run of `config` but for its numbers of samples; None if there is none.

    The numbers depend on a measured speed, so another estimate would start the training anew.
    """
    file = config.run_path / "config.yaml"
    if not (config.run_path / "checkpoints").is_dir() or not file.is_file():
        return None
    begun = load_config(file)
    evaluate = begun.evaluate.model_dump(include={"max_samples", "calibration_samples", "zero_shot"})
    same = _changed(config, {"train": {"max_samples": begun.train.max_samples}, "evaluate": evaluate})
    return same if begun.train.max_samples is not None and same == begun else None


def _changed(config: Config, sections: Mapping[str, Mapping[str, Any]]) -> Config:
    """The config with other values, checked again."""
    values = config.model_dump()
    for section, options in sections.items():
        values[section] = getattr(config, section).model_dump() | options  # `text` is left out without an encoder
    return Config.model_validate(values)
