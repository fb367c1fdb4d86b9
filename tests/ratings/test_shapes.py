"""The shapes that ratings come in: every one gives the same columns."""

import hashlib
from pathlib import Path

import polars as pl
import pytest

from palate.ratings.layout import GENRE_FLAGS
from palate.ratings.load import load_ratings

EXPECTED = [(1, 10, 4.0, 100), (1, 20, 3.0, 200), (2, 10, 1.0, 50)]
TITLES = ["Toy Story (1995)", "Misérables, Les: Part I (1995)"]


def u_item() -> bytes:
    def flags(*names: str) -> str:
        return "|".join("1" if flag in names else "0" for flag in GENRE_FLAGS)

    rows = [
        f"10|{TITLES[0]}|01-Jan-1995||http://x/?a%20b|{flags('Comedy', 'Animation')}",
        f"20|{TITLES[1]}|01-Jan-1995||http://y|{flags('Drama')}",
    ]
    return ("\n".join(rows) + "\n").encode("latin-1")


SHAPES = {
    "csv": {
        "ratings.csv": b"userId,movieId,rating,timestamp\r\n1,10,4.0,100\r\n1,20,3.0,200\r\n2,10,1.0,50\r\n",
        "movies.csv": f'movieId,title,genres\r\n10,{TITLES[0]},Animation|Comedy\r\n20,"{TITLES[1]}",Drama\r\n'.encode(),
    },
    "dat, latin-1": {
        "ratings.dat": b"1::10::4::100\n1::20::3::200\n2::10::1::50\n",
        "movies.dat": f"10::{TITLES[0]}::Animation|Comedy\n20::{TITLES[1]}::Drama\n".encode("latin-1"),
    },
    "dat, utf-8": {
        "ratings.dat": b"1::10::4::100\r\n1::20::3::200\r\n2::10::1::50\r\n",
        "movies.dat": f"10::{TITLES[0]}::Animation|Comedy\r\n20::{TITLES[1]}::Drama\r\n".encode(),
    },
    "u.data": {"u.data": b"1\t10\t4\t100\n1\t20\t3\t200\n2\t10\t1\t50\n", "u.item": u_item()},
    "atomic": {
        "x.inter": b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        b"1\t10\t4\t100\n1\t20\t3\t200.0\n2\t10\t1\t50",
        "x.item": (
            "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
            "10\tToy Story\t1995\tAnimation Comedy\n20\tMisérables, Les: Part I\t1995\tDrama\n"
        ).encode(),
    },
}


