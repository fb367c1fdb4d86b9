"""What a fine-tuned model reaches on ml-latest-small's test split, from no sample on, beside every baseline.

    PALATE_DATA_DIR=… python benchmarks/reached.py --save
    PALATE_DATA_DIR=… python benchmarks/reached.py --keep --save    # only what the saved result lacks

Trainings are those of `training.py --rows quality`, and are shared with it: a step of 32 samples, or of sixteen where
there are few. All are scored on the same test rows, which is done once. A run or a score that is there is not made
again, so that a benchmark that was broken off goes on.

All of it takes hours on a processor. With `--keep` the arms that the saved result has are not measured again, and its
rows say when they were. P of what is measured is kept beside it, row by row: arms that have it are compared in pairs.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

import quality
from palate.config import Config
from palate.measure.bootstrap import Interval, detectable
from report import RESULTS, Result, in_own_process, machine, publish
from variants import VARIANTS, changed

ROWS, VALIDATION = 600, 300
"""Test rows that are scored, and validation rows that calibration and stacking are fitted on."""


class Arm(NamedTuple):
    """One way to train; without samples it is the base model."""

    samples: int | None
    targets: int = 16
    seed: int = 1
    stacked: bool = False
    """Whether it is calibrated and stacked, which costs the scores of validation rows."""
    variant: str = ""
    """Of the recipe, if it is not that itself."""

    @property
    def name(self) -> str:
        """What it is called."""
        if self.samples is None:
            return "zero-shot"
        seed = f"seed {self.seed}" if self.seed != 1 else ""
        return ", ".join(filter(None, (f"{self.samples:,} samples", f"K = {self.targets}", seed, self.variant)))


ARMS = (
    Arm(None),
    Arm(64),
    Arm(256),
    Arm(640, 1),
    Arm(640),
    Arm(1_024),
    Arm(3_072, stacked=True),
    Arm(8_192, stacked=True, variant="genres and means"),
    Arm(16_384, stacked=True, variant="all weights, ranking, genres and means"),
    Arm(25_600, stacked=True, variant="all weights, ranking, genres and means"),  # two hours on two cores
)
SCORES = RESULTS / "reached.parquet"
"""P(like) of each arm by test row, with the user and the label."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what fine-tuned models reach on the test split.")
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark-quality"), help="goes on from here")
    parser.add_argument("--keep", action="store_true", help="leave alone what the saved result has")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    args = parser.parse_args()
    kept, kept_pairs = saved() if args.keep else ([], [])
    known = {line["arm"] for line in kept}
    rows = list(measured([arm for arm in ARMS if arm.name not in known], args.folder))
    found = [*kept, *lines(rows)]
    order = [None, *(arm.name for arm in ARMS)]
    found = sorted({line["what"]: line for line in found}.values(), key=lambda line: order.index(line["arm"]))
    p = together([Path(row["scores"]) for row in rows], [row["arm"] for row in rows], old=args.keep)
    every = [*kept_pairs, *paired(p), *(pair for row in rows for pair in stacked(row))]
    pairs = {(pair["metric"], pair["first"], pair["second"]): pair for pair in every}
    results = [
        Result(f"{p.height:,} test rows of {p['user_id'].n_unique():,} users of ml-latest-small", found, COLUMNS),
        Result("Paired over users on these rows", list(pairs.values()), PAIRED),
    ]
    publish("reached", results, as_json=args.json, save=args.save)
    if args.save:
        p.write_parquet(SCORES)


def saved() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows and the pairs of the saved result."""
    table, pairs = json.loads((RESULTS / "reached.json").read_text())["results"]
    return table["rows"], pairs["rows"]


def together(files: Sequence[Path], names: Sequence[str], *, old: bool) -> pl.DataFrame:
    """`row`, `user_id`, `label` and P(like) of each arm, by its name."""
    frames = [pl.read_parquet(SCORES)] if old and SCORES.is_file() else []
    columns = ("row", "user_id", "label")
    frames += [
        pl.read_parquet(file).select(*columns, pl.col("p").alias(n)) for file, n in zip(files, names, strict=True)
    ]
    found = frames[0]
    for frame in frames[1:]:
        found = found.drop(set(frame.columns) & set(found.columns) - set(columns)).join(frame, on=columns, how="left")
    return found


def measured(arms: Sequence[Arm], folder: Path) -> Iterator[dict[str, Any]]:
    """What each way to train comes to."""
    for arm in arms:
        config = config_of(arm)
        row: dict[str, Any] = {**arm._asdict(), "arm": arm.name}
        if arm.samples is None:
            out = folder / "zero-shot"
        else:
            out = quality.folder_of(config, folder)
            row |= quality.row_of(config, out, {"targets": arm.targets, "seed": arm.seed, "samples": arm.samples})
        scored = out / f"test-{ROWS}"
        if not (scored / "metrics.json").is_file():
            in_own_process(score, config, arm, out / "adapter", folder, scored)
        row["scores"] = str(scored / "scores" / f"{model(row)}.parquet")
        yield (row := {**row, **json.loads((scored / "metrics.json").read_text())})
        print(f"{arm.name}: AUC {entry(row, model(row))['metrics']['auc']:.4f}", file=sys.stderr)


def config_of(arm: Arm) -> Config:
    """How an adapter is trained, and what it is asked."""
    config = quality.config_of(quality.recipe(), arm.targets, arm.samples or 1, arm.seed)
    return changed(config.model_dump(mode="json"), VARIANTS.get(arm.variant, {}))


def score(config: Config, arm: Arm, adapter: Path, folder: Path, out: Path) -> None:
    """Score the test rows and measure: `out/metrics.json`, and a report."""
    from palate.commands.evaluate import evaluate

    own = {
        "run_dir": str(folder / arm.variant),  # whose data they share
        "evaluate": {
            "max_samples": ROWS,
            "calibration_samples": VALIDATION if arm.stacked else 0,
            "batch_size": 8,
            "zero_shot": arm.samples is None,
        },
        "score": {"stack": arm.stacked},
    }
    config = Config.model_validate(config.model_dump(mode="json") | own)
    evaluate(config, adapters=[] if arm.samples is None else [adapter], base_only=arm.samples is None, out=str(out))


def entry(row: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A row of the evaluation's table."""
    found: dict[str, Any] = next(each for each in row["entries"] if each["key"] == key)
    return found


