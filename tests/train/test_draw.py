"""Few-shot samples: as many as asked for, in their units, with the classes in their shares."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from palate.train.training_prompts import draw


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=30),
    share=st.floats(0, 1),
    seed=st.integers(0, 9),
    data=st.data(),
)
def test_as_many_samples_as_asked_for_in_whole_units_but_one(
    sizes: list[int], share: float, seed: int, data: st.DataObject
) -> None:
    unit = np.repeat(np.arange(len(sizes)), sizes)
    liked = np.random.default_rng(seed).random(unit.size) < share
    wanted = data.draw(st.integers(1, unit.size))
    rows = draw(liked, unit, wanted, seed)
    assert len(set(rows.tolist())) == len(rows) == wanted
    assert rows.tolist() == sorted(rows.tolist())
    taken = np.bincount(unit[rows], minlength=len(sizes))
    assert sum(0 < n < size for n, size in zip(taken.tolist(), sizes, strict=True)) <= 1
    assert rows.tolist() == draw(liked, unit, wanted, seed).tolist()


def test_single_samples_have_the_share_of_all() -> None:
    liked = np.random.default_rng(0).random(5000) < 0.3
    for wanted in (64, 256, 1024):
        drawn = draw(liked, np.arange(5000), wanted, 1)
        assert abs(liked[drawn].sum() - wanted * liked.mean()) <= 1
        assert drawn.tolist() != draw(liked, np.arange(5000), wanted, 2).tolist()


def test_units_are_drawn_nearer_to_the_share_than_by_chance() -> None:
    draws = np.random.default_rng(0)
    unit = np.repeat(np.arange(600), 16)
    liked = draws.random(unit.size) < np.repeat(draws.beta(2, 2, 600), 16)  # users differ in how much they like
    ours = [abs(liked[draw(liked, unit, 640, seed)].mean() - liked.mean()) for seed in range(30)]
    chance = [abs(liked[np.isin(unit, draws.permutation(600)[:40])].mean() - liked.mean()) for _ in range(30)]
    assert np.mean(ours) < 0.5 * np.mean(chance)
