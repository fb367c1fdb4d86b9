"""An id is text unless it spells a number the same way in every table."""

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.errors import InputError
from palate.ratings.ids import as_ids
from palate.ratings.load import load_ratings
from palate.ratings.splits import load_given


def _folder(tmp_path: Path, ratings: list[tuple[str, str]], items: list[str]) -> Path:
    rows = [f"{user},{item},4,{time}" for time, (user, item) in enumerate(ratings)]
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + "\n".join(rows) + "\n")
    (tmp_path / "movies.csv").write_text("movieId,title\n" + "".join(f"{i},Film {n}\n" for n, i in enumerate(items)))
    return tmp_path


def test_users_with_and_without_leading_zeros_are_two(tmp_path):
    ratings = load_ratings(str(_folder(tmp_path, [("007", "1"), ("7", "1")], ["1"])))
    assert ratings.frame["user_id"].to_list() == ["007", "7"]
    assert ratings.frame["item_id"].to_list() == [1, 1]


def test_ids_that_are_words_in_one_table_are_text_in_both(tmp_path):
    ratings = load_ratings(str(_folder(tmp_path, [("1", "0000316760"), ("2", "12")], ["0000316760", "12", "B00X"])))
    assert ratings.frame["item_id"].to_list() == ["0000316760", "12"]
    assert ratings.items["item_id"].to_list() == ["0000316760", "12", "B00X"]


@pytest.mark.parametrize("spelled", ["+7", "-0", "07", "-07", "00"])
def test_a_number_is_written_as_it_was_read(tmp_path, spelled):
    ratings = load_ratings(str(_folder(tmp_path, [("1", spelled), ("1", "12")], [spelled, "12"])))
    assert ratings.frame["item_id"].to_list() == [spelled, "12"]


@pytest.mark.parametrize(("rated", "titled"), [("40.0", "40"), ("40", "40.0"), ("007", "7"), ("7", "007")])
def test_two_spellings_of_an_item_are_named_with_both_tables(tmp_path, rated, titled):
    folder = _folder(tmp_path, [("1", rated)], [titled, "12"])
    with pytest.raises(InputError) as error:
        load_ratings(str(folder))
    told = (
        f"{folder / 'ratings.csv'}:2: item {rated} has no title in movies.csv, "
        f"expected one spelling in both tables: it has item {titled}"
    )
    hint = "; pandas writes 12 as 12.0 in a column with gaps: `.astype('Int64')` before it is written keeps 12"
    assert str(error.value) == told + (hint if "40" in rated else "")
    with pytest.raises(
        InputError, match=f"no ratings that can be kept: 1 item .*; of item {rated} expected one spelling"
    ):
        load_ratings(str(folder), untitled="drop")


def test_two_spellings_of_a_user_are_named_with_the_line(tmp_path):
    folder = _folder(tmp_path, [("7", "1"), ("8", "1"), ("7.0", "2")], ["1", "2"])
    with pytest.raises(InputError, match=r"ratings.csv:4: user_id 7.0 is spelled 7 in other rows, expected one"):
        load_ratings(str(folder))
    head = "user,item,label,title\n"
    (tmp_path / "train.csv").write_text(head + "1,5,1,A\n2,5,0,A\n")
    (tmp_path / "test.csv").write_text(head + "2.0,5,1,A\n")
    with pytest.raises(InputError, match=r"test.csv:2: user '2.0' is wrong, expected 2 as in other rows"):
        load_given(str(tmp_path))


def test_floats_are_no_ids_of_given_splits(tmp_path):
    frame = pl.DataFrame({"user": [1, 2], "item": [7.0, 12.0], "label": [1, 0], "title": ["A", "B"]})
    for split in ("train", "test"):
        frame.write_parquet(tmp_path / f"{split}.parquet")
    with pytest.raises(InputError, match=r"train.parquet: column 'item' holds Float64, expected integers or text"):
        load_given(str(tmp_path))


@pytest.mark.parametrize("kind", [pl.String, pl.Int64])
def test_parquet_ids_keep_their_type_beside_csv(tmp_path, kind):
    frame = pl.DataFrame({"userId": ["1", "2"], "movieId": ["7", "12"], "rating": [4.0, 3.0], "timestamp": [1, 2]})
    frame.with_columns(pl.col("userId", "movieId").cast(kind)).write_parquet(tmp_path / "ratings.parquet")
    (tmp_path / "movies.csv").write_text("movieId,title\n7,Seven\n12,Monkeys\n")
    ratings = load_ratings(str(tmp_path))
    assert ratings.frame["user_id"].dtype == ratings.items["item_id"].dtype == kind
    assert [str(item) for item in ratings.frame["item_id"]] == ["7", "12"]


def test_item_ids_of_parquet_keep_their_zeros(tmp_path):
    frame = pl.DataFrame({"userId": ["1", "2"], "movieId": ["007", "7"], "rating": [4.0, 3.0], "timestamp": [1, 2]})
    frame.write_parquet(tmp_path / "ratings.parquet")
    pl.DataFrame({"movieId": ["7", "007"], "title": ["Seven", "Bond"]}).write_parquet(tmp_path / "movies.parquet")
    ratings = load_ratings(str(tmp_path))
    assert ratings.frame["item_id"].to_list() == ["007", "7"]
    assert ratings.items["item_id"].to_list() == ["7", "007"]


