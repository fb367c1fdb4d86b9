import numpy as np
import pytest

from palate.measure.ladder import Rung, Scored, Skipped, Step, build_ladder
from palate.measure.paired import compare


def rows(n: int = 600, each: int = 10, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, users, and the signal that decides the labels."""
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=n)
    return rng.random(n) < 1 / (1 + np.exp(-signal)), np.repeat(np.arange(n // each), each), signal


def step(key: str, logit: np.ndarray, rows: np.ndarray | None = None) -> Step:
    return Step(key, key.title(), lambda: Scored(1 / (1 + np.exp(-logit)), 1.0, 0.1, rows))


def test_the_dearest_rung_that_pays_is_used_and_the_ladder_ends_at_the_first_that_does_not() -> None:
    y, users, signal = rows()
    noise = np.random.default_rng(1).normal(size=y.size)
    tried: list[Rung] = []
    steps = [step("a", noise), step("b", signal + noise), step("c", signal + 1.01 * noise), step("d", signal)]
    ladder = build_ladder(y, users, steps, resamples=200, done=tried.append)

    assert [rung.key for rung in ladder.rungs] == [rung.key for rung in tried] == ["a", "b", "c"]
    assert [rung.pays for rung in ladder.rungs] == [True, True, False]
    assert ladder.used.key == "b"
    assert ladder.skipped == {"D": "not tried: C does not pay"}
    last = ladder.rungs[-1]
    assert last.below == "b"
    assert last.detects is not None
    assert last.detects > 0


def test_the_whole_ladder_compares_with_the_last_rung_that_paid() -> None:
    y, users, signal = rows()
    noise = np.random.default_rng(1).normal(size=y.size)
    ladder = build_ladder(y, users, [step("a", signal), step("b", noise), step("c", signal)], resamples=50, whole=True)
    assert [rung.below for rung in ladder.rungs] == [None, "a", "a"]
    assert ladder.used.key == "a"
    same = ladder.rungs[2]
    assert (same.gain and same.gain.value, same.pays, same.detects) == (0.0, False, None)


def test_a_rung_of_fewer_rows_is_compared_on_the_rows_that_both_have() -> None:
    y, users, signal = rows()
    noise = np.random.default_rng(1).normal(size=y.size)
    some = np.arange(0, y.size, 3)
    ladder = build_ladder(y, users, [step("a", noise), step("b", signal[some], some)], resamples=100)
    p = {"a": 1 / (1 + np.exp(-noise[some])), "b": 1 / (1 + np.exp(-signal[some]))}
    expected = compare(y[some], users[some], p, [("b", "a")], resamples=100)
    assert ladder.rungs[1].gains == expected.pairs
    assert ladder.rungs[1].metrics.n == some.size


def test_a_step_that_cannot_be_tried_is_named_and_the_next_one_is() -> None:
    y, users, signal = rows()

    def impossible() -> Scored:
        raise Skipped("not tried: xyz is not installed")

    ladder = build_ladder(y, users, [step("a", -signal), Step("b", "B", impossible), step("c", signal)], resamples=50)
    assert [rung.key for rung in ladder.rungs] == ["a", "c"]
    assert ladder.skipped == {"B": "not tried: xyz is not installed"}


def test_without_an_interval_nothing_above_the_first_rung_pays() -> None:
    y, users, signal = rows()
    ladder = build_ladder(y, users, [step("a", -signal), step("b", signal)], resamples=0)
    assert ladder.used.key == "a"
    one_user = build_ladder(y, users * 0, [step("a", -signal), step("b", signal)], resamples=50)
    assert one_user.used.key == "a"


@pytest.mark.parametrize("seed", range(5))
def test_noise_rarely_pays(seed: int) -> None:
    y, users, signal = rows(seed=seed)
    noise = np.random.default_rng(seed + 10).normal(size=y.size)
    ladder = build_ladder(y, users, [step("a", signal), step("b", signal + 0.3 * noise)], resamples=200)
    assert ladder.used.key == "a"
