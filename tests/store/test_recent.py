"""Values in memory, up to a number of bytes."""

from palate.store.recent import Recent


def test_the_least_recently_used_leave_first() -> None:
    kept: Recent[str] = Recent(20)
    for n, text in enumerate("abc"):
        kept.put(n, text, 10)
        kept.get(0)
    assert [kept.get(n) for n in range(3)] == ["a", None, "c"]
    assert (kept.bytes, kept.hits, kept.misses) == (20, 5, 1)


def test_a_value_that_is_too_large_or_known_changes_nothing() -> None:
    kept: Recent[str] = Recent(20)
    kept.put(0, "a", 10)
    kept.put(1, "b", 21)
    kept.put(0, "c", 5)
    assert (kept.get(0), kept.get(1), kept.bytes) == ("a", None, 10)
