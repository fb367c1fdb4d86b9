"""Negatives: never what the user takes, only what exists by then, by the stated rule, and the same for a seed."""

from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.ratings.likes import Likes
from palate.samples import negatives
from palate.samples.negatives import negatives_of

RULES: tuple[Literal["uniform", "popularity"], ...] = ("uniform", "popularity")


def random_log(seed: int, users: int, items: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """User, item and time of likes in any order; some users take everything."""
    rng = np.random.default_rng(seed)
    taken = rng.random((users, items)) < rng.choice([0.1, 0.5, 1.0], (users, 1))
    taken[0, 0] = True
    user, item = np.nonzero(taken)
    order = rng.permutation(user.size)
    return user[order], item[order], rng.integers(0, 30, user.size)


@given(
    st.integers(0, 10**6),
    st.integers(1, 12),
    st.integers(1, 15),
    st.integers(1, 6),
    st.sampled_from(RULES),
    st.booleans(),
)
def test_a_negative_exists_by_then_and_its_user_never_takes_it(seed, users, items, count, rule, some):
    user, item, time = random_log(seed, users, items)
    like = np.sort(np.random.default_rng(seed).choice(user.size, (user.size + 1) // 2, replace=False))
    known = np.random.default_rng(seed + 1).random(user.size) < 0.5 if some else np.ones(user.size, bool)
    known[like] = True
    of, found = negatives_of(user, item, time, like, Likes(rule, count), seed, known if some else None)
    assert (np.diff(of) >= 0).all()
    for n, row in enumerate(like.tolist()):
        by_then = set(item[known & (time <= time[row])].tolist()) - set(item[user == user[row]].tolist())
        own = found[of == n].tolist()
        assert set(own) <= by_then
        assert len(own) == len(set(own)) == min(count, len(by_then))


@pytest.mark.parametrize("rule", RULES)
def test_the_seed_decides(rule):
    user, item, time = random_log(1, 40, 60)
    like = np.arange(user.size)
    same, again, other = (negatives_of(user, item, time, like, Likes(rule, 4), seed)[1] for seed in (1, 1, 2))
    assert (same == again).all()
    assert same.size != other.size or (same != other).any()


@pytest.mark.parametrize("rounds", [negatives.ROUNDS, 0], ids=["drawn again", "listed"])
@pytest.mark.parametrize(("rule", "expected"), [("uniform", [1, 1, 1]), ("popularity", [6, 3, 1])])
def test_shares_follow_the_rule_and_the_likes_of_that_time(monkeypatch, rounds, rule, expected):
    monkeypatch.setattr(negatives, "ROUNDS", rounds)
    # Items 0, 1 and 2 have 6, 3 and 1 likes by time 5, and item 2 nine more later; users 100 and above like item 3.
    item = np.repeat([0, 1, 2, 2, 3], [6, 3, 1, 9, 20_000])
    time = np.repeat([0, 0, 5, 9, 5], [6, 3, 1, 9, 20_000])
    user = np.append(np.arange(19), 100 + np.arange(20_000))
    _, found = negatives_of(user, item, time, np.flatnonzero(item == 3), Likes(rule, 1), 7)
    share = np.bincount(found, minlength=3) / found.size
    assert share == pytest.approx(np.array(expected) / sum(expected), abs=0.015)
    assert share.size == 3
