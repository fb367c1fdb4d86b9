"""One entry of `FORMATS` makes a format readable as ratings, as items, and as tables with splits."""

import polars as pl
import pytest

from palate.commands.data_path import source_of
from palate.errors import InputError
from palate.ratings.formats import FORMATS, Format
from palate.ratings.load import load_ratings
from palate.ratings.splits import load_given

RATINGS = pl.DataFrame({"user": [1, 1, 2], "item": [5, 6, 5], "rating": [4, 3, 5], "timestamp": [10, 20, 30]})
ITEMS = pl.DataFrame({"item": [5, 6], "title": ["Heat", "Ran"]})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of Feather files, a format that one entry adds; every row has two lines."""
    feather = Format(
        "Feather",
        lambda path: list(pl.read_ipc_schema(path)),
        lambda path, columns: pl.read_ipc(path, columns=columns),
        lambda path: range(2, 100, 2),
    )
    monkeypatch.setitem(FORMATS, ".feather", feather)
    ITEMS.write_ipc(tmp_path / "items.feather")
    return tmp_path


def test_a_folder_of_ratings_and_items(folder):
    RATINGS.write_ipc(folder / "ratings.feather")
    ratings = load_ratings(str(folder))
    assert ratings.frame.rows() == RATINGS.rows()
    assert ratings.items.rows() == ITEMS.rows()


def test_a_file_of_any_name_beside_its_items(folder):
    RATINGS.write_ipc(folder / "log.feather")
    ratings = load_ratings(str(folder / "log.feather"), items=str(folder / "items.feather"))
    assert (ratings.name, ratings.frame.rows()) == ("log", RATINGS.rows())


def test_tables_with_splits(folder):
    RATINGS.head(2).write_ipc(folder / "train.feather")
    RATINGS.tail(1).write_ipc(folder / "test.feather")
    assert source_of(folder).kind == "tables"
    frame = load_given(str(folder)).frame
    assert frame.drop("split").rows() == RATINGS.rows()
    assert frame["split"].to_list() == ["train", "train", "test"]


def test_a_wrong_value_has_the_line_that_the_format_counts(folder):
    RATINGS.with_columns(rating=pl.Series([4, 9, 5])).write_ipc(folder / "ratings.feather")
    with pytest.raises(InputError, match=r"ratings\.feather:4: rating 9 is outside of the scale"):
        load_ratings(str(folder))


def test_a_damaged_file_is_named(folder):
    (folder / "ratings.feather").write_text("hello")
    with pytest.raises(InputError, match=r"ratings\.feather: is not a Feather file: "):
        load_ratings(str(folder))