def model(row: Mapping[str, Any]) -> str:
    """The key of what was scored."""
    return "zero-shot" if row["samples"] is None else "fine-tuned"


def lines(rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The table: baselines, each model, and the calibrated and stacked ones below theirs."""
    when = {name: machine()[name] for name in ("date", "commit")}
    for row in rows:
        baselines = {each["key"]: each for each in row["entries"] if each["kind"] == "baseline"}
        for each in baselines.values():  # the same in each
            yield {**kept(each), "what": each["label"], "arm": None, **when}
        own = [each for each in row["entries"] if each["kind"] != "baseline"]
        for each in own:
            suffix = "" if each["key"] == model(row) else f": {each['label']}"
            from_best = [d for d in row["differences"] if (d["metric"], d["first"]) == ("auc", each["key"])]
            best = next((d for d in from_best if d["second"] in baselines), None)
            seen = {key: row.get(key) for key in ("auc", "prompts", "trained", "seconds", "waited")}
            yield {**kept(each), "what": row["arm"] + suffix, "arm": row["arm"], "run": seen, "beside": best, **when}


def paired(p: pl.DataFrame) -> list[dict[str, Any]]:
    """AUC and GAUC of each arm less those of each before it, with intervals over users."""
    from palate.measure.paired import compare

    arms = [arm.name for arm in ARMS if arm.name in p.columns]
    pairs = [(later, earlier) for earlier, later in combinations(arms, 2)]
    users = p["user_id"].rank("dense").cast(pl.Int64).to_numpy()
    scores = {name: p[name].to_numpy() for name in arms}
    found = compare(p["label"].to_numpy(), users, scores, pairs, resamples=1000, seed=13)
    return [asdict(each) for name in ("auc", "gauc") for each in found.of(name)]


def stacked(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What the model adds to the statistics and to the baseline that it is stacked with."""
    labels = {each["key"]: each["label"] for each in row["entries"]}
    beside = ((row.get("stack") or {}).get("beside") or {}).get("baseline")
    for pair in (("stacked", "statistics"), ("stacked-baseline", beside)):
        for found in row["differences"]:
            if (found["metric"], found["first"], found["second"]) == ("auc", *pair):
                yield {**found, "first": f"{row['arm']}, {labels[pair[0]]}", "second": labels[pair[1]]}


def kept(each: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a row; its curves are in the reports."""
    return {key: each[key] for key in ("key", "metrics", "intervals")}


def between(bounds: Mapping[str, float] | None, form: str = ".3f") -> str:
    """An interval."""
    return "" if bounds is None else f"[{bounds['low']:{form}}, {bounds['high']:{form}}]"


def detects(bounds: Mapping[str, float] | None) -> str:
    """The smallest difference that rows with such an interval detect."""
    return "" if bounds is None else f"{detectable(Interval(**bounds)):.3f}"


def metric(name: str) -> Callable[[Mapping[str, Any]], str]:
    """A metric, or a dash where it has no value."""
    return lambda row: "–" if row["metrics"][name] is None else f"{row['metrics'][name]:.3f}"


def told(row: Mapping[str, Any], key: str, form: str) -> str:
    """What is told of the training of a row."""
    value = row.get("run", {}).get(key) if row["key"] in ("zero-shot", "fine-tuned") else None
    return "" if value is None else form.format(value)


def waiting(row: Mapping[str, Any]) -> str:
    """The share of a training's time in which there were no samples to go on with."""
    run = row.get("run") or {}
    known = row["key"] == "fine-tuned" and run.get("waited") is not None
    return f"{run['waited'] / run['seconds']:.2%}" if known else ""


def beside(row: Mapping[str, Any]) -> str:
    """How far the AUC lies from the best baseline's."""
    found = row.get("beside")
    return "" if not found else f"{found['value']:+.3f} {between(found['interval'], '+.3f')}"


COLUMNS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "": lambda row: row["what"],
    "AUC": metric("auc"),
    "95 %": lambda row: between(row["intervals"].get("auc")),
    "GAUC": metric("gauc"),
    "log loss": metric("log_loss"),
    "ECE": metric("ece"),
    "− best baseline": beside,
    "detects": lambda row: detects((row.get("beside") or {}).get("interval")),
    "validation AUC": lambda row: told(row, "auc", "{:.3f}"),
    "training": lambda row: told(row, "seconds", "{:.0f} s"),
    "of it waiting for samples": lambda row: waiting(row),
}
PAIRED: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "": lambda row: row["metric"].upper(),
    "of": lambda row: row["first"],
    "less that of": lambda row: row["second"],
    "difference": lambda row: f"{row['value']:+.3f}",
    "95 %": lambda row: between(row["interval"], "+.3f"),
    "detects": lambda row: detects(row["interval"]),
}


if __name__ == "__main__":
    main()
