"""Refresh: build a run anew on its log and the ratings that its service was given, and switch if that is not worse."""

import shutil
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.text import Text

from palate import console
from palate.baselines.registry import LADDER, RANKERS, fit_one, scores_of
from palate.baselines.statistics import BaselineData
from palate.commands.audit import check_leaks
from palate.commands.correction import correction_of
from palate.commands.prepare import kept_baselines, prepared, samples_of, scored_tokens_of, text_vectors
from palate.commands.report import METRICS
from palate.commands.run import stages_of
from palate.commands.score import key_of, load_scorer, score_with
from palate.commands.signals import signalled
from palate.commands.table_rows import Collected
from palate.config import Config, Override, load_config, write_config
from palate.console import log
from palate.errors import InputError, WorkError
from palate.measure.bootstrap import detectable
from palate.measure.calibration import load_calibration, sigmoid
from palate.measure.figures import number
from palate.measure.ladder import Scored, Step, build_ladder
from palate.measure.metrics import measure
from palate.measure.paired import compare
from palate.measure.rows import Models, beside_baselines, measure_rows
from palate.models.adapter import as_trained
from palate.ratings.database import connect, place_of, stored_ratings
from palate.samples import Prepared, Samples
from palate.samples.export import draw
from palate.samples.newest import Longs, Newest, newest
from palate.samples.queries import Queries, Scores, item_rows
from palate.serve.release import RELEASES, current, feedback, served, switch
from palate.store.artifacts import MANIFEST, atomic_folder, read_json, write_json
from palate.store.lock import locked

FEWEST = 30
"""Rows that a decision needs."""
RESULT, SNAPSHOT = "refresh.json", "log.sqlite"


def refresh(
    config: Config, *, store: str | None, no_train: bool = False, dry_run: bool = False, force: bool = False
) -> None:
    """Build the run in `RUN/releases/N` from its log and the store's ratings, and let the service switch to it.

    It switches if the paired 95 % interval of the new AUC less the old one, on the newest rows, does not lie below
    zero; with fewer than `FEWEST` rows, or rows of one answer, only with `force`. An interrupted call goes on with the
    ratings that it began with. `dry_run` writes nothing. Raises `InputError` for a run without a log or without a
    store.
    """
    console.start_logging()
    run = config.run_path
    if config.ratings.likes is not None:
        raise InputError(
            f"is {config.ratings.likes!r}, and a service's ratings may be dislikes; expected a log with ratings",
            "ratings.likes",
        )
    if config.ratings.source is None:
        raise InputError("is null, expected the log that the run was prepared from", "ratings.source")
    url = store or config.ratings.also or feedback(run)
    old = _served_config(run)
    if not (old.data_path / MANIFEST).is_file():
        raise InputError("has no prepared data, expected the folder of a run", old.run_path)
    key = served(old.run_path)
    language = (run / "adapter").is_dir() and not no_train
    if key == "language-model" and no_train:
        raise InputError(
            "leaves out the language model, which this run serves, expected the command without it", "--no-train"
        )
    if language and config.score.server is not None:
        raise InputError("is another model than the one to train, expected null", "score.server")
    if no_train and (run / "adapter").is_dir():
        _print_line("without", "the language model: `fine-tuned` and `base` are not served after a switch")
    if dry_run:
        newer = _print_new_ratings(old, _with(config, run / RELEASES / "N", url), url).newer
        what = "all stages of palate run" if language else "fit and measure the baselines"
        due = f"prepare, {what}, compare with {old.run_path}" if newer else "nothing"
        _print_line("due", f"{due}; nothing was written")
        return
    with locked(run / RELEASES, wait=False) as alone:
        if alone is False:
            raise WorkError(f"{run}: another refresh is running, try again when it has ended")
        folder = _unfinished_release(config, run, url)
        if folder is None:
            return
        new = load_config(folder / "config.yaml")
        if not _print_new_ratings(old, new, url).newer:
            if not (folder / RESULT).is_file():
                shutil.rmtree(folder)  # all that the store has was left out, or is in the log
            return
        if language:
            stages_of(new)
        else:
            _fit_baselines(new, folder)
        found = _compared(old, new, key, folder)
        write_json(folder / RESULT, found)
        _decide(run, folder, found, force)


def _fit_baselines(new: Config, folder: Path) -> None:
    """Fit and measure the baselines of a release without a language model."""
    data = prepared(new)
    check_leaks(new, data)
    collected = Collected(new, data, {}, {})
    rows = data.samples.of("test")
    y, users = data.samples.label[rows], data.samples.user[data.samples.position[rows]]
    scores = scores_of(collected.known, collected.baselines, "test")
    same = beside_baselines(data.samples, {}, scores, rows=np.arange(rows.size), split="test")
    found = measure_rows(same, Models(pairs=[]), bootstrap=new.evaluate.bootstrap, seed=new.seed, split="test")
    ladder = None
    if new.evaluate.bootstrap and y.any() and not y.all():
        p = {key: scores[key].to_numpy() for key in LADDER if key in scores.columns}
        steps = [Step(key, RANKERS[key].label, lambda key=key: Scored(p[key])) for key in p]  # type: ignore[misc]
        ladder = build_ladder(y, users, steps, resamples=new.evaluate.bootstrap, seed=new.seed, whole=True).to_dict()
    write_json(folder / METRICS, {**found.to_dict(), "ladder": ladder})