def test_an_unsigned_item_id_beyond_int64_is_text(tmp_path):
    pl.DataFrame({"movieId": [2**64 - 1], "title": ["Last"]}).write_parquet(tmp_path / "movies.parquet")
    (tmp_path / "ratings.csv").write_text(f"userId,movieId,rating,timestamp\n1,{2**64 - 1},4,1\n")
    assert load_ratings(str(tmp_path)).frame["item_id"].to_list() == [str(2**64 - 1)]


def test_given_splits_decide_over_all_tables(tmp_path):
    for split, user in (("train", "7"), ("test", "007")):
        (tmp_path / f"{split}.csv").write_text(f"user_id,item_id,label,title\n{user},7,1,Seven\n8,7,0,Seven\n")
    assert load_given(str(tmp_path)).frame["user_id"].to_list() == ["7", "8", "007", "8"]


@given(st.lists(st.from_regex(r"[+-]?[0-9]{1,4}(\.0)?", fullmatch=True), min_size=1, max_size=5))
def test_ids_come_out_as_they_went_in(texts):
    assert as_ids(pl.Series(texts)).cast(pl.String).to_list() == texts


def test_ids_too_large_for_64_bits_are_text_in_parquet_as_in_text(tmp_path):
    large = 2**63 + 5
    rows = {"userId": [large, large + 1], "movieId": [10, 10], "rating": [4, 4], "timestamp": [1, 2], "title": "A"}
    frame = pl.DataFrame(rows, schema_overrides={"userId": pl.UInt64})
    frame.write_parquet(tmp_path / "a.parquet")
    frame.write_csv(tmp_path / "a.csv")
    for suffix in ("csv", "parquet"):
        ratings = load_ratings(str(tmp_path / f"a.{suffix}"))
        assert ratings.frame["user_id"].to_list() == [str(large), str(large + 1)]
        assert ratings.frame["item_id"].to_list() == [10, 10]


@pytest.mark.parametrize("white", [" ", "\t", "\xa0", "\u3000", "\x0b", "\ufeff"])
@pytest.mark.parametrize("form", ["{w}{id}", "{id}{w}", '"{id}{w}\n"'])
def test_white_space_around_an_id_is_no_part_of_it_in_any_table(tmp_path, white, form):
    padded = [form.format(w=white, id=item) for item in ("B07", "12")]
    for ratings, items in ((padded, padded), (padded, ["B07", "12"]), (["B07", "12"], padded)):
        folder = _folder(tmp_path, [("1", item) for item in ratings], items)
        read = load_ratings(str(folder))
        assert read.frame["item_id"].to_list() == read.items["item_id"].to_list() == ["B07", "12"]
    rows = "".join(f"1,{item},1,T{n},{split}\n" for split in ("train", "test") for n, item in enumerate(padded))
    (tmp_path / "given.csv").write_text("user,item,label,title,split\n" + rows)
    assert load_given(str(tmp_path / "given.csv")).items["item_id"].to_list() == ["B07", "12"]


def test_ids_of_parquet_that_differ_in_white_space_are_told_with_both_spellings(tmp_path):
    _folder(tmp_path, [("1", "B07")], ["B07"])
    pl.DataFrame({"movieId": ["B07 "], "title": ["Heat"]}).write_parquet(tmp_path / "movies.parquet")
    (tmp_path / "movies.csv").unlink()
    with pytest.raises(InputError, match="expected one spelling in both tables: it has item 'B07 '"):
        load_ratings(str(tmp_path))


@pytest.mark.parametrize("word", ["null", "NULL", "None", "nan", "N/A", "<NA>"])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_word_for_no_value_is_no_id(tmp_path, word, suffix):
    rows = {"userId": ["1", word, "2"], "movieId": ["7", "7", word], "rating": 4.0, "timestamp": [1, 2, 3]}
    frame = pl.DataFrame(rows)
    frame.write_csv(tmp_path / "log.csv") if suffix == "csv" else frame.write_parquet(tmp_path / "log.parquet")
    place = r"csv:3" if suffix == "csv" else "parquet: row 2"
    with pytest.raises(
        InputError, match=rf"{place}: user_id '{word}' stands for no value, expected an id; `--bad-rows"
    ):
        load_ratings(str(tmp_path / f"log.{suffix}"), untitled="id")
    ratings = load_ratings(str(tmp_path / f"log.{suffix}"), untitled="id", bad_rows="skip")
    assert [str(user) for user in ratings.frame["user_id"]] == ["1"]
    assert ratings.dropped == {"no item_id": 1, "no user_id": 1}
    (tmp_path / "all.csv").write_text(f"user,item,label,title,split\n1,5,1,A,train\n{word},5,1,A,test\n")
    with pytest.raises(InputError, match=rf"all\.csv:3: user '{word}' stands for no value, expected an id"):
        load_given(str(tmp_path / "all.csv"))
