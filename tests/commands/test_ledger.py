from pathlib import Path

from palate.commands.ledger import Ledger, changes


def test_a_stage_runs_again_when_an_entry_of_its_key_is_gone_or_an_output_was_changed(tmp_path: Path) -> None:
    out = tmp_path / "adapter"
    out.write_text("weights")
    Ledger(tmp_path).note("train", {"keep": "best", "seed": 1}, [out])

    assert Ledger(tmp_path).reason("train", {"seed": 1, "keep": "best"}, [out]) is None
    assert Ledger(tmp_path).reason("train", {"seed": 1}, [out]) == "keep changed"
    assert Ledger(tmp_path).reason("score", {"seed": 1}, [out]) == "not done yet"
    again = {"seed": 2, "keep": "best"}
    assert Ledger(tmp_path).reason("train", again, [out]) == "seed changed from 1 to 2"
    out.write_text("other")
    assert Ledger(tmp_path).reason("train", {"seed": 1, "keep": "best"}, [out]) == "adapter was changed"


def test_a_damaged_ledger_counts_as_empty(tmp_path: Path) -> None:
    (tmp_path / "stages.json").write_text("[1]")

    assert Ledger(tmp_path).reason("train", {}, []) == "not done yet"


def test_a_changed_option_has_its_dotted_name_and_both_values_and_a_hash_its_name() -> None:
    then = {"train": {"learning_rate": 1e-4, "epochs": 1}, "prompt": {"system": "S" * 99}, "data": "a" * 64}
    now = {"train": {"learning_rate": 2e-4, "epochs": 1}, "prompt": {"system": "T" * 99}, "data": "b" * 64}
    expected = "train.learning_rate changed from 0.0001 to 0.0002, prompt.system changed, data changed"
    assert changes(then, now) == expected
    assert changes(then, then) == ""
