"""Wrong input: each gets one line that names the place, what stands there and what was expected."""

import re
import shutil
import subprocess
from decimal import Decimal
from pathlib import Path
from unittest.mock import patch

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.examples import examples

from palate.errors import InputError
from palate.ratings.load import load_ratings
from palate.ratings.splits import load_given

HEAD = "userId,movieId,rating,timestamp\r\n"
GOOD = "1,10,4.0,100\r\n"


def error_of(source, **options) -> str:
    with pytest.raises(InputError) as caught:
        load_ratings(str(source), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (GOOD + "1,20,3.5\r\n", "3: row has 3 fields, expected 4 (userId, movieId, rating, timestamp)"),
        (GOOD + "1,20,3.5,5,6\r\n", "3: row has 5 fields, expected 4 (userId, movieId, rating, timestamp)"),
        (GOOD + "1,20,5.5,5\r\n", "3: rating 5.5 is outside of the scale, expected 0.5 to 5 (another scale is set"),
        (GOOD + "1,20,0,5\r\n", "3: rating 0 is outside of the scale"),
        (GOOD + "1,20,good,5\r\n", "3: rating 'good' is not a number, expected one from 0.5 to 5"),
        (GOOD + "1,20,nan,5\r\n", "3: rating 'nan' is not a number"),
        (GOOD + "1,20,inf,5\r\n", "3: rating 'inf' is not a number"),
        (GOOD + "1,20,,5\r\n", "3: rating '' is not a number"),
        (GOOD + "1,20,3,84743496 https://x.org/1\r\n", "3: timestamp '84743496 https://x.org/1' is not a number"),
        (GOOD + "1,20,3,x\r\n", "3: timestamp 'x' is not a number, expected seconds since 1970, or dates in all rows"),
        (GOOD + "1,20,3,1714564800000\r\n", "3: timestamp 1714564800000 is in another unit than the rows around it"),
        (GOOD + "1,20,3,2020-01-01\r\n", "3: timestamp '2020-01-01' is not a number"),
        (GOOD + "1,20,3,-1\r\n", "3: timestamp -1 is negative"),
        (GOOD + ",20,3,5\r\n", "3: userId is empty, expected an id"),
        (GOOD + "1,,3,5\r\n", "3: movieId is empty, expected an id"),
        (GOOD + "1,20,3,5\r\n1,10,2.0,100\r\n", "4: user 1 rated item 10 at 100 already on line 2, expected one"),
        (GOOD + "1,999,3,5\r\n", "3: item 999 has no title in movies.csv, expected one for every rated item"),
    ],
)
def test_a_wrong_row_is_named_with_its_line(table, rows, message):
    folder = table(HEAD + rows)
    assert error_of(folder).startswith(f"{folder / 'ratings.csv'}:{message}")


def test_the_line_counts_blank_lines_and_line_breaks_inside_of_quotes(table):
    rows = '\r\n\r\n1,10,4.0,100,"two\r\nlines"\r\n\r\n1,20,9,200,\r\n'
    folder = table("userId,movieId,rating,timestamp,note\r\n" + rows)
    assert error_of(folder).startswith(f"{folder / 'ratings.csv'}:7: rating 9 is outside")


def test_the_lines_of_duplicates_count_blank_lines_too(table):
    assert "ratings.csv:6: user 1 rated item 10 at 100 already on line 3" in error_of(
        table(HEAD + "\r\n" + GOOD + "\r\n\r\n" + GOOD)
    )


def test_the_first_of_several_wrong_rows_is_named(table):
    assert ":3: timestamp" in error_of(table(HEAD + GOOD + "1,20,3,soon\r\n1,20\r\n1,20,99,5\r\n"))


IDS = st.sampled_from(["1", " 2", "3", "ann", '"4"', "", "007"])
STARS = st.sampled_from(["4", "4.0", " 3.5 ", "0.5", "5e0", "5.5", "", "x", "nan", "-inf", "1_0", '"2"', "٣"])
TIMES = st.sampled_from(["100", "7.0", "1e3", " 5", "7.5", "", "x", "-4", "-0", "1_0", "9" * 30, '"8"', "84 http://1"])


