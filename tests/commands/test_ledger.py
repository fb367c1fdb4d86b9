from pathlib import Path

from palate.commands.ledger import Ledger


def test_a_stage_runs_again_when_an_entry_of_its_key_is_gone_or_an_output_was_changed(tmp_path: Path) -> None:
    out = tmp_path / "adapter"
    out.write_text("weights")
    Ledger(tmp_path).note("train", {"keep": "best", "seed": 1}, [out])

    assert Ledger(tmp_path).reason("train", {"seed": 1, "keep": "best"}, [out]) is None
    assert Ledger(tmp_path).reason("train", {"seed": 1}, [out]) == "keep changed"
    assert Ledger(tmp_path).reason("score", {"seed": 1}, [out]) == "not done yet"
    out.write_text("other")
    assert Ledger(tmp_path).reason("train", {"seed": 1, "keep": "best"}, [out]) == "adapter was changed"


def test_a_damaged_ledger_counts_as_empty(tmp_path: Path) -> None:
    (tmp_path / "stages.json").write_text("[1]")

    assert Ledger(tmp_path).reason("train", {}, []) == "not done yet"
