"""The outputs of a command, which must not take the place of its inputs."""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from palate.config import Config
from palate.copies import COPIES
from palate.ratings.archives import ARCHIVES
from palate.store.artifacts import MANIFEST
from palate.store.keys import recorded
from palate.store.places import check_apart

OUTPUTS = ("out", "plot", "html", "report", "as_json")
"""Options of several commands with the place of an output, in an `argparse.Namespace`."""
INPUTS = ("config_file", "config", "tables", "history", "candidates", "scores", "adapter", "adapters", "runs", "store")
FILES = ("baselines.json", "advice.json", "metrics.json")
"""The files that commands write into `--out DIR` beside others'."""


def check_outputs(config: Config, args: argparse.Namespace) -> None:
    """Raise `InputError` if an output of the command is one of its inputs, or holds an input that it would replace."""
    outputs = [Path(place) for name in OUTPUTS if isinstance(place := getattr(args, name, None), str | Path)]
    COPIES.check(_ratings(config))
    places = [*outputs, *(place / name for place in outputs for name in FILES)]
    inputs = [*_ratings(config), *_named(args)]
    if args.command == "prepare":
        places.append(config.data_path)
        inputs += [str(Path(place).parent) for place in inputs if not Path(place).is_dir()]
    else:
        prepared = recorded(config.data_path / MANIFEST).get("outputs", ())
        inputs += [str(config.data_path / name) for name in prepared if isinstance(name, str)]
    check_apart(places, inputs)


def _ratings(config: Config) -> Iterator[str]:
    """The tables of the log, those of a database by its file."""
    for place in (config.ratings.source, config.ratings.also, config.ratings.items, config.ratings.users):
        if place is not None and place not in ARCHIVES:
            yield re.sub(r"^(sqlite|duckdb):///|\?\w+=.*$", "", place)


def _named(args: argparse.Namespace) -> Iterator[str]:
    """The inputs that options and arguments name."""
    for name in INPUTS:
        found = getattr(args, name, None)
        for place in found if isinstance(found, list) else [found]:
            if place is not None and not (name.startswith("config") and Path(place).is_dir()):
                yield str(place)