@examples(200)
@given(st.lists(st.one_of(st.tuples(IDS, STARS, TIMES), st.none()), max_size=6), st.data())
def test_what_is_wrong_is_found_where_a_plain_reading_finds_it(tmp_path_factory, drawn, data):
    lines, first_wrong, good = ["userId,movieId,rating,timestamp"], None, []
    for row in drawn:
        if row is None:
            lines.append("")
            continue
        item = f"{len(lines)}"
        fields = [row[0], item, row[1], row[2]]
        if data.draw(st.integers(0, 15)) == 0:
            fields = fields[:3]
        lines.append(",".join(fields))
        user, stars, time = (field.strip('" ') for field in row)
        number = re.compile(r"\d+(\.\d+)?(e\d)?|-0", re.ASCII)
        fine = len(fields) == 4 and user and number.fullmatch(stars) and 0.5 <= float(stars) <= 5
        if fine and number.fullmatch(time) and float(time) < 2**63:
            good.append((user, item, float(stars), float(time)))
        else:
            first_wrong = first_wrong or len(lines)
    folder = tmp_path_factory.mktemp("data")
    (folder / "ratings.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "movies.csv").write_text("movieId,title\n" + "".join(f"{i},T\n" for i in range(10)))
    if first_wrong:
        assert f"ratings.csv:{first_wrong}: " in error_of(folder)
    elif not good:
        assert "has no ratings" in error_of(folder)
    else:
        words = any(not user.isdecimal() or str(int(user)) != user for user, *_ in good)
        expected = [(user if words else int(user), int(item), stars, time) for user, item, stars, time in good]
        if any(time != int(time) for *_, time in expected):
            expected.sort(key=lambda row: (row[0], row[3]))
        expected = [(*row, int(time)) for *row, time in expected]
        assert load_ratings(str(folder)).frame.rows() == expected


def test_one_item_at_two_times_is_no_duplicate(table):
    assert load_ratings(str(table(HEAD + GOOD + "1,10,4.0,101\r\n"))).frame.height == 2


@examples(200)
@given(
    ids=st.sampled_from([(1, 2, 3), (-1, 0, 2**62), ("1", "a", "é")]),
    ascend=st.booleans(),
    block=st.sampled_from([1, 3, 1 << 16]),
    factors=st.sampled_from([(1, 1, 1), (0, 0, 0), (3, 5, 7)]),  # many rows that differ have the same hash
    data=st.data(),
)
def test_the_first_rating_that_is_there_already_is_named_with_the_first_like_it(
    tmp_path_factory, ids, ascend, block, factors, data
):
    rows = data.draw(st.lists(st.tuples(st.sampled_from(ids), st.integers(1, 4), st.integers(0, 3)), min_size=1))
    if ascend:
        rows.sort(key=lambda row: row[0])
    path = tmp_path_factory.mktemp("data") / "a.parquet"
    table = pl.DataFrame(rows, schema=["user", "item", "timestamp"], orient="row")
    table.with_columns(rating=4.0, title=pl.lit("A")).write_parquet(path)
    again = next((i for i, row in enumerate(rows) if row in rows[:i]), None)
    name = "palate.ratings.duplicates"
    with (
        patch("palate.ratings.blocks.BLOCK", block),
        patch(f"{name}.BLOCK", block),
        patch(f"{name}._FACTORS", factors),
    ):
        if again is None:
            assert load_ratings(str(path)).frame.height == len(rows)
        else:
            user, item, time = rows[again]
            place = (
                f"row {again + 1}: user {user} rated item {item} at {time} already on row {rows.index(rows[again]) + 1}"
            )
            assert f"a.parquet: {place}, expected" in error_of(path)


@examples(100)
@given(st.sampled_from([(0, 1, 2, 5), (-1, 0, 1, 3), (1, 3, 2**40, 2**63 - 1), ("1", "2", "a", "é")]), st.data())
def test_the_first_item_without_a_title_is_named(tmp_path_factory, ids, data):
    rated = data.draw(st.lists(st.sampled_from(ids), min_size=1, max_size=6))
    titles = data.draw(st.dictionaries(st.sampled_from(ids), st.sampled_from(["A", ""])))
    folder = tmp_path_factory.mktemp("data")
    frame = pl.DataFrame({"user": 1, "item": rated, "rating": 4.0, "timestamp": range(len(rated))})
    frame.write_parquet(folder / "ratings.parquet")
    items = pl.DataFrame({"item": list(titles), "title": list(titles.values())}, schema_overrides={"title": pl.String})
    items.cast({"item": frame["item"].dtype}).write_parquet(folder / "movies.parquet")
    row = next((i for i, item in enumerate(rated) if not titles.get(item)), None)
    if row is None:
        assert load_ratings(str(folder)).frame["item_id"].to_list() == rated
    else:
        assert f"row {row + 1}: item {rated[row]} has no title in movies.parquet" in error_of(folder)


def test_a_wrong_row_in_a_zip_is_named_with_the_zip_and_the_member(zipped):
    path = zipped("x.zip", {"ml-1m/ratings.dat": b"1::10::4::100\n1::10::9::x\n", "ml-1m/movies.dat": b"10::A::B\n"})
    assert error_of(path).startswith(f"{path}/ml-1m/ratings.dat:2: rating 9 is outside of the scale")


@pytest.mark.parametrize("row", ["1:x:10::4::100", "1::10::4", "1::10::4::100::5"])
def test_a_row_that_does_not_split_at_double_colons_is_named(tmp_path, row):
    (tmp_path / "ratings.dat").write_text(f"1::10::4::100\n{row}\n")
    (tmp_path / "movies.dat").write_text("10::A::B\n")
    assert "ratings.dat:2: row has" in error_of(tmp_path)


def test_a_rating_outside_of_one_scale_may_lie_in_another(table):
    folder = table(HEAD + "1,10,9,100\r\n")
    assert "--set ratings.scale=[1,10]" in error_of(folder)
    assert load_ratings(str(folder), scale=(1, 10)).scale == (1, 10)
    assert "ratings.scale: is [5, 1]" in error_of(folder, scale=(5, 1))


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "is empty"), ("\r\n\r\n", "is empty"), (HEAD, "has no ratings"), (HEAD[:-2], "has no ratings")],
)
def test_an_empty_file_is_told(table, text, message):
    folder = table(text)
    assert error_of(folder).startswith(f"{folder / 'ratings.csv'}: {message}")


