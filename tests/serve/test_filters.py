"""Filters by columns of every type that an item table may have."""

from datetime import date
from typing import Any

import polars as pl
import pytest

from palate.commands.engine import _filters
from palate.errors import InputError
from palate.serve.filters import Filters

ITEMS = pl.DataFrame(
    {
        "item_id": [1, 2, 3],
        "title": ["A", "B", "C"],
        "tags": [["X", "y 2.0"], [], None],
        "codes": [[1, 2], [3], None],
        "weights": [[0.5, 2.0], [None], []],
        "isbn": ["9780131103627", "x", None],
        "price": [1.5, float("nan"), None],
        "sold": [True, False, None],
        "nested": [[[1]], [[2]], None],
        "genres": [1, 2, 3],
        "bytes": [b"\xff", b"", None],
        "blobs": [[b"\xff"], [], None],
        "out": [date(1995, 11, 1), date(1977, 5, 25), None],
        "shelf": pl.Series(["Left", "right", None], dtype=pl.Categorical),
    }
)


@pytest.mark.parametrize(
    ("name", "want", "rows"),
    [
        ("tags", "x", [0]),
        ("tags", ["Y 2.0", "X"], [0]),
        ("codes", 2.0, [0]),
        ("codes", [1.0, "3"], [0, 1]),
        ("weights", 2.0, [0]),
        ("weights", [0.5], [0]),
        ("isbn", 9780131103627.0, [0]),
        ("price", 1.5, [0]),
        ("sold", False, [1]),
        ("genres", [2.0, 3.0], [1, 2]),
        ("title", ["b", "C"], [1, 2]),
        ("item_id", 2.0, [1]),
        ("out", "1977-05-25", [1]),
        ("shelf", "left", [0]),
    ],
)
def test_a_column_filters_by_its_type(name: str, want: Any, rows: list[int]) -> None:
    assert Filters(ITEMS, _filters(ITEMS)).rows({name: want}).tolist() == rows


def test_a_column_of_a_type_without_a_filter_has_none() -> None:
    assert set(ITEMS.columns) - _filters(ITEMS).keys() == {"nested", "bytes", "blobs"}


@pytest.mark.parametrize(
    ("name", "want", "message"),
    [
        ("tags", "y 2.1", "filters.tags: no item has 'y 2.1', did you mean 'y 2.0'?"),
        ("tags", ["x", "q"], "filters.tags[1]: no item has 'q', expected one of X, y 2.0"),
        ("isbn", 9780131103628, "filters.isbn: no item has '9780131103628', did you mean '9780131103627'?"),
        ("nested", "x", "filters: the column 'nested' is nested or holds bytes, so it does not filter"),
        ("tag", "x", "filters: there is no filter 'tag', expected one of .*, did you mean 'tags'?"),
    ],
)
def test_a_misspelt_filter_is_refused_with_what_there_is(name: str, want: Any, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("?", r"\?").replace("[1]", r"\[1\]")):
        Filters(ITEMS, _filters(ITEMS)).rows({name: want})


def test_the_values_of_columns_with_a_few_are_offered() -> None:
    items = pl.DataFrame({"genre": [f"g{n % 5}" for n in range(300)], "plot": [f"p{n}" for n in range(300)]})

    offered = Filters(ITEMS, _filters(ITEMS)).offered()
    assert offered["weights"] == ["0.5", "2"]
    assert not {"item_id", "title"} & offered.keys()
    assert Filters(items, _filters(items)).offered() == {"genre": ["g0", "g1", "g2", "g3", "g4"]}
