"""Small inputs that people really have: each is read as it is meant, or refused in one line with the way out."""

import json
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import polars as pl
import pytest
from tests.command import palate

from palate.errors import InputError
from palate.ratings.load import load_ratings
from palate.recommend.files import read_history
from palate.recommend.lookup import Lookup

CASES = Path(__file__).parents[3] / "shared" / "cases"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="../shared/cases is not here")


def test_each_case_is_in_a_test() -> None:
    named = Path(__file__).read_text()
    assert not [case.name for case in CASES.iterdir() if case.is_dir() and case.name not in named]


def prepare(tmp_path: Path, *words: str) -> tuple[CompletedProcess[str], Path]:
    out = tmp_path / "out"
    return palate("prepare", *words, "--out", out, cwd=tmp_path), out


def prepared(tmp_path: Path, *words: str) -> dict[str, Any]:
    done, out = prepare(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    stats: dict[str, Any] = json.loads((out / "manifest.json").read_text())["stats"]
    return stats


@pytest.mark.parametrize(
    ("case", "users"),
    [
        ("01-padded-asin", 14),
        ("01d-users-007-and-7", 13),
        ("21f-parquet-rating-str", 14),
        ("07-spark-backslash", 14),
        ("47-spark-comma", 14),
        ("25b-titles-ansi", 14),
    ],
)
def test_what_can_be_read_is_prepared(tmp_path, case, users):
    assert prepared(tmp_path, "--ratings", str(CASES / case))["users"] == users


@pytest.mark.parametrize("case", ["01-padded-asin", "01d-users-007-and-7"])
def test_ids_come_out_as_they_stand_in_the_file(case):
    raw = pl.read_csv(CASES / case / "ratings.csv", infer_schema=False)
    frame = load_ratings(str(CASES / case)).frame
    for read, column in zip(("user_id", "item_id"), raw.columns, strict=False):
        assert frame[read].cast(pl.String).to_list() == raw[column].to_list()


def test_splits_of_recbole_are_read_as_given(tmp_path):
    assert prepared(tmp_path, "--data", str(CASES / "17b-recbole-presplit"))["samples"] == {
        "train": 112,
        "val": 112,
        "test": 112,
    }


REFUSED = [
    ("04-bookcrossing", "BX-Book-Ratings.csv:1: ", "has no timestamp column"),
    ("05-amazon-noheader/ratings_Toys.csv", ":1: ", "--header user,item,rating,timestamp names them"),
    ("08-float-ids", "ratings.csv:2: ", "item 40.0 has no title in movies.csv, expected one spelling in both tables"),
    ("17b-recbole-presplit", "", "reads the splits"),
    ("49-two-in-zip/archive.zip", "", "2 tables of ratings, ml-a/ratings.csv, ml-b/ratings.csv; expected one"),
    ("51-goodbooks", "ratings.csv:1: ", "--order file takes the rows as they come"),
]

READ = {
    "03-kaggle-ml20m": (),
    "03-kaggle-ml20m/rating.csv": (),
    "04-bookcrossing": ("--order", "file", "--set", "ratings.scale=[1,10]", "--set", "ratings.not_rated=0",
                        "--rating-threshold", "7"),
    "05-amazon-noheader/ratings_Toys.csv": ("--header", "user,item,rating,timestamp", "--untitled", "id"),
    "06c-amazon2023-jsonl/Toys.jsonl": (),
    "06c-amazon2023-jsonl/Toys.jsonl.gz": (),
    "10-utf16": (),
    "51-goodbooks": ("--order", "file"),
}  # fmt: skip


@pytest.mark.parametrize("case", READ)
def test_other_shapes_are_read_with_what_an_error_names(tmp_path, case):
    found = prepared(tmp_path, "--ratings", str(CASES / case), *READ[case])
    assert found["users"] >= 13
    assert found["samples"]["train"] > 80


@pytest.mark.parametrize(("case", "place", "message"), REFUSED)
def test_a_refusal_is_one_line_with_the_way_out(tmp_path, case, place, message):
    done, out = prepare(tmp_path, "--ratings", str(CASES / case))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.isprintable()
    assert place in line
    assert message in line
    assert not out.exists()


def test_a_threshold_that_makes_every_sample_a_yes_is_refused(tmp_path):
    words = ("--ratings", str(CASES / "23-0-100"), "--set", "ratings.scale=[0,100]")
    done, out = prepare(tmp_path, *words)
    assert (done.returncode, out.exists()) == (2, False)
    assert "the answer of all 98 training samples Yes" in done.stderr
    assert prepared(tmp_path, *words, "--rating-threshold", "80")["samples"]["train"] == 98


@pytest.mark.parametrize("name", ["-1", "dated", "sep", "cr"])
def test_other_refusals_tell_the_way_out(tmp_path, name):
    head, rows = "user,item,rating,timestamp", ["1,1,4,100", "1,2,-1,200"]
    text, way = {
        "-1": (
            "\n".join([head, *rows]),
            "if it means that the user did not rate, --set ratings.not_rated=-1 leaves such rows out",
        ),
        "dated": ("\n".join([head, "1,1,4,01/02/2020"]), "01/02/2020"),
        "sep": ("\n".join(["sep=;", head]), "csv:1: has no user column"),
        "cr": ("\r".join([head, *rows]), "converts a file whose lines end in CR"),
    }[name]
    (tmp_path / "ratings.csv").write_bytes(text.encode())
    (tmp_path / "movies.csv").write_text("item,title\n1,A\n2,B\n")
    done, out = prepare(tmp_path, "--ratings", str(tmp_path))
    assert (done.returncode, out.exists()) == (2, False)
    assert way in done.stderr
    assert done.stderr.count("\n") == 1


HISTORIES = [
    "good.csv",
    "Title-caps.csv",
    "letterboxd.csv",
    "letterboxd-renamed.csv",
    "ids-padded.csv",
    "semicolon.csv",
]


@pytest.fixture(scope="module")
def lookup() -> Lookup:
    """Items under the ids and the titles that the histories name."""
    ids = pl.read_csv(CASES / "01-padded-asin" / "items.csv", infer_schema=False)["asin"][:40]
    titles = pl.read_csv(CASES / "03-kaggle-ml20m" / "movie.csv", infer_schema=False)["title"]
    return Lookup(pl.DataFrame({"item_id": ids, "title": titles}))


@pytest.mark.parametrize("name", HISTORIES)
def test_histories_are_read_on_the_scale_of_the_data(name, lookup):
    read = read_history(CASES / "42-histories" / name, lookup, (0, 10))
    assert read.height >= 5
    assert read["rating"].is_between(0, 10).all()


def test_the_export_of_imdb_is_read(lookup):
    assert len(read_history(CASES / "42-histories" / "imdb.csv", lookup, (0, 10))) == 8


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("json-array.json", "is a JSON array, expected one object per line"),
        ("same-twice.csv", " of line "),
    ],
)
def test_other_histories_are_refused_in_a_short_line(name, message, lookup):
    with pytest.raises(InputError, match=message) as error:
        read_history(CASES / "42-histories" / name, lookup, (0, 10))
    assert len(str(error.value)) < 600