def test_a_missing_column_is_told_with_those_that_are_there(table):
    found = error_of(table("userId,movieId,rating\n1,10,4\n"))
    assert "ratings.csv:1: has no timestamp column" in found
    assert "found userId, movieId, rating" in found
    assert "has no column 'stars'" in error_of(table(), columns={"rating": "stars"})


def test_a_missing_file_folder_or_item_table_is_told(table, tmp_path):
    assert "no such file, folder or data set" in error_of(tmp_path / "nowhere")
    assert "no such file, expected the item table" in error_of(table(), items=str(tmp_path / "none.csv"))
    (tmp_path / "hollow").mkdir()
    assert "holds no ratings, expected ratings.csv" in error_of(tmp_path / "hollow")
    folder = table()
    (folder / "movies.csv").unlink()
    assert "ratings.csv: has no titles: expected movies.csv or items.csv beside it" in error_of(folder)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            "userId,user_id,movieId,rating,timestamp",
            "the columns 'userId' and 'user_id' have the same name, expected",
        ),
        ("userId,rating,movieId,rating,timestamp", "the columns 'rating' and 'rating' have the same name"),
        ("userId,movieId,rating,Time,time", "the columns 'Time' and 'time' have the same name"),
    ],
)
def test_two_columns_of_one_meaning_are_refused(table, header, message):
    with pytest.raises(InputError, match=rf"ratings\.csv:1: {message}"):
        load_ratings(str(table(header + "\n1,10,4,5,100\n")))
    with pytest.raises(InputError, match=r"ratings\.csv:1: has 2 columns 'rating'"):
        load_ratings(str(table("userId,rating,movieId,rating,timestamp\n1,2,10,4,5\n")), columns={"rating": "rating"})


def test_a_name_in_the_config_chooses_between_columns(table):
    text = "userId,user_id,movieId,rating,timestamp\n1,7,10,4,100\n"
    assert load_ratings(str(table(text)), columns={"user": "user_id"}).frame.rows() == [(7, 10, 4.0, 100)]


