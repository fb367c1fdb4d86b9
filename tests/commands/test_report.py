from dataclasses import replace
from pathlib import Path

import pytest
from tests.evidence import evaluation

from palate.commands.report import card_rows, lines_if_there
from palate.errors import InputError


def test_the_model_card_has_the_floor_of_ece_beside_ece() -> None:
    found = evaluation()
    for row, entry in zip(card_rows(found), found.entries, strict=True):
        assert (row["ECE"], row["ECE, noise alone"]) == (entry.metrics.ece, entry.metrics.ece_floor)
    old = replace(found, entries=[replace(e, metrics=replace(e.metrics, ece_floor=None)) for e in found.entries])
    assert {row["ECE, noise alone"] for row in card_rows(old)} == {"–"}


def test_a_damaged_line_of_the_training_log_is_named(tmp_path: Path) -> None:
    log = tmp_path / "training_log.jsonl"
    log.write_bytes(b'{"loss": 1}\n\xff\n{"lo')
    with pytest.raises(InputError, match=r"training_log\.jsonl:2: is not JSON"):
        lines_if_there(log)
    log.write_bytes(b'{"loss": 1}\n{"lo')
    assert lines_if_there(log) == [{"loss": 1}]
