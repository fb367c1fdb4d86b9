"""Baselines: the classical models on a log of ratings, as the bar that a language model has to clear."""

import time
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from palate import console
from palate.baselines.registry import chosen_baselines, fit_baselines, scores_of, stored
from palate.baselines.statistics import SEEDS, BaselineData
from palate.commands.prepare import kept_baselines, outdated, prepared, samples_of
from palate.commands.score import chosen_rows
from palate.config import Config
from palate.measure.bootstrap import detectable
from palate.measure.evaluation import Entry, Evaluation
from palate.measure.figures import bounds, number
from palate.measure.keys import CONSTANT
from palate.measure.rows import Models, beside_baselines, measure_rows
from palate.measure.verdict import sampled_note
from palate.progress import clock, working
from palate.report.table import caption, cell
from palate.store.artifacts import MANIFEST, write_json
from palate.text.vectors import vectors_of

FILE = "baselines.json"
FITS = 2
"""Fits of a randomized baseline, for an answer in seconds; a run averages more."""


def baselines(config: Config, *, from_ratings: bool, out: Path | None = None, as_json: bool = False) -> None:
    """Fit and measure the classical models of `evaluate.baselines` on the rows of `evaluate.split`, and print them.

    It reads prepared data if the config has some, and takes what a run fitted before. It writes only `baselines.json`,
    into the folder `out`.
    """
    console.start_logging()
    began = time.monotonic()
    kept = None
    if from_ratings or outdated(config) or not (config.data_path / MANIFEST).is_file():
        samples, _, name = samples_of(config)
    else:
        data = prepared(config)
        samples, name = data.samples, str(data.manifest["stats"]["name"])
        kept = replace(kept_baselines(config, data), writes=False)
    chosen, split = config.evaluate, config.evaluate.split
    vectors = None
    if chosen.baselines == "all":
        vectors = vectors_of(samples.items, config.text, config.model.base, config.run_path, writes=False)
    known = replace(BaselineData.of(samples, config.seed, vectors=vectors), fits=FITS)
    fitted = chosen_baselines(chosen.baselines, text=vectors is not None, likes=samples.likes is not None)
    random = [b.key for b in fitted if b.needs and stored(b, kept, vectors) is None]
    scores = scores_of(known, fit_baselines(known, chosen.baselines, kept), split)
    rows = chosen_rows(config, samples.of(split).size)
    same = beside_baselines(samples, {}, scores, rows=rows, split=split)
    pairs = list(permutations(same.scores, 2))
    with working("resampling users"):
        found = measure_rows(
            *(same, Models(pairs=pairs)),
            bootstrap=chosen.bootstrap, seed=config.seed, split=split, likes=samples.likes,
        )  # fmt: skip
    if out is not None:
        write_json(out / FILE, to_dict(found))
    if as_json:
        console.print_json(to_dict(found))
        return
    console.out.print(table(found, f"{name}, {clock(time.monotonic() - began)}"))
    for sentence in bar_to_clear(found):
        console.out.print(f"• {sentence}")
    if random:
        line = f"• Factors and trees are means of {FITS} fits here, of {SEEDS} in `palate run`."
        console.out.print(line)


def to_dict(found: Evaluation) -> dict[str, Any]:
    """The evaluation as `metrics.json` has it, without the sentences on models."""
    return {name: value for name, value in found.to_dict().items() if name not in ("differences", "verdict")}


def by_auc(found: Evaluation) -> list[Entry]:
    """The baselines, best first; those without an AUC last."""
    return sorted(found.entries, key=lambda entry: -(entry.metrics.auc or 0.0))


def table(found: Evaluation, title: str) -> Table:
    """The baselines, best first, within 80 columns."""
    rows = Table(box=SIMPLE_HEAD, pad_edge=False, caption=caption(found), caption_justify="left")
    rows.add_column(title, max_width=32, overflow="fold")
    rows.add_column("AUC", justify="right")
    rows.add_column("95 %", style="dim", no_wrap=True)
    rows.add_column("GAUC", justify="right")
    if found.negatives is None:
        rows.add_column("log loss", justify="right")
    for entry in by_auc(found):
        metrics, between = entry.metrics, entry.intervals.get("auc")
        interval = "" if between is None else bounds(between)
        loss = [cell(metrics.log_loss)] if found.negatives is None else []
        rows.add_row(entry.label, cell(metrics.auc), interval, cell(metrics.gauc), *loss)
    return rows


def bar_to_clear(found: Evaluation) -> list[str]:
    """The best baseline, and the difference from it that a test on these rows detects."""
    best = by_auc(found)[0]
    if best.metrics.auc is None:
        return list(found.verdict)
    sentences = [f"The bar for a language model: {best.label}, AUC {number(best.metrics.auc)}."]
    if found.negatives is not None:
        sentences.append(sampled_note(found.negatives))
    pairs = [d for d in found.differences if (d.metric, d.first) == ("auc", best.key) and d.second != CONSTANT]
    sizes = sorted(detectable(pair.interval) for pair in pairs if pair.interval is not None)
    if sizes:
        sentences.append(
            f"On these rows a test detects a difference in AUC of {number(median(sizes))} from it: the median over the "
            f"other baselines, {number(sizes[0])} for the most similar one, {number(sizes[-1])} for the least."
        )
    return sentences
