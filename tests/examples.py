"""How many examples property tests try."""

import os
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import settings

ALL = os.environ.get("PALATE_EXAMPLES") == "all"
"""Whether to try as many as a test names, as `make test-slow` does; otherwise a quarter."""


def examples(count: int) -> settings:
    """`count` examples in `make test-slow`, a quarter in `make test`; none has a deadline."""
    return settings(max_examples=count if ALL else max(5, count // 4), deadline=None)


def mostly_slow(cases: Iterable[Any], fast: Iterable[Any]) -> list[Any]:
    """Cases of a test, all but `fast` for `make test-slow`; a case of several values is a tuple."""
    fast = list(fast)
    return [
        case if case in fast else pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
        for case in cases
    ]
