from typing import Any

import pytest
from tests.small import small_tokenizer


@pytest.fixture(scope="session")
def shared_tokenizer() -> Any:
    return small_tokenizer()


@pytest.fixture
def tokenizer() -> Any:
    """A tokenizer of the test's own, which it may change."""
    return small_tokenizer()
