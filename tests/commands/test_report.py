from dataclasses import replace

from tests.evidence import evaluation

from palate.commands.report import card_rows


def test_the_model_card_has_the_floor_of_ece_beside_ece() -> None:
    found = evaluation()
    for row, entry in zip(card_rows(found), found.entries, strict=True):
        assert (row["ECE"], row["ECE, noise alone"]) == (entry.metrics.ece, entry.metrics.ece_floor)
    old = replace(found, entries=[replace(e, metrics=replace(e.metrics, ece_floor=None)) for e in found.entries])
    assert {row["ECE, noise alone"] for row in card_rows(old)} == {"–"}
