"""JSON that Python reads in a way that nobody means, or not at all, is refused at its place."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.store.json_text import Decoder


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "an object has the key 'c' twice"),
        (r'{"a": "\ud83d"}', "half of a surrogate pair, expected both halves"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ' + "9" * 4400 + "}", "a number of thousands of digits"),
    ],
)
def test_what_nobody_means_is_refused(text: str, problem: str) -> None:
    with pytest.raises(json.JSONDecodeError) as caught:
        Decoder().decode(text)
    assert caught.value.msg == problem


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON, st.booleans())
def test_all_else_is_read_as_python_reads_it(value: object, ascii_only: bool) -> None:
    assert Decoder().decode(json.dumps(value, ensure_ascii=ascii_only)) == value
