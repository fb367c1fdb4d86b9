"""What else is worth trying, on validation: what the prompt tells, how long its history is, epochs, full fine-tuning.

    python benchmarks/variants.py --quick        # a tiny model on made-up ratings: does it all run?
    PALATE_DATA_DIR=… python benchmarks/variants.py --save

Each variant changes one thing in one recipe and trains as many samples, or as many steps where it repeats them. The
validation samples are the same in all runs but those of longer histories, which leave out what each user rated first.
A run that is there is not made again, so that a benchmark that was broken off goes on.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import quality
from curves import search
from palate.config import Config
from report import Result

SAMPLES, TARGETS = 2_048, 16

FULL = {"method": "full", "learning_rate": 1e-4}
RANKING = {"ranking_weight": 1.0}
GENRES = {"candidate_line": "{title} ({genres}), rated {item_mean:.1f} by {item_count}"}
MEANS = {"history_line": "{rating:g} {title} ({item_mean:.1f})"}
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "the recipe": {},
    "genres": {"prompt": GENRES},
    "means of the rated films too": {"prompt": MEANS},
    "genres and means": {"prompt": {**GENRES, **MEANS}},
    "histories of 30": {"prepare": {"history_len": 30}},
    "half the samples, twice": {"train": {"epochs": 2}},
    "all weights, at a tenth of the rate": {"train": FULL},
    "ranking too": {"train": RANKING},
    "all weights, ranking too": {"train": {**FULL, **RANKING}},
    "all weights, ranking too, steps of 64": {"train": {**FULL, **RANKING, "gradient_accumulation": 16}},
    "all weights, ranking, genres and means": {
        "prompt": {**GENRES, **MEANS},
        "train": {**FULL, **RANKING, "save_steps": 64},  # a checkpoint is 1.2 GB
    },
}
"""What each changes."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what else changes what is learned.")
    parser.add_argument("--samples", type=int, default=SAMPLES, help=f"labelled examples of each run ({SAMPLES:,})")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), metavar="VARIANT")
    search("variants", parser, measured, title, COLUMNS, compared)


def title(args: argparse.Namespace) -> str:
    """What the table is of."""
    return f"As many steps each, in all {args.samples:,} labelled examples, K = {TARGETS}"


def measured(base: Mapping[str, Any], args: argparse.Namespace, keep: Path) -> Iterator[dict[str, Any]]:
    """A row for every variant and seed."""
    for name in args.variants:
        for seed in args.seeds:
            train = {"targets_per_prompt": TARGETS, "max_samples": args.samples, "save_steps": 16, "seed": seed}
            config = changed({**base, "prepare": {"max_eval": quality.VALIDATION}}, {"train": train})
            config = changed(config.model_dump(mode="json"), VARIANTS[name])
            if (epochs := config.train.epochs) > 1:  # as many steps, of fewer samples
                config = changed(
                    config.model_dump(mode="json"), {"train": {"max_samples": round(args.samples / epochs)}}
                )
            about = {"variant": name, "seed": seed}
            yield (row := quality.row_of(config, quality.folder_of(config, keep), about))
            print(f"{name}, seed {seed}: AUC {row['auc']:.4f}", file=sys.stderr)


def changed(values: Mapping[str, Any], changes: Mapping[str, Mapping[str, Any]]) -> Config:
    """A config with some options of some sections changed."""
    return Config.model_validate({**values, **{name: {**values[name], **given} for name, given in changes.items()}})


def compared(rows: Sequence[Mapping[str, Any]]) -> Iterator[Result]:
    """Every variant less every other of the same seeds, where there are two and more of them; pairs of seeds."""
    by = {(row["variant"], row["seed"]): row for row in rows}
    names = list(dict.fromkeys(row["variant"] for row in rows))
    found = []
    for at, other in enumerate(names):
        for name in names[at + 1 :]:
            seeds = [seed for variant, seed in by if variant == name and (other, seed) in by]
            if len(seeds) < 2:
                continue
            for what in ("auc", "loss"):
                differences = [by[name, seed][what] - by[other, seed][what] for seed in seeds]
                mean, half = quality.student(differences)
                about = {"variant": name, "other": other, "what": what, "seeds": seeds}
                found.append({**about, "differences": differences, "mean": mean, "half": half})
    if found:
        yield Result("One less another, the same seeds; 95 % t-intervals", found, DIFFERENCES)


DIFFERENCES: quality.Columns = {
    "": lambda row: row["variant"],
    "less": lambda row: row["other"],
    "seeds": lambda row: f"{len(row['seeds'])}",
    "validation": lambda row: {"auc": "AUC", "loss": "loss of the decision"}[row["what"]],
    "mean (95 %)": lambda row: f"{row['mean']:+.4f} ± {row['half']:.4f}",
}
COLUMNS: quality.Columns = {
    "": lambda row: row["variant"],
    "seed": lambda row: f"{row['seed']}",
    "labelled examples": lambda row: f"{row['trained']:,} in {row['prompts']:,} prompts",
    **quality.LEARNED,
}


if __name__ == "__main__":
    main()
