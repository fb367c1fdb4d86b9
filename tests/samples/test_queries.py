from collections.abc import Callable
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from palate.errors import InputError
from palate.samples import Samples
from palate.samples.queries import Queries, item_rows


def samples() -> Samples:
    timeline = pl.DataFrame(
        {
            "user_id": [1, 1, 1, 1, 2, 2, 2],
            "item_id": [30, 10, 20, 40, 40, 30, 10],
            "rating": [4.0, 2.0, 5.0, 1.0, 3.0, 4.0, 5.0],
            "timestamp": [1, 2, 3, 4, 1, 2, 3],
            "split": ["warmup", "train", "val", "test", "warmup", "train", "test"],
        }
    )
    position, split = np.array([1, 2, 3, 5, 6]), np.array([0, 1, 2, 0, 2], np.uint8)
    items = pl.DataFrame({"item_id": [10, 20, 30, 40], "title": ["A", "B", "C", "D"]})
    return Samples(timeline, items, position, split, 4.0, history_len=1)


def test_a_sample_asks_at_its_own_position_for_its_own_item() -> None:
    asked = Queries.of_samples(samples(), "test")
    assert (asked.anchor.tolist(), asked.item.tolist()) == ([3, 6], [3, 0])
    assert item_rows(samples()).tolist() == [2, 0, 1, 3, 3, 2, 0]
    assert asked.take(np.array([1])).item.tolist() == [0]


def test_an_item_without_a_row_in_the_table_is_refused() -> None:
    lacking = replace(samples(), items=samples().items.head(3))
    with pytest.raises(InputError, match="item 40 has ratings but no row in the item table"):
        Queries.of_samples(lacking, "test")


@pytest.mark.parametrize(
    "make", [lambda: Queries(np.zeros(2, int), np.zeros(3, int)), lambda: Queries(*np.zeros((2, 1, 1), int))]
)
def test_shapes_that_do_not_fit_are_refused(make: Callable[[], Queries]) -> None:
    with pytest.raises(ValueError, match=r"expected \(n,\) of each"):
        make()
