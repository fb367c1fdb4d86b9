"""Tokens and attention of a workload, against passing each token by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.plan import Workload

groups = st.lists(st.tuples(st.integers(0, 40), st.lists(st.integers(1, 30), min_size=1, max_size=4)), min_size=1)


def made(rows: list[tuple[int, list[int]]], trained: int = 2) -> Workload:
    size = np.array([len(blocks) for _, blocks in rows])
    prefix = np.array([prefix for prefix, _ in rows])
    return Workload(size, prefix, np.array([b for _, blocks in rows for b in blocks]), trained)


@given(groups)
def test_a_shared_prefix_is_passed_once_and_seen_by_every_block(rows: list[tuple[int, list[int]]]) -> None:
    work = made(rows)

    tokens = pairs = 0
    for prefix, blocks in rows:
        seen = [*range(1, prefix + 1), *(prefix + i for block in blocks for i in range(1, block + 1))]
        tokens, pairs = tokens + len(seen), pairs + sum(seen)
    assert (work.tokens(), work.pairs()) == (tokens, pairs)
    whole = [prefix + block for prefix, blocks in rows for block in blocks]
    assert work.tokens(shared=False) == sum(whole)
    assert work.pairs(shared=False) == sum(n * (n + 1) // 2 for n in whole)
    assert work.lengths.tolist() == whole
    assert work.longest_sequence == max(prefix + sum(blocks) for prefix, blocks in rows)
    assert work.labelled == 2 * len(whole)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 5))
def test_samples_that_share_nothing_cost_the_same_either_way(lengths: list[int], batch: int) -> None:
    work = Workload.of_lengths(lengths, 1)

    assert work.tokens() == work.tokens(shared=False) == sum(lengths)
    assert work.pairs() == work.pairs(shared=False)
    assert sum(lengths) <= work.padded(batch, 0)[0] <= max(lengths) * len(lengths)
    assert work.padded(1, 0) == (sum(lengths), work.pairs())


def test_groups_that_do_not_hold_the_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="3 samples in all"):
        Workload(np.array([1, 2]), np.array([5, 5]), np.array([1, 1]), 1)
