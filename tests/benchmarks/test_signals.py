"""The benchmark of signals: its variants are prompts, and its fields mean the same in every split."""

import argparse
import sys
from pathlib import Path

import pytest
from tests.acceptance.ratings import write_ratings

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))  # a script finds the others beside itself

import signals
from palate.prompt.spec import SIGNAL_FIELDS


@pytest.fixture
def args(tmp_path: Path) -> argparse.Namespace:
    ratings = write_ratings(tmp_path / "ratings", users=30)
    return argparse.Namespace(
        ratings=str(ratings), model="smollm2-135m", estimate="online", samples=64, targets=8, rows=60, folder=tmp_path
    )


def test_the_last_variant_names_every_signal_and_the_first_none(args: argparse.Namespace) -> None:
    configs = {name: signals.config_of(args, name) for name in signals.VARIANTS}
    assert configs[signals.NONE].prompt.signals == ()
    assert configs["all"].prompt.signals == SIGNAL_FIELDS
    assert len({config.run_path for config in configs.values()}) == len(configs)
    assert all(config.train.offset is None for config in configs.values())


def test_the_fields_alone_are_scored_on_every_split(args: argparse.Namespace) -> None:
    rows = {row["field"]: row for row in signals.fields(args)}
    assert set(rows) == set(SIGNAL_FIELDS) - {"neighbour"}
    # Every user likes the same half of the items, so what others say of an item tells the answer.
    assert all(rows["item_deviation"][split] > 0.9 for split in ("train", "val", "test"))
    assert all(0.2 < rows["user_deviation"][split] < 0.8 for split in ("train", "val", "test"))
