"""A table of users: its ids, and its other columns as texts."""

from pathlib import Path

import polars as pl
import pytest

from palate.errors import InputError
from palate.ratings.item_table import item_files
from palate.ratings.user_table import UNKNOWN, read_users


def read(path: Path, **columns: str) -> pl.DataFrame:
    with item_files(str(path), None, "user") as files:
        return read_users(files, columns)


def test_text_and_typed_tables_are_read_alike(tmp_path: Path) -> None:
    text, typed = tmp_path / "people.csv", tmp_path / "people.parquet"
    text.write_text('Age,userId,Home-Town,tags\n31,7,"Ulm,\nDanube","a, b"\n,9, ,\n')
    columns = {"Age": [31, None], "userId": [7, 9], "Home-Town": ["Ulm,\nDanube", " "], "tags": [["a", "b"], []]}
    pl.DataFrame(columns).write_parquet(typed)
    expected = {"user_id": [7, 9], "Age": ["31", UNKNOWN], "Home_Town": ["Ulm, Danube", UNKNOWN]}
    for path in (text, typed):
        assert read(path).to_dict(as_series=False) == expected | {"tags": ["a, b", UNKNOWN]}


def test_the_tables_of_movielens_have_no_header(tmp_path: Path) -> None:
    (tmp_path / "u.user").write_text("1|24|M|technician|85711\n2|53|F|other|94043\n")
    (tmp_path / "users.dat").write_text("1::F::1::10::48067\n2::M::56::16::70072\n")
    assert read(tmp_path / "u.user").row(0, named=True) == {
        "user_id": 1, "age": "24", "gender": "M", "occupation": "technician", "zip_code": "85711",
    }  # fmt: skip
    assert read(tmp_path / "users.dat")["age"].to_list() == ["1", "56"]


def test_the_column_of_ids_may_be_named(tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text("who,user_id,age\nann,x,4\n")
    assert read(tmp_path / "people.csv", user="who").to_dicts() == [{"user_id": "ann", "age": "4"}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user,age\n1,2\n2,3\n1,4\n", r"people.csv:4: line 2 has the same user 1, expected one row for each user"),
        ("user,age\n1,2\n,3\n", r"people.csv:3: the user's id is missing"),
        ("age,zip\n1,2\n", r"people.csv:1: has no user column, expected one such as userId; found age, zip"),
    ],
)
def test_a_table_that_is_none_of_users_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read(tmp_path / "people.csv")
    with pytest.raises(InputError, match="no such file, expected the user table"):
        read(tmp_path / "none.csv")
