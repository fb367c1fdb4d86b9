"""What servers say of the next token, and what can be learnt of tokens that they leave out."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.errors import WorkError
from palate.score.completions import NextToken, forced, read

LISTED = {
    "choices": [
        {
            "text": "No",
            "logprobs": {
                "content": [
                    {
                        "id": 7,
                        "token": "No",
                        "logprob": -3.0,
                        "top_logprobs": [{"id": 5, "token": "I", "logprob": -0.5}],
                    }
                ]
            },
        }
    ],
    "usage": {"prompt_tokens": 4},
}


def mapped(top: Any, token: str = "token_id:5", value: Any = -0.5) -> Any:
    logprobs = {"tokens": [token], "token_logprobs": [value], "top_logprobs": [top]}
    return {"choices": [{"text": "I", "logprobs": logprobs}], "usage": {"prompt_tokens": 4}}


def test_the_forms_of_all_servers_are_read() -> None:
    assert read(LISTED) == NextToken({5: -0.5, 7: -3.0}, 7, {5: "I", 7: "No"}, 4)
    by_id = mapped({"token_id:5": -0.5, "token_id:7": -3.0})
    assert read(by_id) == NextToken({5: -0.5, 7: -3.0}, 5, {5: "I"}, 4)
    by_text = mapped({"I": -0.5, "No": -3.0}, "I")
    assert read(by_text) == NextToken({"I": -0.5, "No": -3.0}, "I", {}, 4)
    impossible = mapped({"token_id:5": -0.5, "token_id:7": -9999.0})
    assert read(impossible) == NextToken({5: -0.5}, 5, {5: "I"}, 4)


def test_a_reply_without_log_probabilities_is_none() -> None:
    assert read({"choices": [{"text": "I", "logprobs": None}]}) is None
    assert read({"choices": [{"text": "I"}]}) is None


@pytest.mark.parametrize("reply", [{}, {"choices": []}, [], mapped({}, value=None), mapped({"token_id:x": 0.0})])
def test_a_reply_of_another_form_is_shown(reply: Any) -> None:
    with pytest.raises(WorkError, match="reply has an unknown format"):
        read(reply)


@pytest.mark.parametrize("values", [(0.4, 0.6), (-0.1, -0.2), (float("nan"), -1.0)])
def test_numbers_that_are_no_log_probabilities_stop_the_work(values: tuple[float, float]) -> None:
    with pytest.raises(WorkError, match="values are not log-probabilities"):
        read(mapped({"token_id:5": values[0], "token_id:7": values[1]}, value=values[0]))


def reply(logits: Any, reported: Any, top: int) -> NextToken:
    """A server's answer that chooses by `logits` and tells of `reported`."""
    log_p = (reported - np.logaddexp.reduce(reported)).tolist()
    best = np.argsort(-np.array(log_p), kind="stable")[:top].tolist()
    chosen = int(np.argmax(logits))
    return NextToken({n: log_p[n] for n in {*best, chosen}}, chosen, {}, None)


@given(
    st.lists(st.floats(-15, 15), min_size=4, max_size=40, unique=True),
    st.integers(2, 5),
    st.booleans(),
)
def test_a_token_that_is_left_out_is_found_with_a_bias_whether_told_before_or_after_it(
    values: list[float], top: int, after: bool
) -> None:
    logits = np.array(values)
    top = min(top, logits.size - 1)
    token = int(logits.argmin())
    expected = (logits - np.logaddexp.reduce(logits))[token]
    biased = logits.copy()
    biased[token] += 50
    found = forced(reply(logits, logits, top), reply(biased, biased if after else logits, top), token, 50)
    assert found == pytest.approx(expected, abs=1e-6)


def test_a_bias_that_does_not_suffice_is_no_answer() -> None:
    logits = np.array([0.0, -1.0, -80.0])
    biased = logits + np.array([0, 0, 50])
    assert forced(reply(logits, logits, 2), reply(biased, biased, 2), 2, 50) is None


@pytest.mark.parametrize("worth", [2.0, 0.9])
def test_a_bias_that_means_something_else_is_noticed_on_a_known_token(worth: float) -> None:
    logits = np.array([0.0, -1.0, -2.0, -9.0])
    biased = logits + np.array([0, 0, 50 * worth, 0])
    plain, pushed = reply(logits, logits, 3), reply(biased, biased, 3)
    try:
        found = forced(plain, pushed, 2, 50)
    except WorkError:
        return
    assert found is not None
    assert abs(found - plain.log_p[2]) > 1


def test_others_that_move_without_reason_stop_the_work() -> None:
    plain = NextToken({1: -0.5, 2: -1.5}, 1, {}, None)
    with pytest.raises(WorkError, match="it does not add logit_bias to logits"):
        forced(plain, NextToken({1: -3.0, 2: -4.0, 3: -6.0}, 3, {}, None), 3, 50)
    with pytest.raises(WorkError, match="two replies share no token"):
        forced(plain, NextToken({3: -6.0}, 3, {}, None), 3, 50)
