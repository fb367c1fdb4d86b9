"""Inputs that ask for much more than they are: see `tests/fuzz/bombs.py`."""

import pytest
from tests.fuzz.bombs import BOMBS, SLOW
from tests.fuzz.run import run


def test_bombs_are_refused_in_a_line_and_take_no_more_than_other_inputs() -> None:
    for tally in run([*BOMBS], 0, 1):
        assert (tally.reader, tally.faults) == (tally.reader, [])


@pytest.mark.slow
@pytest.mark.parametrize("bomb", SLOW)
def test_large_bombs_too(bomb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz.run.SECONDS", 600.0)
    assert run([bomb], 0, 1)[0].faults == []
