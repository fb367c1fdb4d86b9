from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the tests cache is not kept, and nothing is taken from an earlier time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PALATE_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield
