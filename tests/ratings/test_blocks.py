from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.ratings.blocks import BLOCK, bounds_of


@given(st.lists(st.one_of(st.integers(1, 300), st.integers(1, 3 * BLOCK)), max_size=200))
def test_blocks_are_whole_users_and_no_longer_than_they_must_be(counts):
    bounds = bounds_of(np.array(counts, np.int64)).tolist()
    ends = np.cumsum([0, *counts]).tolist()
    assert bounds[0] == 0
    assert bounds[-1] == ends[-1]
    assert set(bounds) <= set(ends)
    longest = max(counts, default=0)
    assert all(0 < end - begin < BLOCK + longest for begin, end in pairwise(bounds))
    assert len(bounds) - 1 <= ends[-1] // BLOCK + 1


@pytest.mark.parametrize("count", [1, BLOCK, BLOCK + 1, 5 * BLOCK])
def test_one_user_is_one_block(count):
    assert bounds_of(np.array([count])).tolist() == [0, count]
