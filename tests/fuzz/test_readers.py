"""Each reader reads damaged inputs as a slow reader does, or refuses them in a line; `make stress` tries 100,000 each.

To see one again: `python -m tests.fuzz.run READER SEED`.
"""

import re

import pytest
from tests.fuzz.readers import READERS
from tests.fuzz.run import run

COUNT = 300
"""Inputs of each reader in `make test`, 4 to 20 ms each: one minute of a core, where 1,000 would take three."""


def test_damaged_inputs_are_read_as_they_are_or_refused() -> None:
    for tally in run([*READERS], 0, COUNT):
        assert (tally.reader, tally.faults) == (tally.reader, [])
        assert tally.outcomes.total() == COUNT
        assert min(tally.outcomes["read"], tally.outcomes["refused"]) > COUNT // 20, tally.reader


def test_every_kind_of_fault_is_named_with_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz.run.SECONDS", 2.0)
    (tally,) = run(["faulty"], 0, 7)
    kinds = (
        "ValueError: a traceback",
        "takes more than 2 s",
        "ended the process with -9",
        r"took \d+ MB for 100 bytes",
        "printed 'a panic'",
    )
    assert [seed for seed, _ in tally.faults] == [1, 2, 3, 4, 5]
    assert all(re.match(kind, fault) for kind, (_, fault) in zip(kinds, tally.faults, strict=True))
    assert tally.outcomes["read"] == 2
