"""What `metrics.json` holds is enough to print a run's results again."""

import json
from dataclasses import replace

import pytest
from pydantic import ValidationError
from tests.evidence import whole

from palate.report.outcome import Outcome


def test_an_outcome_is_read_back_from_its_json_without_the_stacks() -> None:
    outcome = whole()
    values = json.loads(json.dumps(outcome.to_dict()))
    again = Outcome.of_dict(outcome.model, values)
    assert json.loads(json.dumps(again.to_dict())) == {**values, "stack": None}
    assert again.evaluation == replace(outcome.evaluation, entries=again.evaluation.entries)


def test_json_of_another_shape_is_refused() -> None:
    with pytest.raises(ValidationError):
        Outcome.of_dict("model", {"n": 3})