@pytest.mark.skipif(shutil.which("awk") is None, reason="no awk here")
def test_files_of_the_netflix_prize_are_converted_as_the_error_says(tmp_path):
    (tmp_path / "combined_data_1.txt").write_text("1:\n7,3,2005-09-06\n8,5,2005-05-13\n")
    (tmp_path / "combined_data_2.txt").write_text("2:\n7,4,2005-09-07\n")
    (tmp_path / "movie_titles.csv").write_bytes("1,2003,Dinosaur Planet\n2,1997,Amélie, the film\n".encode("latin-1"))
    assert "combined_data_1.txt:1: is of the Netflix Prize, expected a table: `" in error_of(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
    commands = page.partition("### The Netflix Prize")[2].partition("```sh\n")[2].splitlines()[:2]
    subprocess.run(["sh", "-c", "\n".join(commands)], cwd=tmp_path, check=True)
    found = load_ratings(str(tmp_path / "ratings.csv"), items=str(tmp_path / "movies.tsv"))
    assert found.frame.select("user_id", "item_id", "rating").rows() == [(7, 1, 3.0), (8, 1, 5.0), (7, 2, 4.0)]
    assert found.items["title"].to_list() == ["Dinosaur Planet", "Amélie, the film"]
    told = error_of(tmp_path / "combined_data_1.txt")
    assert "is of the Netflix Prize, expected a table: `" in told
    assert told.partition("`")[2].partition("`")[0] == commands[0].replace("combined_data_*.txt", "FILES")


@pytest.mark.parametrize("note", ["sep=,", "\ufeffsep=,", '"sep=,"', "sep=,,,"])
def test_the_note_of_a_spreadsheet_is_no_row(table, note):
    folder = table(f"{note}\r\n{HEAD}{GOOD}1,10,9,200\r\n", f"{note}\r\nmovieId,title\r\n10,Toy Story\r\n")
    assert "ratings.csv:4: rating 9 is outside" in error_of(folder)
    assert load_ratings(str(folder), bad_rows="skip").items.rows() == [(10, "Toy Story")]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.inter", "ratings.dat", "u.data"])
def test_lines_that_end_in_carriage_returns_are_named_in_every_kind_of_table(tmp_path, name):
    (tmp_path / name).write_text("user_id,item_id,rating,timestamp\r1,10,4.0,100\r")
    with pytest.raises(InputError, match=rf"{name}:1: .*carriage return.*`tr "):
        load_ratings(str(tmp_path / name))


def test_an_item_table_without_a_header_is_told_the_header_of_items(table):
    with pytest.raises(InputError, match=r"movies\.csv:1: .* looks like a row, .* such as item_id,title"):
        load_ratings(str(table(movies="10,Toy Story (1995)\n20,Postino\n")))


def test_damaged_bytes_in_utf_8_are_told_with_their_line(table):
    folder = table(movies="movieId,title\n10,Café, été\n".encode() + "20,Misérables\n".encode("latin-1"))
    assert error_of(folder).startswith(f"{folder / 'movies.csv'}:3: byte 0xe9 is not UTF-8 text")
    folder = table("userId,movieId,rating,timestamp\nzoé,10,4,1\n".encode() + "ren\xe9,10,4,1\n".encode("latin-1"))
    assert f"{folder / 'ratings.csv'}:3: userId 'ren\ufffd' is not UTF-8 text" in error_of(folder)


def test_a_quote_that_is_never_closed_is_told(table):
    assert "ratings.csv:" in error_of(table(HEAD + GOOD + '"1,10,4.0,100\r\n1,20,4.0,100\r\n'))


@pytest.mark.parametrize(
    ("movies", "message"),
    [
        ("movieId,title\n10,A\n20,B\n10,C\n", "movies.csv:4: line 2 has the same item 10"),
        ("movieId,title\n10,A\n\n,B\n", "movies.csv:4: the item's id is missing"),
        ("movieId,title,genres\n10,A,X\n20,B\n", "movies.csv:3: row has 2 fields, expected 3 (movieId, title, genres)"),
        ("movieId,title\n10,A\n20,B, or not\n", "movies.csv:3: row has 3 fields, expected 2 (movieId, title)"),
        ("movieId,genres\n10,A\n", "movies.csv:1: has no title column"),
        ("key,title\n10,A\n", "movies.csv:1: has no item column"),
        ("movieId,title\n10,A\n20,\n", "ratings.csv:3: item 20 has no title in movies.csv"),
        ("", "movies.csv: is empty"),
    ],
)
def test_a_wrong_item_table_is_told(table, movies, message):
    assert message in error_of(table(movies=movies))


def test_an_item_with_two_titles_is_told_where_ratings_bring_them(tmp_path):
    (tmp_path / "a.csv").write_text("user,item,rating,timestamp,title\n1,5,4,1,X\n2,5,4,1,Y\n")
    assert "a.csv:3: item 5 is titled 'Y' here and 'X' before" in error_of(tmp_path / "a.csv")


@pytest.mark.parametrize(
    "name", ["../ratings.csv", "/ratings.csv", "a/../../ratings.csv", "..\\ratings.csv", "C:/r.csv"]
)
def test_a_zip_whose_names_lead_out_of_it_is_refused(zipped, name):
    path = zipped("x.zip", {name: (HEAD + GOOD).encode(), "movies.csv": b"movieId,title\n10,A\n"})
    assert "expected only names below the zip's own folder" in error_of(path)


def test_a_zip_that_is_cut_or_broken_is_told(zipped, tmp_path):
    path = zipped("x.zip", {"ratings.csv": (HEAD + GOOD * 50).encode(), "movies.csv": b"movieId,title\n10,A\n"})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "is not a whole zip file" in error_of(path)
    broken = bytearray(whole)
    broken[50] ^= 0xFF
    path.write_bytes(bytes(broken))
    assert "x.zip/ratings.csv: cannot be read from the zip" in error_of(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rating": [4.0, None]}, "row 2: rating is empty, expected a value"),
        ({"rating": [4.0, 7.0]}, "row 2: rating 7 is outside of the scale"),
        ({"rating": ["4", "good"]}, "row 2: rating 'good' is not a number"),
        ({"rating": [[4], [5]]}, "column 'rating' holds List(Int64), expected numbers"),
        ({"timestamp": [True, False]}, "column 'timestamp' holds Boolean, expected times"),
        ({"item": [1, 1], "timestamp": [2, 2]}, "row 2: user 1 rated item 1 at 2 already on row 1"),
    ],
)
def test_a_wrong_parquet_file_is_told_with_the_row(tmp_path, change, message):
    columns = {"user": [1, 1], "item": [1, 2], "rating": [4.0, 5.0], "timestamp": [1, 2], "title": ["A", "B"]} | change
    pl.DataFrame(columns).write_parquet(tmp_path / "a.parquet")
    assert f"a.parquet: {message}" in error_of(tmp_path / "a.parquet")