def _print_line(name: str, text: str) -> None:
    console.out.print(Text.assemble((f"{name:9}", "cyan"), text), soft_wrap=True)


def _served_config(run: Path) -> Config:
    """The config of the folder that is served."""
    folder = current(run)
    return load_config(folder / "config.yaml", [Override("run_dir", str(folder), str(folder))])


def _with(config: Config, folder: Path, url: str) -> Config:
    """The run's config for a release."""
    ratings = config.ratings.model_copy(update={"also": url})
    return config.model_copy(update={"ratings": ratings, "run_dir": str(folder), "data_dir": None})


def _unfinished_release(config: Config, run: Path, url: str) -> Path | None:
    """The release to build: one that was interrupted, else a new one; None if the store has nothing new.

    A release holds a copy of the store's ratings, so that ratings which arrive meanwhile do not change what it is made
    from, and it can be made again.
    """
    numbers = sorted(int(path.name) for path in (run / RELEASES).glob("*") if path.name.isdecimal())
    frame, sha256 = stored_ratings(url)
    if numbers:
        last = run / RELEASES / str(numbers[-1])
        finished = (last / RESULT).is_file()
        if finished and current(run) == last and read_json(last / RESULT)["sha256"] == sha256:
            _print_line("new", f"nothing: {last} was made from the same ratings, and is served")
            return None
        same = load_config(last / "config.yaml") == _with(config, last, _snapshot(last))
        if same and not finished:
            log.info("%s was interrupted: going on with its ratings", last)
            return last
        if same and read_json(last / RESULT)["sha256"] == sha256:
            log.info("%s was made from the same ratings, and is not served", last)
            return last
    if frame.is_empty():
        _print_line("new", f"nothing: {place_of(url)} has no ratings")
        return None
    folder = run / RELEASES / str(numbers[-1] + 1 if numbers else 1)
    with atomic_folder(folder) as partial:
        _copy(url, partial / SNAPSHOT)
        write_config(_with(config, folder, _snapshot(folder)), partial / "config.yaml")
    return folder


def _snapshot(folder: Path) -> str:
    """The URL of a release's copy of the store."""
    return f"sqlite:///{(folder / SNAPSHOT).absolute()}"


def _copy(url: str, file: Path) -> None:
    """Copy the ratings of a store into a SQLite file."""
    columns = ("user_id", "item_id", "rating", "timestamp", "received", "key")
    with closing(connect(url)) as source, closing(connect(f"sqlite:///{file.absolute()}", create=True)) as copy:
        rows = source.rows(f"SELECT {', '.join(columns)} FROM ratings ORDER BY number")
        with copy.transaction():
            copy.insert("ratings", columns, rows)
        copy.rows("PRAGMA journal_mode = DELETE")  # one file, which nobody writes again


def _print_new_ratings(old: Config, new: Config, url: str) -> Newest:
    """Say what is new, and return it."""
    samples, _, _ = samples_of(new)
    then = prepared(old).samples
    found = newest(then, samples)
    users = samples.timeline["user_id"].n_unique()
    _print_line("store", f"{place_of(url)}, {old.run_path} is served")
    _print_line("new", f"{found.newer:,} ratings, {found.guests:,} of {users:,} users unknown to the run")
    apart = f", {found.left_out:,} left out: items that it lacks" if found.left_out else ""
    _print_line(
        "rows", f"{found.new.size:,} test samples after the last rating that the served run learned from{apart}"
    )
    gone = _pairs(then).join(_pairs(samples), on=["user_id", "item_id"], how="anti").height
    if gone:
        had = f"{gone:,} of {then.timeline.height:,} ratings that {old.run_path} has"
        log.warning("%s are neither in the log nor in the store any more: a release has %s", had,
                    f"{samples.timeline.height:,}")  # fmt: skip
    return found


def _pairs(samples: Samples) -> pl.DataFrame:
    """Who rated what, with ids as text: those of two runs may have different types."""
    return samples.timeline.select(pl.col("user_id", "item_id").cast(pl.String))


@dataclass(frozen=True)
class _Side:
    """A run, and samples in whose timeline the rows `at` (n,) are scored; the last `guests` users are unknown to it."""

    config: Config
    data: Prepared
    key: str
    samples: Samples
    at: Longs
    guests: int = 0


