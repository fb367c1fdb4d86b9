from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.tiny import tiny_folder


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tokens of the tests are not kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PALATE_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny models gain nothing from threads, and lose much where other processes want the cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3 in a folder."""
    return tiny_folder(tmp_path_factory.mktemp("models") / "tiny-qwen3")