def test_a_file_that_only_has_the_name_of_a_table_is_told(tmp_path):
    (tmp_path / "a.parquet").write_text("hello")
    assert "a.parquet: is not a Parquet file" in error_of(tmp_path / "a.parquet")
    (tmp_path / "a.xlsx").write_text("hello")
    assert "a.xlsx: is not a whole spreadsheet" in error_of(tmp_path / "a.xlsx")
    (tmp_path / "a.xls").write_text("hello")
    assert "a.xls: is not a kind of file that holds ratings" in error_of(tmp_path / "a.xls")


def test_a_part_of_a_file_is_named_with_the_way_out(tmp_path):
    pl.DataFrame({"user": [1], "item": 2}).write_parquet(tmp_path / "a.parquet")
    (tmp_path / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-9])
    assert "a.parquet: is only a part of a Parquet file, fetch or write it again" in error_of(tmp_path / "a.parquet")
    (tmp_path / "a.json").write_text('[{"user": 1, "item": 2}, {"user')
    assert "(character 27), expected a whole array: write it again" in error_of(tmp_path / "a.json")


@pytest.mark.parametrize("other", ["ratings.dat", "u.data", "interactions.csv", "ratings.parquet", "a.inter"])
def test_two_tables_of_ratings_in_a_folder_are_refused(table, other):
    folder = table(**{other: HEAD + GOOD})
    found = ", ".join(sorted(["ratings.csv", other]))
    assert error_of(folder) == (
        f"{folder}: holds 2 tables of ratings, {found}; expected one: name the file itself as --ratings"
    )


def test_data_sets_of_two_kinds_in_a_zip_are_refused(zipped):
    path = zipped("x.zip", {"a/ratings.csv": (HEAD + GOOD).encode(), "b/ratings.dat": b"1::10::4::100\n"})
    assert "holds 2 tables of ratings, a/ratings.csv, b/ratings.dat; expected one: unpack it" in error_of(path)


@pytest.mark.parametrize("other", ["items.csv", "books.parquet"])
def test_two_tables_of_items_beside_the_ratings_are_refused(table, other):
    folder = table(**{other: "movieId,title\n10,Another\n"})
    assert "holds 2 tables of items" in error_of(folder)
    assert "expected one, or its path as --items" in error_of(folder)
    assert load_ratings(str(folder), items=str(folder / "movies.csv")).items["title"][0] == "Toy Story (1995)"


def _items(folder, **columns):
    """Ratings of items 10 and 20, and a Parquet table of these items."""
    (folder / "ratings.csv").write_text(HEAD + GOOD + "1,20,4.0,200\r\n")
    pl.DataFrame({"movieId": [10, 20], "title": ["A", "B"]} | columns).write_parquet(folder / "movies.parquet")
    return folder


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"title": [["A"], ["B"]]}, "column 'title' holds List(String), expected text"),
        ({"title": [{"en": "A"}, {"en": "B"}]}, "column 'title' holds Struct"),
        ({"title": [True, False]}, "column 'title' holds Boolean, expected text"),
        ({"title": [b"A", b"\xff"]}, "column 'title' holds Binary, expected text"),
        ({"movieId": [[10], [20]]}, "column 'movieId' holds List(Int64), expected integers or text"),
        (
            {"movieId": [10.0, 20.0]},
            "column 'movieId' holds Float64, expected integers or text: `pl.col('movieId').cast",
        ),
        ({"movieId": [Decimal("10"), Decimal("20")]}, "column 'movieId' holds Decimal"),
        ({"movieId": [True, False]}, "column 'movieId' holds Boolean"),
        ({"movieId": ["10", ""]}, "row 2: the item's id is missing"),
    ],
)
def test_columns_of_items_that_hold_something_else_are_refused(tmp_path, columns, message):
    assert f"movies.parquet: {message}" in error_of(_items(tmp_path, **columns))


