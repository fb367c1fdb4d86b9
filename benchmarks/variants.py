"""What else is worth trying, on validation: what the prompt tells, how long its history is, epochs, full fine-tuning.

    python benchmarks/variants.py --quick        # a tiny model on made-up ratings: does it all run?
    PALATE_DATA_DIR=… python benchmarks/variants.py --save

Each variant changes one thing in one recipe and trains as many samples, or as many steps where it repeats them. The
validation samples are the same in all runs but those of longer histories, which leave out what each user rated first.
A run that is there is not made again, so that a benchmark that was broken off goes on.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import quality
from palate.artifacts import sha256_of, write_json
from palate.config import Config
from palate.errors import PalateError
from report import Result, in_own_process, publish
from training import TRAIN, small

SAMPLES, TARGETS = 2_048, 16

GENRES = {"candidate_line": "{title} ({genres}), rated {item_mean:.1f} by {item_count}"}
MEANS = {"history_line": "{rating:g} {title} ({item_mean:.1f})"}
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "the recipe": {},
    "genres": {"prompt": GENRES},
    "means of the rated films too": {"prompt": MEANS},
    "genres and means": {"prompt": {**GENRES, **MEANS}},
    "histories of 30": {"prepare": {"history_len": 30}},
    "1,024 samples, two epochs": {"train": {"epochs": 2, "max_samples": SAMPLES // 2}},
    "all weights, at a tenth of the rate": {"train": {"method": "full", "learning_rate": 1e-4}},
}
"""What each changes."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what else changes what is learned.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), metavar="VARIANT")
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark-variants"), help="goes on from here")
    parser.add_argument("--quick", action="store_true", help="a tiny model and few steps: that everything runs")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        base, keep = quality.recipe(), args.folder
        if args.quick:
            base |= small(Path(name)).config | {"train": base["train"] | TRAIN}
            keep = Path(name) / "kept"
        try:
            rows = list(measured(base, args, keep))
        except PalateError as error:
            sys.exit(f"error: {error}")
    result = Result(f"As many steps each, in all {SAMPLES:,} labelled examples, K = {TARGETS}", rows, COLUMNS)
    publish(f"variants{'-quick' if args.quick else ''}", [result], as_json=args.json, save=args.save)


def measured(base: Mapping[str, Any], args: argparse.Namespace, keep: Path) -> Iterator[dict[str, Any]]:
    """A row for every variant and seed."""
    for name in args.variants:
        for seed in args.seeds:
            config = config_of(base, VARIANTS[name], seed, 64 if args.quick else SAMPLES)
            out = keep / sha256_of(config.model_dump(mode="json"))[:12]
            if not (out / "row.json").is_file():
                write_json(out / "row.json", {"seed": seed, **in_own_process(quality.trained, config, out)})
            yield (row := {"variant": name, **json.loads((out / "row.json").read_text())})
            print(f"{name}, seed {seed}: AUC {row['auc']:.4f}", file=sys.stderr)


def config_of(base: Mapping[str, Any], changes: Mapping[str, Any], seed: int, samples: int) -> Config:
    """The recipe with what a variant changes."""
    own: dict[str, Any] = {
        "prepare": {"max_eval": quality.VALIDATION},
        "train": {"targets_per_prompt": TARGETS, "max_samples": samples, "save_steps": 16, "seed": seed},
    }
    values = {**base}
    for change in (own, changes):
        values |= {section: {**values.get(section, {}), **given} for section, given in change.items()}
    return Config.model_validate(values)


COLUMNS: quality.Columns = {
    "": lambda row: row["variant"],
    "seed": lambda row: f"{row['seed']}",
    "labelled examples": lambda row: f"{row['trained']:,} in {row['prompts']:,} prompts",
    **quality.LEARNED,
}


if __name__ == "__main__":
    main()
