"""Filters by columns of every type that an item table may have."""

from typing import Any

import polars as pl
import pytest

from palate.commands.engine import _filters
from palate.serve.answers import filtered

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
    }
)


@pytest.mark.parametrize(
    ("name", "want", "rows"),
    [
        ("tags", "x", [0]),
        ("tags", ["Y 2.0", "z"], [0]),
        ("codes", 2.0, [0]),
        ("codes", [1.0, "3"], [0, 1]),
        ("weights", 2.0, [0]),
        ("weights", [0.5], [0]),
        ("isbn", 9780131103627.0, [0]),
        ("price", 1.5, [0]),
        ("sold", False, [1]),
        ("genres", [2.0, 3.0], [1, 2]),
    ],
)
def test_a_column_filters_by_its_type(name: str, want: Any, rows: list[int]) -> None:
    assert filtered(ITEMS, {name: want}, _filters(ITEMS)).tolist() == rows


def test_a_column_of_a_type_without_a_filter_has_none() -> None:
    assert not {"nested", "bytes"} & _filters(ITEMS).keys()