def test_an_empty_id_in_parquet_is_missing(tmp_path):
    rows = {"userId": ["a", ""], "movieId": [10, 20], "rating": [4, 4], "timestamp": [1, 2], "title": ["A", "B"]}
    pl.DataFrame(rows).write_parquet(tmp_path / "r.parquet")
    assert "r.parquet: row 2: userId is empty, expected a value" in error_of(tmp_path / "r.parquet")


@pytest.mark.parametrize("title", ["  ", "\u00a0", "\u200b", '"\n"'])
def test_a_title_that_shows_nothing_is_none(table, title):
    folder = table(HEAD + GOOD, f"movieId,title\n10,{title}\n")
    assert "ratings.csv:2: item 10 has no title in movies.csv" in error_of(folder)


@pytest.mark.parametrize("empty", ['""', '" "', ""])
def test_an_item_without_an_id_is_told_however_it_is_quoted(table, empty):
    folder = table(HEAD + GOOD, f"movieId,title\n10,Toy Story\n{empty},Ghost\n")
    assert "movies.csv:3: the item's id is missing" in error_of(folder)


def test_a_title_with_double_colons_is_refused_where_they_separate_fields(tmp_path):
    (tmp_path / "ratings.dat").write_text("1::10::4::100\n")
    (tmp_path / "movies.dat").write_text("20::Heat (1995)::Crime\n10::Mission :: Impossible::Action\n")
    assert "movies.dat:2: row has 4 fields, expected 3 (item_id, title, genres)" in error_of(tmp_path)


def test_a_colon_at_the_end_of_a_title_is_the_titles(tmp_path):
    (tmp_path / "ratings.dat").write_text("1::10::4::100\n1::20::4::101\n")
    (tmp_path / "movies.dat").write_text("10::Alien:::Horror\n20::Heat (1995)::Crime\n")
    items = load_ratings(str(tmp_path)).items
    assert items.select("title", "genres").rows() == [("Alien:", "Horror"), ("Heat (1995)", "Crime")]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ((HEAD + "1,10,9,100\n").encode("utf-32"), "ratings.csv:2: rating 9 is outside"),
        ((HEAD + "1,10,9,100\n").encode("utf-32-le"), "ratings.csv:1: byte 0x00 is not text"),
        ((HEAD + "1,10,9,100\n").encode("utf-16-be"), "ratings.csv:2: rating 9 is outside"),
        ((HEAD + "1,10,9,100\n").encode("utf-16")[:-1], "ratings.csv: is not utf-16 text"),
        ((HEAD + "1,1\x000,4,100\n").encode(), "ratings.csv:2: byte 0x00 is not text"),
    ],
)
def test_text_in_wide_units_and_bytes_that_are_no_text_are_told_apart(table, content, told):
    assert told in error_of(table(content))


def test_two_columns_of_a_name_in_an_item_table_are_refused_with_the_line(table):
    assert "movies.csv:1: has two columns 'x', expected" in error_of(table(movies="movieId,title,x,x\n10,A,1,2\n"))


def test_the_files_that_macos_writes_beside_a_table_are_no_tables(table):
    folder = table()
    for name in ("._ratings.csv", "._x.inter", "._movies.csv"):
        (folder / name).write_bytes(b"\0\x05\x16\x07")
    assert load_ratings(str(folder)).frame.height


@pytest.mark.parametrize("scale", [(5, 1), (1, 1), (1, float("nan")), (1, float("inf")), (float("-inf"), 5)])
def test_a_scale_that_is_no_range_is_refused_by_every_reader(table, scale):
    folder = table(train="user_id,item_id,rating,title\n1,10,4,A\n", **{"a.csv": "user,item,rating,split,title\n"})
    assert "ratings.scale: is " in error_of(folder, scale=scale)
    with pytest.raises(InputError, match=r"ratings\.scale: is "):
        load_given(str(folder / "a.csv"), scale=scale)


