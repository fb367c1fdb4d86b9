"""What a fine-tuned model reaches on ml-latest-small's test split, from no sample on, beside every baseline.

    PALATE_DATA_DIR=… python benchmarks/reached.py --save

Trainings are those of `training.py --rows quality`, and are shared with it: a step of 32 samples, or of sixteen where
there are few. All are scored on the same test rows, which is done once. A run or a score that is there is not made
again, so that a benchmark that was broken off goes on.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import quality
from palate.config import Config
from report import Result, in_own_process, publish

ROWS, VALIDATION = 600, 300
"""Test rows that are scored, and validation rows that calibration and stacking are fitted on."""


class Arm(NamedTuple):
    """One way to train; without samples it is the base model."""

    samples: int | None
    targets: int = 16
    seed: int = 1
    stacked: bool = False
    """Whether it is calibrated and stacked, which costs the scores of validation rows."""


ARMS = (
    Arm(None),
    Arm(64),
    Arm(640, 1),
    Arm(640),
    Arm(3_072, stacked=True),
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what fine-tuned models reach on the test split.")
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark-quality"), help="goes on from here")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    args = parser.parse_args()
    rows = list(measured(ARMS, args.folder))
    first = rows[0]
    pairs = paired({name(row): Path(row["scores"]) for row in rows}) + [pair for row in rows for pair in stacked(row)]
    results = [
        Result(f"{first['n']:,} test rows of {first['users']:,} users of ml-latest-small", list(lines(rows)), COLUMNS),
        Result("Paired over users on these rows", pairs, PAIRED),
    ]
    publish("reached", results, as_json=args.json, save=args.save)


def measured(arms: Sequence[Arm], folder: Path) -> Iterator[dict[str, Any]]:
    """What each way to train comes to."""
    for arm in arms:
        config = config_of(arm)
        row: dict[str, Any] = arm._asdict()
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
        print(f"{name(row)}: AUC {entry(row, model(row))['metrics']['auc']:.4f}", file=sys.stderr)


def config_of(arm: Arm) -> Config:
    """How an adapter is trained, and what it is asked."""
    return quality.config_of(quality.recipe(), arm.targets, arm.samples or 1, arm.seed)


def score(config: Config, arm: Arm, adapter: Path, folder: Path, out: Path) -> None:
    """Score the test rows and measure: `out/metrics.json`, and a report."""
    from palate.stages.evidence import evaluate

    own = {
        "run_dir": str(folder),  # whose data they share
        "evaluate": {"max_samples": ROWS, "calibration_samples": VALIDATION if arm.stacked else 0, "batch_size": 8},
        "score": {"stack": arm.stacked},
    }
    own["evaluate"]["zero_shot"] = arm.samples is None
    config = Config.model_validate(config.model_dump(mode="json") | own)
    evaluate(config, adapters=[] if arm.samples is None else [adapter], base_only=arm.samples is None, out=str(out))


def entry(row: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A row of the evaluation's table."""
    found: dict[str, Any] = next(each for each in row["entries"] if each["key"] == key)
    return found


def model(row: Mapping[str, Any]) -> str:
    """The key of what was scored."""
    return "zero-shot" if row["samples"] is None else "fine-tuned"


def name(row: Mapping[str, Any]) -> str:
    """What a way to train is called."""
    return "zero-shot" if row["samples"] is None else f"{row['samples']:,} samples, K = {row['targets']}"


def lines(rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The table: baselines, each model, and the calibrated and stacked ones below theirs."""
    baselines = {each["key"]: each for each in rows[0]["entries"] if each["kind"] == "baseline"}
    for each in baselines.values():
        yield {**kept(each), "what": each["label"]}
    for row in rows:
        own = [each for each in row["entries"] if each["kind"] != "baseline"]
        for each in own:
            suffix = "" if each["key"] == model(row) else f": {each['label']}"
            from_best = [d for d in row["differences"] if (d["metric"], d["first"]) == ("auc", each["key"])]
            best = next((d for d in from_best if d["second"] in baselines), None)
            seen = {key: row.get(key) for key in ("auc", "prompts", "trained", "seconds")}
            yield {**kept(each), "what": name(row) + suffix, "run": seen, "beside": best}


def paired(files: Mapping[str, Path]) -> list[dict[str, Any]]:
    """The AUC of each less that of each before it, from their files of scores, with an interval over users."""
    from palate.evaluate.paired import compare, same_rows
    from palate.stages.compare import read_run

    scores = {name: scores for name, path in files.items() if (scores := read_run(path).scores) is not None}
    same = same_rows(scores)
    pairs = [(later, earlier) for earlier, later in combinations(files, 2)]
    return [asdict(pair) for pair in compare(same.y, same.users, same.scores, pairs, resamples=1000, seed=13).of("auc")]


def stacked(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What the model adds to the statistics that it is stacked with."""
    for found in row["differences"]:
        if (found["metric"], found["first"], found["second"]) == ("auc", "stacked", "statistics"):
            yield {**found, "first": f"{name(row)}, stacked", "second": "the same statistics alone"}


def kept(each: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a row; its curves are in the reports."""
    return {key: each[key] for key in ("key", "metrics", "intervals")}


def between(bounds: Mapping[str, float] | None, form: str = ".3f") -> str:
    """An interval."""
    return "" if bounds is None else f"[{bounds['low']:{form}}, {bounds['high']:{form}}]"


def metric(name: str) -> Callable[[Mapping[str, Any]], str]:
    """A metric, or a dash where it has no value."""
    return lambda row: "–" if row["metrics"][name] is None else f"{row['metrics'][name]:.3f}"


def told(row: Mapping[str, Any], key: str, form: str) -> str:
    """What is told of the training of a row."""
    value = row.get("run", {}).get(key) if row["key"] in ("zero-shot", "fine-tuned") else None
    return "" if value is None else form.format(value)


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
    "validation AUC": lambda row: told(row, "auc", "{:.3f}"),
    "training": lambda row: told(row, "seconds", "{:.0f} s"),
}
PAIRED: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "AUC of": lambda row: row["first"],
    "less that of": lambda row: row["second"],
    "difference": lambda row: f"{row['value']:+.3f}",
    "95 %": lambda row: between(row["interval"], "+.3f"),
}


if __name__ == "__main__":
    main()
