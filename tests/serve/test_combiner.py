"""Questions of several threads, answered together."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from palate.serve.combiner import Combiner


def test_questions_that_come_during_a_computation_are_answered_together() -> None:
    sizes: list[int] = []
    begun, go = threading.Event(), threading.Event()

    def squares(numbers: Sequence[int]) -> list[int]:
        sizes.append(len(numbers))
        begun.set()
        go.wait(10)
        return [n * n for n in numbers]

    combined = Combiner(squares, most=4)
    with ThreadPoolExecutor(11) as pool:
        first = pool.submit(combined, 0)
        assert begun.wait(10)
        others = [pool.submit(combined, n) for n in range(1, 11)]
        while len(combined._line) < 10:
            time.sleep(0.001)
        go.set()
        assert [f.result(10) for f in (first, *others)] == [n * n for n in range(11)]
    assert sizes == [1, 4, 4, 2]


def test_one_thread_computes_at_a_time_and_each_gets_its_own_answer() -> None:
    inside: list[int] = []

    def halves(numbers: Sequence[int]) -> list[float]:
        inside.append(1)
        assert len(inside) == 1
        time.sleep(0.0005)
        inside.pop()
        return [n / 2 for n in numbers]

    combined = Combiner(halves, most=3)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(combined, range(300))) == [n / 2 for n in range(300)]
    assert combined(7) == 3.5


def test_an_error_reaches_the_thread_that_asked() -> None:
    go = threading.Event()

    def inverse(numbers: Sequence[int]) -> list[float]:
        go.wait(10)
        return [1 / n for n in numbers]

    combined = Combiner(inverse, most=8)
    with ThreadPoolExecutor(4) as pool:
        found = [pool.submit(combined, n) for n in (1, 2, 0, 4)]
        time.sleep(0.05)
        go.set()
        assert [found[n].result(10) for n in (0, 1, 3)] == [1, 0.5, 0.25]
        with pytest.raises(ZeroDivisionError):
            found[2].result(10)
    assert combined(5) == 0.2