@pytest.mark.parametrize("text", ["userId,movieId,rating,timestamp,note", "userId,movieId,rating,timestamp,pr\xe9nom"])
def test_the_line_of_another_encoding_is_named_in_columns_that_mean_nothing(table, text):
    content = f"{text}\n1,10,4.0,100,a\n1,20,4.0,200,\xe9\n".encode("latin-1") + "1,10,4.0,300,\xe9\xe9\n".encode()
    line = 1 if "\xe9" in text else 3
    assert f"ratings.csv:{line}: byte 0xe9 is not UTF-8 text: ratings.encoding" in error_of(table(content))
    splits = b"split," + content.replace(b"\n1", b"\ntrain,1").replace(b"note", b"title")
    (folder := table()).joinpath("s.csv").write_bytes(splits)
    with pytest.raises(InputError, match=rf"s\.csv:{line}: byte 0xe9 is not UTF-8 text: ratings.encoding"):
        load_given(str(folder / "s.csv"))


def test_lines_that_end_in_several_carriage_returns_are_read(table):
    text = "userId,movieId,rating,timestamp\r\r\n1,10,4.0,100\r\r\n1,20,3.5,200\r\r\n"
    assert load_ratings(str(table(text))).frame.rows() == [(1, 10, 4.0, 100), (1, 20, 3.5, 200)]


def test_times_beyond_the_whole_numbers_of_floats_are_read_exactly(table):
    text = HEAD + "1,10,4,1600000000000000002.0\n1,20,4,1600000000000000001.0\n"
    assert load_ratings(str(table(text))).frame["item_id"].to_list() == [20, 10]


@pytest.mark.parametrize("blank", ["", "\r\r", ",", '"",', '"",""'])
def test_empty_rows_of_a_spreadsheet_are_blank_lines_and_counted(table, blank):
    items = f"movieId,title\n{blank}\n10,Toy Story\n{blank}\n"
    rows = blank.replace(",", ",,,") if blank.count('"') < 4 else '"","","",""'
    ratings = f"{HEAD}{rows}\n1,10,4,100\n{rows}\n"
    assert load_ratings(str(table(ratings, items))).frame.rows() == [(1, 10, 4.0, 100)]
    assert "movies.csv:5: line 3 has the same item 10" in error_of(table(ratings, items + "10,Again\n"))
    assert "ratings.csv:5: user 1 rated item 10 at 100 already on line 3" in error_of(
        table(ratings + "1,10,4,100\n", items)
    )


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"title": "rating"}, "'rating' has the roles rating and title"),
        ({"user": "movieId"}, "'movieId' has the roles user_id and item_id"),
        ({"timestamp": "userId"}, "'userId' has the roles user_id and timestamp"),
    ],
)
def test_a_column_of_two_meanings_is_refused(table, tmp_path, kind, columns, told):
    path = table(HEAD + GOOD) / "ratings.csv"
    if kind == "parquet":
        pl.read_csv(path).write_parquet(path.with_suffix(".parquet"))
        path = path.with_suffix(".parquet")
    with pytest.raises(InputError, match=told):
        load_ratings(str(path), columns=columns)
    pl.read_csv(table(HEAD + GOOD) / "ratings.csv").with_columns(split=pl.lit("train")).write_csv(tmp_path / "a.csv")
    with pytest.raises(InputError, match=told):
        load_given(str(tmp_path / "a.csv"), columns=columns)


def test_an_id_may_be_the_title(tmp_path):
    (tmp_path / "a.csv").write_text("user,item,rating,timestamp\n1,Heat,4,1\n1,Ran,3,2\n")
    assert load_ratings(str(tmp_path / "a.csv"), columns={"title": "item"}).items["title"].to_list() == ["Heat", "Ran"]


@pytest.mark.parametrize(
    ("begin", "told"),
    [(b"PAR1\0", "a Parquet file"), (b"PK\x03\x04\0", "a zip"), (b"\x1f\x8b\x08\0", "not a whole gzip file")],
)
def test_a_file_with_the_ending_of_text_is_called_what_it_is(table, begin, told):
    assert f"ratings.csv: is {told}" in error_of(table(begin + b"\0" * 50))


def test_a_name_in_a_zip_may_be_long(zipped):
    name = "r" * 260
    content = {
        f"{name}.inter": b"user_id\titem_id\trating\ttimestamp\n1\t2\t4\t5\n",
        f"{name}.item": b"item_id\ttitle\n2\tA\n",
    }
    assert load_ratings(str(zipped("x.zip", content))).frame.height == 1