def _compared(old: Config, new: Config, key: str, folder: Path) -> dict[str, Any]:
    """The result of both runs on the newest rows, each with the model that it serves by default."""
    then, now = prepared(old), prepared(new)
    found = newest(then.samples, now.samples)
    use = served(folder, otherwise=key)
    frame, sha256 = stored_ratings(str(new.ratings.also))
    at = np.arange(found.new.size)
    if {key, use} - RANKERS.keys() and new.evaluate.max_samples is not None:  # a language model takes its time
        at = draw(at, new.evaluate.max_samples, new.seed)
    about: dict[str, Any] = {"use": use, "sha256": sha256, "stored": frame.height, "newer": found.newer}
    about |= {"rows": int(at.size), "old": {"folder": str(old.run_path), "model": key}, "new": {"model": use}}
    y = now.samples.liked[found.new[at]]
    if at.size < FEWEST or y.all() or not y.any():
        return about | {"difference": None}
    sides = {
        "new": _Side(new, now, use, now.samples, found.new[at]),
        "old": _Side(old, then, key, found.before, found.old[at], found.guests),
    }
    scores = {name: _scores(side, folder / "scores" / f"newest-{name}.parquet") for name, side in sides.items()}
    users = now.samples.user[found.new[at]]
    tested = compare(y, users, scores, [("new", "old")], resamples=new.evaluate.bootstrap or 1000, seed=new.seed)
    for name, p in scores.items():
        about[name] |= asdict(measure(y, p, users))
    gain = tested.of("auc")[0]
    size = None if gain.interval is None else detectable(gain.interval)
    return about | {"users": tested.users, "difference": asdict(gain), "detects": size}


def _scores(side: _Side, out: Path) -> Scores:
    """P(like) of the rows of a side by its model."""
    queries = Queries(side.at, item_rows(side.samples, side.at))
    if side.key not in RANKERS:
        return _language_model(side, queries, out)
    baseline, seed = RANKERS[side.key], side.config.seed
    vectors = text_vectors(side.config, side.data) if baseline.reads_text else None
    learned = BaselineData.of(side.data.samples, seed, vectors=vectors)
    state = fit_one(baseline, learned, kept_baselines(side.config, side.data))
    return baseline.predictor(BaselineData.of(side.samples, seed, side.guests, vectors), state)(queries)


def _language_model(side: _Side, queries: Queries, out: Path) -> Scores:
    """P(like) by the run's adapter: calibrated, or of the sum with the baseline that it corrects; kept in `out`."""
    adapter = side.config.run_path / "adapter"
    config = as_trained(side.config, adapter)
    scorer = load_scorer(config, adapter)
    samples = side.samples if side.samples.signals is not None else signalled(config, side.samples)[0]
    tokens = scored_tokens_of(config, samples, scorer.chat)
    test = samples.position[samples.of("test")]
    ids = {name: samples.timeline[name].gather(test).cast(pl.String).to_numpy() for name in ("user_id", "item_id")}
    about = {name: column.astype(str) for name, column in ids.items()}
    order = np.argsort(side.at)
    rows = np.searchsorted(test, side.at[order])
    columns = score_with(scorer, config, tokens, about, rows, key_of(scorer, config, tokens, adapter), out).columns
    z = np.empty(len(order))
    z[order] = columns["logit"]
    corrected = correction_of(config, side.data, adapter)
    if corrected is not None:
        vectors = text_vectors(config, side.data) if corrected.reads_text else None
        known = BaselineData.of(side.samples, config.seed, side.guests, vectors)
        return sigmoid(corrected.logit(known, queries, z))
    calibration = load_calibration(adapter)
    return sigmoid(z) if calibration is None else calibration.p(z)


def _decide(run: Path, folder: Path, found: Mapping[str, Any], force: bool) -> None:
    """Switch, or say why not."""
    gain, why = found["difference"], ""
    if gain is None or gain["interval"] is None:
        rows = f"{found['rows']:,} rows" + (" of one answer or one user" if found["rows"] >= FEWEST else "")
        why = "" if force else f"{rows} decide nothing, expected {FEWEST} of both answers; --force switches anyway"
        _print_line("result", f"{rows}: the models were not compared")
    else:
        low, high = gain["interval"]["low"], gain["interval"]["high"]
        for name in ("old", "new"):
            side = found[name]
            _print_line(name, f"{side['model']}: AUC {number(side['auc'])}, log loss {number(side['log_loss'])}")
        _print_line(
            "result",
            f"new − old {number(gain['value'], True)} [{number(low, True)}, {number(high, True)}] on {found['rows']:,} "
            f"rows of {found['users']:,} users, which detect {number(found['detects'])}",
        )
        why = "the new run is worse" if high < 0 else ""
    if why:
        _print_line("kept", f"{found['old']['folder']} stays in service: {why}")
        return
    switch(run, folder)
    _print_line("switched", f"{folder} is served from now on")