@pytest.mark.parametrize("where", ["folder", "zip"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_gives_the_same_columns(tmp_path, zipped, shape, where):
    if where == "zip":
        path = zipped("x.zip", {"top/": b""} | {f"top/{n}": b for n, b in SHAPES[shape].items()} | {"top/README": b"?"})
    else:
        path = tmp_path / "x"
        path.mkdir()
        for name, content in SHAPES[shape].items():
            (path / name).write_bytes(content)
    ratings = load_ratings(str(path), scale=(1, 5))
    assert ratings.frame.rows() == EXPECTED
    assert ratings.frame.schema == {
        "user_id": pl.Int64,
        "item_id": pl.Int64,
        "rating": pl.Float64,
        "timestamp": pl.Int64,
    }
    assert ratings.items["item_id"].to_list() == [10, 20]
    assert ratings.items["title"].to_list() == TITLES
    assert ratings.items["genres"].to_list() == ["Animation|Comedy", "Drama"]
    assert ratings.name == "x"
    assert ratings.inputs == {name: hashlib.sha256(content).hexdigest() for name, content in SHAPES[shape].items()}


def test_ml_100k_keeps_the_other_columns_of_its_items(tmp_path):
    for name, content in SHAPES["u.data"].items():
        (tmp_path / name).write_bytes(content)
    ratings = load_ratings(str(tmp_path))
    assert ratings.items.columns == ["item_id", "title", "release_date", "video_release_date", "imdb_url", "genres"]
    assert ratings.scale == (1, 5)


def test_a_year_that_is_none_or_stands_in_the_title_is_not_put_there(tmp_path):
    (tmp_path / "x.inter").write_text("user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t1\t4\t1\n")
    head = "item_id:token\tmovie_title:token_seq\trelease_year:token\n"
    (tmp_path / "x.item").write_text(
        head + "1\tunknown\tunknown\n2\tLand (1995)\tV\n3\tDune (1984)\t1984\n4\tHeat\t1995\n"
    )
    items = load_ratings(str(tmp_path)).items
    assert items["title"].to_list() == ["unknown", "Land (1995)", "Dune (1984)", "Heat (1995)"]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.parquet"])
def test_a_table_of_ones_own_brings_its_titles_and_its_names(tmp_path, name):
    frame = pl.DataFrame(
        {
            "who": ["ann", "ann", "bob"],
            "what": ["x", "y", "x"],
            "stars": [4, 9, 1],
            "when": [1, 2, 3],
            "title": list("XYX"),
        }
    )
    path = tmp_path / name
    if name.endswith("parquet"):
        frame.write_parquet(path)
    else:
        frame.write_csv(path, separator="\t" if name.endswith("tsv") else ",")
    columns = {"user": "who", "item": "what", "timestamp": "when"}
    ratings = load_ratings(str(path), columns=columns, scale=(1, 10))
    assert ratings.frame.rows() == [("ann", "x", 4.0, 1), ("ann", "y", 9.0, 2), ("bob", "x", 1.0, 3)]
    assert ratings.items.rows() == [("x", "X"), ("y", "Y")]
    assert ratings.name == "a"


def test_a_single_file_finds_its_items_beside_it_and_its_name_above_it(table):
    ratings = load_ratings(str(table() / "ratings.csv"))
    assert ratings.items["title"].to_list() == ["Toy Story (1995)", "Postino, Il (1994)"]
    assert ratings.name == "data"


def test_an_item_table_can_be_named(table, tmp_path):
    pl.DataFrame({"id": [10, 20], "name": ["A", "B"], "year": [1995, 2001]}).write_parquet(tmp_path / "films.parquet")
    items = load_ratings(str(table()), items=str(tmp_path / "films.parquet")).items
    assert items.rows(named=True)[1] == {"item_id": 20, "title": "B", "year": 2001}


def test_ids_are_text_on_both_sides_where_some_are_words(table):
    movies = "movieId,title\n10,A\n20,B\ntt3,C\n"
    ratings = load_ratings(str(table(movies=movies)))
    assert ratings.frame["item_id"].to_list() == ["10", "20", "10"]
    assert ratings.frame["user_id"].dtype == pl.Int64


def test_blank_lines_padding_quotes_and_a_byte_order_mark_do_no_harm(table):
    text = '\ufeffuserId,movieId,rating,timestamp\n\n"1", 10 ,4.0,100.0\n\n1,20,"3.5",200\n2,10,.5,50\n\n\n'
    assert load_ratings(str(table(text))).frame.rows() == [(1, 10, 4.0, 100), (1, 20, 3.5, 200), (2, 10, 0.5, 50)]


def test_columns_may_stand_in_any_order_beside_others(table):
    text = 'note,timestamp,rating,movieId,userId\n"a,\n""b""",100,4.0,10,1\n,200,3.5,20,1\n'
    assert load_ratings(str(table(text))).frame.rows() == [(1, 10, 4.0, 100), (1, 20, 3.5, 200)]


def test_a_million_ratings_are_read_as_they_were_written(tmp_path):
    n = 1_000_000
    rows = pl.select(
        userId=pl.int_range(n) // 100, movieId=pl.int_range(n) % 977, rating=pl.int_range(n) % 10 / 2 + 0.5
    )
    rows = rows.with_columns(timestamp=pl.int_range(n) + 10**9)
    rows.write_csv(tmp_path / "ratings.csv")
    pl.DataFrame({"movieId": range(977), "title": [f"T{i}" for i in range(977)]}).write_csv(tmp_path / "movies.csv")
    frame = load_ratings(str(tmp_path)).frame
    assert frame.rename(dict(zip(frame.columns, rows.columns, strict=True))).equals(rows)


def test_ml_latest_small_has_its_published_hashes():
    folder = Path(__file__).parents[3] / "shared" / "data" / "ml-latest-small"
    if not folder.is_dir():
        pytest.skip("ml-latest-small is not there")
    ratings = load_ratings(str(folder))
    assert ratings.inputs["ratings.csv"] == "aa289ca83157595d0df6aea1be6a4ded676ddc4385472e8313a8ed9805352646"
    assert (ratings.frame.height, ratings.items.height) == (100_836, 9_742)
