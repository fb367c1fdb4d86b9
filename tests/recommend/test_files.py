"""Histories and candidates that people write by hand, right and wrong."""

from pathlib import Path

import polars as pl
import pytest

from palate.errors import InputError
from palate.recommend.files import read_candidates, read_history
from palate.recommend.lookup import Lookup

ITEMS = pl.DataFrame(
    {
        "item_id": [1, 6, 2571, 7, 8, 1984],
        "title": ["Toy Story (1995)", "Heat (1995)", "Matrix, The (1999)", "Twice", "Twice", "6"],
    }
)
LOOKUP = Lookup(ITEMS)


def write(folder: Path, text: str, name: str = "history.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def history(folder: Path, text: str) -> list[tuple[int, float]]:
    return read_history(write(folder, text), LOOKUP, (0.5, 5.0)).rows()


@pytest.mark.parametrize(
    "text",
    [
        'title,rating\nToy Story (1995),4\n"Matrix, The (1999)",4.5\nTwice,1\n'.replace("Twice,1\n", ""),
        "\ufeffrating,item_id\r\n4,1\r\n\r\n4.5,2571\r\n",
        'rating,title,note\n4,toy story (1995),""\n4.5,"MATRIX, THE (1999)","two\nlines"\n',
        '{"title": "Toy Story (1995)", "rating": 4}\n{"item_id": 2571, "rating": 4.5}\n',
        "movieId,rating,timestamp\n2571,4.5,2024-02-01\n1,4,2024-01-31T10:00:00Z\n",
        "item,rating,date\n2571,4.5,13.5.2024\n1,4,12.5.2024\n",
        "item,rating,time\n2571,4.5,1714521600001\n1,4,1714521600000\n",
        '{"item": 2571, "rating": 4.5, "time": 200}\n{"item": 1, "rating": 4, "time": 99.5}\n',
        '{"item_id": "1", "title": "anything", "rating": "4"}\n\n{"title": "matrix, the (1999)", "rating": 4.5}',
        'item_id,title,rating\n1,,4\n,"Matrix, The (1999)",4.5\n',
        'Name,Rating\nToy Story (1995),4\n"Matrix, The (1999)",4.5\n',
        "userId,movieId,rating,timestamp\n1,1,4.0,100\n1,2571,4.5,101\n",
        'Date,Name,Year,Rating\n2023-01-01,Toy Story,1995,4\n2023-01-02,"matrix, the",1999,4.5\n',
        "Title;Stars\nToy Story (1995);4\nMatrix, The (1999);4.5\n",
        "Product ID\tOverall\n1\t4\n2571\t4.5\n",
        '{"Name": "Toy Story (1995)", "Stars": 4}\n{"movieId": 2571, "score": 4.5}\n',
    ],
)
def test_a_history_is_read_in_its_order(tmp_path: Path, text: str) -> None:
    assert history(tmp_path, text) == [(0, 4.0), (2, 4.5)]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "history.csv: has no ratings"),
        ("title,rating\n", "history.csv: has no ratings"),
        (
            "user,item,rating\n1,1,4\n2,6,4\n",
            "history.csv:3: has user '2' after user '1', expected ratings of one user",
        ),
        ("item,title,rating\n1,Heat (1995),4\n", r"history.csv:2: item 1 is 'Toy Story \(1995\)', not 'Heat \(1995\)'"),
        ("item,rating,time\n1,4,yesterday\n", "history.csv:2: timestamp 'yesterday' is not a number, expected sec"),
        (
            "item,rating,time\n1,4,3/4/2024\n6,4,5/6/2024\n",
            "history.csv:2: timestamp '3/4/2024' may have the day or the month first",
        ),
        ("item,rating,time\n1,4,2024-01-01\n6,4,soon\n", "history.csv:3: timestamp 'soon' is not a time"),
        ("title,points\nHeat (1995),4\n", "history.csv:1: has the columns title, points, expected title or item_id"),
        ("picture,rating\nHeat (1995),4\n", "history.csv:1: has the columns picture, rating.*ratings.columns.title"),
        ("movie,rating\nHeat (1995),4\n", r"history.csv:2: there is no item 'Heat \(1995\)', expected an item_id"),
        ("title,Year,rating\nHeat,1996,4\n", r"history.csv:2: .* 'Heat', did you mean 'Heat \(1995\)'"),
        ("title,rating\nHeat (1995)\n", "history.csv:2: row has 1 field, expected 2"),
        (
            "title,rating\nMatrix, The (1999),4\n",
            "history.csv:2: row has 3 fields, .*a title with a comma needs quotes",
        ),
        ('title,rating\n"Heat" (1995),4\n', "history.csv:2: is not CSV"),
        ("title,rating\nHeat (1995),5.5\n", "history.csv:2: rating '5.5', expected a number from 0.5 to 5"),
        ("title,rating\nHeat (1995),nan\n", "history.csv:2: rating 'nan'"),
        ("title,rating\nHeat (1995),good\n", "history.csv:2: rating 'good'"),
        ("title,rating\nHeat (1995),0_4\n", "history.csv:2: rating '0_4'"),
        ("title,rating\nHeat (1995),٤\n", "history.csv:2: rating '٤'"),
        ('title,rating\n"' + 140_000 * "H", "history.csv:2: is not CSV: .*a quote may not be closed"),
        ("title,rating\n ,4\n", "history.csv:2: names no item"),
        ("title,rating\nThe Matrix,4\n", r"history.csv:2: there is no title 'The Matrix', did you mean 'Matrix, The"),
        ("title,rating\nHaet (1995),4\n", r"history.csv:2: there is no title .*, did you mean 'Heat \(1995\)'"),
        ("title,rating\nQwertzuiop,4\n", "history.csv:2: there is no title 'Qwertzuiop', expected one of"),
        ("title,rating\ntwice,4\n", "history.csv:2: 'twice' is the title of 2 items, expected an item_id: 7, 8"),
        ("item_id,rating\n99,4\n", "history.csv:2: there is no item '99'"),
        ("item_id,rating\n1,4\n6,3\n1,2\n", r"history.csv:4: repeats 'Toy Story \(1995\)' of line 2"),
        ('{"title": "Heat (1995)", "rating": 4}\n{"title": "Heat', "history.csv:2: is not JSON"),
        (
            '{"title": "Heat (1995)", "rating": 4, "rating": 1}',
            "history.csv:1: is not JSON: an object has the key 'rating' twice",
        ),
        ('{"title": "Heat (1995)", "rating": ' + "9" * 4400 + "}", "history.csv:1: is not JSON: a number of thousands"),
        ('{"title": "Heat (1995)", "rating": ' + "[" * 100_000, "history.csv:1: is not JSON: nested too deeply"),
        ('{"title": "Heat (1995)", "rating": 4}\n[4]', "history.csv:2: is not a rating"),
        ('{"title": "Heat (1995)"}', "history.csv:1: is not a rating, expected an object with title or item_id"),
        ('{"title": "Heat (1995)", "rating": true}', "history.csv:1: rating True"),
        ('{"title": "Heat (1995)", "rating": NaN}', "history.csv:1: is not JSON: NaN is not a JSON number"),
        ('{"title": NaN, "rating": 4}', "history.csv:1: is not JSON: NaN is not a JSON number"),
        ('{"title": "Heat (1995)", "rating": 1' + 5000 * "0" + "}", "history.csv:1: is not JSON"),
        (9999 * '{"title": ' + "1", "history.csv:1: is not JSON"),
        ('[{"title": "Heat (1995)", "rating": 4}]', "history.csv: is a JSON array, expected one object per line"),
        ('{"title": "Heat (1995)", "rating": null}', "history.csv:1: rating None"),
    ],
)
def test_a_wrong_line_of_a_history_is_named(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        history(tmp_path, text)


def test_columns_have_the_names_that_the_config_gives_them(tmp_path: Path) -> None:
    path = write(tmp_path, "Const,My Points,Title,Year,IMDb Rating\ntt1,2,Heat,1995,8\n")
    columns = {"rating": "My Points", "item": "const of another table"}
    assert read_history(path, LOOKUP, (1, 10), columns).rows() == [(1, 2.0)]
    with pytest.raises(InputError, match=r"history.csv:1: has the columns Const, .*ratings\.columns\.title, .item and"):
        read_history(path, LOOKUP, (1, 10))


@pytest.mark.parametrize(
    "text",
    [
        "[" + 900 * '{"title": "Heat (1995)", "rating": 4}, ' + "4]",
        "title,rating\n" + 900 * "Heat " + ",4\n",
        "item_id,rating\n" + 900 * "Heat " + ",4\n",
        "title,rating\nHeat (1995)," + 900 * "Heat " + "\n",
        900 * "column," + "\n",
        900 * "title," + "rating\nHeat (1995),4\n",
    ],
)
def test_a_message_never_holds_a_whole_file(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError) as caught:
        history(tmp_path, text)
    assert len(str(caught.value)) < 500
    with pytest.raises(InputError) as caught:
        read_candidates(write(tmp_path, text.replace("\n", " ")), LOOKUP)
    assert len(str(caught.value)) < 500


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.csv").write_bytes("title,rating\nAmélie,4\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin.csv:2: byte 0xe9 is not UTF-8"):
        read_history(tmp_path / "latin.csv", LOOKUP, (0.5, 5.0))
    with pytest.raises(InputError, match=r"absent: cannot be read: No such file"):
        read_candidates(tmp_path / "absent", LOOKUP)


def test_candidates_are_ids_or_titles_and_count_once(tmp_path: Path) -> None:
    path = write(tmp_path, "6\n\nMatrix, The (1999)\r\nheat (1995)\n 1 \n")
    assert read_candidates(path, LOOKUP).tolist() == [1, 2, 0], "what is both an id and a title is the id"


def test_a_candidate_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"list:2: there is no title 'Hete', did you mean 'Heat \(1995\)'"):
        read_candidates(write(tmp_path, "1\nHete\n", "list"), LOOKUP)
    with pytest.raises(InputError, match=r"list: has no items"):
        read_candidates(write(tmp_path, "\n", "list"), LOOKUP)
