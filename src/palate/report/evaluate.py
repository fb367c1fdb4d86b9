"""Measure models and baselines on the same test rows, with intervals, paired differences and the verdict."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate.baselines.registry import BASELINES, Choice, baseline_scores
from palate.errors import InputError
from palate.measure.bootstrap import Replicates, interval
from palate.measure.bootstrap import bootstrap as resample
from palate.measure.curves import histogram, reliability, roc
from palate.measure.evaluation import Difference, Entry, Evaluation, Mass, mass_of
from palate.measure.keys import FINE_TUNED, ZERO_SHOT
from palate.measure.metrics import measure, metrics_in
from palate.measure.paired import SameRows
from palate.report.verdict import verdict
from palate.samples import Samples
from palate.samples.queries import Labels, Scores


def evaluate(
    samples: Samples,
    scores: Mapping[str, pl.DataFrame],
    *,
    rating_threshold: float,
    baselines: Choice | pl.DataFrame = "all",
    rows: Sequence[int] | pl.Series | NDArray[np.integer[Any]] | None = None,
    bootstrap: int = 1000,
    seed: int = 13,
    labels: Mapping[str, str] | None = None,
    split: str = "test",
    aside: Collection[str] = (),
    pairs: Sequence[tuple[str, str]] = (),
) -> Evaluation:
    """Measure models beside the baselines on the same rows of a split.

    `baselines` says which of them, or is what `baseline_scores` gave for the split. `scores` maps a key (`zero-shot`,
    `fine-tuned`, or another) to a frame with `row` (the index within the split), `p` (P(like), Float64) and, for a
    language model, `mass`. `rows` are the split's rows to measure on (None: all), each to be found in every frame;
    `bootstrap` is the number of resamples of users (0: no intervals); `labels` are the names that tables show for the
    keys. Keys `aside` are measured, but compared with nothing unless `pairs` (first, second) name them.

    Raises `InputError` where a row lacks a score or has two, and where a score is no probability.
    """
    same = beside_baselines(
        samples, scores, rating_threshold=rating_threshold, baselines=baselines, rows=rows, seed=seed, split=split
    )
    names = {key: key for key in scores} | BASELINES | dict(labels or {})
    return compared(
        same.y,
        same.users,
        same.scores,
        labels={key: names[key] for key in same.scores},
        masses={key: mass_of(frame.filter(pl.col("row").is_in(same.rows.tolist()))) for key, frame in scores.items()},
        rating_threshold=rating_threshold,
        bootstrap=bootstrap,
        seed=seed,
        split=split,
        aside=aside,
        pairs=pairs,
    )


def compared(
    y: Labels,
    users: NDArray[np.int64] | None,
    p: Mapping[str, Scores],
    *,
    labels: Mapping[str, str],
    masses: Mapping[str, Mass | None],
    rating_threshold: float | None,
    bootstrap: int,
    seed: int,
    split: str = "test",
    aside: Collection[str] = (),
    pairs: Sequence[tuple[str, str]] = (),
) -> Evaluation:
    """Measure P(like) of baselines and models, by key in the order of the tables, on the same rows.

    `y` (n,) bool, `users` (n,) or None where nobody knows whose rows they are: intervals are then over rows, which are
    taken for independent. `labels` are the entries' names; those of `masses` are the models, the others baselines.
    `split`, `aside` and `pairs` as in `evaluate`.
    """
    rows = np.arange(len(y)) if users is None else users
    replicates = resample(y, rows, p, resamples=bootstrap, seed=seed)
    entries = [
        Entry(
            key=key,
            label=labels[key],
            kind="model" if key in masses else "baseline",
            metrics=measure(y, values, rows),
            intervals={name: interval(found) for name, found in replicates[key].items()},
            mass=masses.get(key),
            reliability=reliability(y, values),
            roc=roc(y, values),
            histogram=histogram(y, values),
            aside=key in aside,
        )
        for key, values in p.items()
    ]
    measured = Evaluation(
        n=len(y),
        users=entries[0].metrics.users,
        base_rate=entries[0].metrics.base_rate,
        rating_threshold=rating_threshold,
        resamples=bootstrap,
        seed=seed,
        entries=entries,
        differences=[],
        verdict=[],
        split=split,
        unit="rows" if users is None else "users",
    )
    measured = replace(measured, differences=_differences(measured, replicates, pairs))
    return replace(measured, verdict=verdict(measured))


def beside_baselines(
    samples: Samples,
    scores: Mapping[str, pl.DataFrame],
    *,
    rating_threshold: float,
    baselines: Choice | pl.DataFrame = "all",
    rows: Sequence[int] | pl.Series | NDArray[np.integer[Any]] | None = None,
    seed: int = 13,
    split: str = "test",
) -> SameRows:
    """P(like) of baselines and models on the same rows of a split, baselines first; arguments and errors as `evaluate`.

    The rows are in the order of `rows`.
    """
    test = samples.timeline[samples.position[samples.of(split)]].with_row_index("row")
    wanted = pl.DataFrame({"row": _checked_rows(rows, len(test), split)}, schema={"row": test.schema["row"]})
    chosen = wanted.join(test, on="row", how="left", maintain_order="left")
    if not isinstance(baselines, pl.DataFrame):
        baselines = baseline_scores(
            samples, rating_threshold=rating_threshold, choice=baselines, split=split, seed=seed
        )
    free = wanted.join(baselines, on="row", how="left", maintain_order="left").drop("row")
    frames = {key: _checked_scores(key, frame, wanted) for key, frame in scores.items()}
    return SameRows(
        rows=wanted["row"].cast(pl.Int64).to_numpy(),
        y=(chosen["rating"] >= rating_threshold).to_numpy(),
        users=chosen["user_id"].rank("dense").to_numpy().astype(np.int64),
        scores={column.name: column.to_numpy() for column in free}
        | {key: frame["p"].to_numpy() for key, frame in frames.items()},
    )


def _checked_rows(rows: Any, available: int, split: str) -> list[int]:
    """The wanted rows, or an `InputError` for one that is twice there or not in the split."""
    wanted = list(range(available)) if rows is None else [int(row) for row in rows]
    if len(set(wanted)) < len(wanted):
        raise InputError(f"a {split} row is named twice, expected each once", "rows")
    outside = [row for row in wanted if not 0 <= row < available]
    if outside:
        raise InputError(f"row {outside[0]} is not in the {split} split, expected 0 to {available - 1}", "rows")
    return wanted


def _checked_scores(key: str, frame: pl.DataFrame, wanted: pl.DataFrame) -> pl.DataFrame:
    """The scores of the wanted rows, in their order."""
    place = f"scores of {key}"
    if key in BASELINES:
        raise InputError("a baseline has this name, expected another", place)
    frame = frame.with_columns(pl.col("row").cast(wanted.schema["row"]))
    twice = frame.filter(pl.col("row").is_duplicated())
    if len(twice):
        raise InputError(f"row {twice['row'][0]} has two scores, expected one", place)
    found = wanted.join(frame, on="row", how="left", maintain_order="left")
    missing = found.filter(pl.col("p").is_null())
    if len(missing):
        raise InputError(f"row {missing['row'][0]} has no score ({len(missing)} of {len(found)} have none)", place)
    wrong = found.filter(~pl.col("p").is_between(0, 1) | pl.col("p").is_nan())
    if len(wrong):
        raise InputError(f"row {wrong['row'][0]} scores {wrong['p'][0]}, expected a probability", place)
    return found


def _differences(
    found: Evaluation, replicates: Mapping[str, Mapping[str, Replicates]], asked: Sequence[tuple[str, str]]
) -> list[Difference]:
    """The pairs that a reader asks for, metric by metric; without those of which one side is undefined."""
    models = [entry.key for entry in found.models if not entry.aside]
    differences = []
    for metric in (each.key for each in metrics_in("verdict")):
        best = found.best_baseline(metric)
        if best is None:
            continue
        pairs = [(model, best.key) for model in models]
        if {FINE_TUNED, ZERO_SHOT} <= set(models):
            pairs.append((FINE_TUNED, ZERO_SHOT))
        for first, second in dict.fromkeys([*pairs, *asked]):
            one, other = (getattr(found.entry(key).metrics, metric) for key in (first, second))
            if one is None or other is None:
                continue
            has = metric in replicates[first]
            between = interval(replicates[first][metric] - replicates[second][metric]) if has else None
            differences.append(Difference(metric, first, second, one - other, between))
    return differences
