"""The survey of a file's bytes: its hash, and integers that Polars would read as another spelling."""

import hashlib
import re

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.ratings import survey
from palate.ratings.load import load_ratings
from palate.ratings.survey import survey_of_text


@given(st.lists(st.text('0179.+-/,;\t\n "a', max_size=12), max_size=20), st.integers(1, 9))
def test_what_is_not_respelled_has_no_such_integer(tmp_path_factory, parts, size):
    path = tmp_path_factory.getbasetemp() / "surveyed"
    text = "".join(parts)
    path.write_text(text, newline="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(survey, "BLOCK", size)
        found = survey_of_text(path)
    assert found.sha256 == hashlib.sha256(text.encode()).hexdigest()
    respelled = [f for f in re.split(r"[,;\t\n \"]", text) if re.fullmatch(r"[+-]?\d+", f) and str(int(f)) != f]
    assert found.respelled or not respelled


@pytest.mark.parametrize("plain", ["", "1,7,4.05,900\n20,100,0.5,800\n", "1,a b,-1,0\n"])
def test_plain_numbers_are_not_respelled(tmp_path, plain):
    path = tmp_path / "ratings.csv"
    path.write_text(plain)
    assert not survey_of_text(path).respelled


@pytest.mark.parametrize("odd", ["07", "+7", "-0", '"07"', " 07"])
@pytest.mark.parametrize("separator", [",", "\t", "/", "."])
def test_an_id_with_zeros_far_down_stays_another_id(tmp_path, odd, separator):
    rows = [f"{n},7,4,{n}" for n in range(1, 40_000)] + [f"1,{odd},4,900000"]
    lines = ["user_id,item_id,rating,timestamp", *rows]
    text = "\n".join(line.replace(",", separator) for line in lines)
    path = tmp_path / "ratings.csv"
    path.write_text((f"sep={separator}\n" if separator in "/." else "") + text)
    (tmp_path / "items.csv").write_text(f"item_id,title\n7,Heat\n{odd},Se7en\n")
    ids = load_ratings(str(path)).frame["item_id"]
    assert ids.dtype == pl.String
    assert set(ids) == {"7", odd.strip().strip('"')}