def test_a_row_of_given_splits_that_holds_a_note_alone_is_no_blank_line(tmp_path):
    rows = ["user,item,label,title,split,note", "1,2,1,A,train,", ",,,,,", ",,,,,only this", "1,2,7,A,test,"]
    path = tmp_path / "a.csv"
    path.write_text("\n".join(rows))
    with pytest.raises(InputError, match=r"a\.csv:4: label is missing"):
        load_given(str(path))
    path.write_text("\n".join([*rows[:3], rows[4]]))
    with pytest.raises(InputError, match=r"a\.csv:4: label '7'"):
        load_given(str(path))


@pytest.mark.parametrize("row", ["1,20,3.5,5", "x,1,20,3.5,5,6,7", '"a, b",1,20,3.5'])
@pytest.mark.parametrize("head", ["note,userId,movieId,rating,timestamp", "userId,movieId,rating,timestamp,title"])
def test_a_row_of_another_width_is_named_although_columns_are_not_read(table, head, row):
    good = "x,1,10,4.0,100" if head.startswith("note") else "1,10,4.0,100,Heat"
    folder = table(f"{head}\n{good}\n{row}\n{good}\n")
    assert re.search(r"ratings\.csv:3: row has \d fields, expected 5", error_of(folder))


@pytest.mark.parametrize("name", ["ratings.csv", "movies.csv", "train.csv"])
def test_a_nul_far_down_is_named_with_its_line(table, name):
    far = "".join(f"{n},10,4.0,{n}\n" for n in range(1000))
    content = f"userId,movieId,rating,timestamp\n{far}a\0b,10,4.0,7\n"
    content = content.replace("rating,", "label,").replace(",4.0,", ",1,") if name == "train.csv" else content
    content = f"movieId,title\n{far}1\0,T\n".replace(",10,4.0,", ",T") if name == "movies.csv" else content
    folder = table(**({"test.csv": content.replace("\0", "")} if name == "train.csv" else {}), **{name: content})
    with pytest.raises(InputError, match=rf"{name}:1002: byte 0x00 is not text"):
        (load_given if name == "train.csv" else load_ratings)(str(folder))


@pytest.mark.parametrize("rating", ["4.0", " 4.0"])
def test_a_character_that_stands_for_lost_ones_is_no_id(table, rating):
    folder = table(f"{HEAD}{GOOD}ren\ufffd,10,{rating},7\n")
    assert re.search(r"ratings\.csv:3: user_?[iI]d 'ren\ufffd' is not UTF-8 text, or has U\+FFFD", error_of(folder))


def test_a_time_in_another_unit_is_refused_on_the_disk(table):
    folder = table(f"{HEAD}{GOOD}1,10,4.0,1714564444800\r\n1,20,4.0,7\r\n")
    found = error_of(folder, untitled="id")
    assert ":3: timestamp 1714564444800 is in another unit" in found
    assert error_of(folder, untitled="id", memory=1) == found


def test_a_missing_value_on_the_disk_has_the_name_of_its_column(tmp_path):
    rows = {"uid": [1, 1, None], "movieId": [1, 2, 3], "rating": [4.0, 1.0, 2.0], "timestamp": [1, 2, 3]}
    pl.DataFrame(rows).write_parquet(tmp_path / "log.parquet")
    told = error_of(tmp_path / "log.parquet", untitled="id", memory=1)
    assert told.endswith("log.parquet: row 3: uid is empty, expected a value")


@pytest.mark.parametrize("name", ["ratings.csv", "test.csv"])
def test_a_carriage_return_within_an_id_is_named(table, name):
    train = "user_id,item_id,label,title\nann,7,1,A\n"
    folder = table(**{"train.csv": train, "test.csv": f"{train}b\rob,7,1,A\n"} if name == "test.csv" else {
        "ratings.csv": f"{HEAD.strip()}\nann,10,4,1\nb\rob,10,4,1\n"})  # fmt: skip
    with pytest.raises(InputError, match=rf"{name}:3: (user_id 'b\\rob' has|is not CSV: .*) .*carriage return"):
        (load_given if name == "test.csv" else load_ratings)(str(folder))


def test_a_quote_that_is_damaged_does_not_make_all_quotes_of_a_table_part_of_its_fields(tmp_path):
    (tmp_path / "ratings.tsv").write_text(
        '"user"\t"item"\t"rating"\t"time"\n"1"\t"2"\t"3"\t"4"\n"1"\t"5"\t"3"x"\t"4"\n'
    )
    with pytest.raises(InputError, match=r"ratings\.tsv:3: is not CSV: text follows a closing quote"):
        load_ratings(str(tmp_path / "ratings.tsv"), untitled="id")
