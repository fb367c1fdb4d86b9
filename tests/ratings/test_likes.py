"""Logs of likes: clicks and purchases without a rating, and play counts."""

import pytest

from palate.errors import InputError
from palate.ratings.likes import Likes
from palate.ratings.load import load_ratings

LIKES = Likes("popularity", 4)
ITEMS = "itemId,title\na,A\nb,B\n"


@pytest.fixture
def load(tmp_path):
    def load(text, suffix="csv", **options):
        (tmp_path / "items.csv").write_text(ITEMS)
        path = tmp_path / f"ratings.{suffix}"
        path.write_text(text)
        if suffix == "parquet":
            import polars as pl

            pl.read_csv(text.encode()).write_parquet(path)
        return load_ratings(str(path), **options)

    return load


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_without_ratings_every_row_is_a_like_and_the_first_of_each_item_counts(load, suffix):
    text = "userId,itemId,timestamp\n1,a,9\n1,b,5\n1,a,3\n2,a,3\n1,a,3\n"
    found = load(text, suffix, likes=LIKES)
    assert found.frame.rows() == [(1, "b", 1.0, 5), (1, "a", 1.0, 3), (2, "a", 1.0, 3)]
    assert (found.scale, found.likes, found.dropped) == ((0.0, 1.0), LIKES, {"repeated like": 2})


@pytest.mark.parametrize("column", ["rating", "clicked", "plays"])
def test_values_above_zero_are_likes(load, column):
    columns = {"rating": column} if column == "plays" else {}
    found = load(f"userId,itemId,{column},timestamp\n1,a,0,1\n1,a,7,2\n1,b,1,3\n", likes=LIKES, columns=columns)
    assert found.frame.rows() == [(1, "a", 1.0, 2), (1, "b", 1.0, 3)]
    assert found.dropped == {"no like": 1}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("\nx7,a,2020-01-01\n\nx8,b,2020-01-02\n", [("x7", "a", 1.0, 1577836800), ("x8", "b", 1.0, 1577923200)]),
        ("+7,a,1\n", [("+7", "a", 1.0, 1)]),
    ],
    ids=["words, dates and blank lines", "signs"],
)
def test_the_careful_readers_read_likes_too(load, rows, expected):
    text = f"userId,itemId,timestamp\n{rows}"
    assert load(text, likes=LIKES).frame.rows() == expected
    ragged = load(text + "1,a\n,a,3\n", likes=LIKES, bad_rows="skip", untitled="drop")
    assert [row[1:3] for row in ragged.frame.rows()] == [row[1:3] for row in expected]
    assert ragged.dropped == {"no user_id": 1, "wrong number of fields": 1}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("1,a,1\n,b,2\n", ":3: userId is empty"),
        ("1,a,1\n1,b,x\n", ":3: timestamp 'x'"),
        ("1,a,1\n1,c,2\n", "item c has no title"),
    ],
)
def test_a_wrong_row_is_named(load, rows, message):
    with pytest.raises(InputError) as error:
        load(f"userId,itemId,timestamp\n{rows}", likes=LIKES)
    assert message in str(error.value)


def test_a_negative_count_is_refused(load):
    with pytest.raises(InputError) as error:
        load("userId,itemId,rating,timestamp\n1,a,-3,1\n", likes=LIKES)
    assert ":2: rating -3 is outside of the scale" in str(error.value)


def test_without_the_option_the_refusal_names_it(load):
    with pytest.raises(InputError) as error:
        load("userId,itemId,timestamp\n1,a,1\n")
    assert "has no rating column" in str(error.value)
    assert "a log of clicks or purchases is read with --set ratings.likes=popularity" in str(error.value)
