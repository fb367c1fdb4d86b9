import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from hypothesis import settings
from tests.command import forget_log
from tests.examples import examples
from tests.timelines import random_timeline

# A change is judged on the same examples each time; on a developer's machine every run tries new ones.
settings.register_profile("palate", examples(100), derandomize=bool(os.environ.get("CI")))
settings.load_profile("palate")
# Tiny models gain nothing from threads, and lose much where other processes want the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell's script starts background jobs with SIGINT ignored, and children inherit that; tests press Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


LONGEST = (
    *("step", "tutorial", "page", "refresh", "layers", "survive", "devices", "bare", "finetune", "run", "truncation"),
    *("ray", "same_bytes", "likes", "seeds", "faults", "dataset", "answers", "export"),
)
"""The files that take longest: with several workers they begin first, so that none is left to the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files by `LONGEST`; tests of a file keep their order."""
    place = {f"test_{name}.py": n for n, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


def pytest_collection_finish() -> None:
    """Have the garbage collector pass over what was imported: it would look through it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the tests cache is not kept, nothing is taken from an earlier time, and no hub is asked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PALATE_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(autouse=True)
def log() -> Iterator[None]:
    """Commands send the log to a terminal of their own; the next test begins without."""
    yield
    forget_log()


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3 in a folder."""
    from tests.tiny import tiny_folder

    return tiny_folder(tmp_path_factory.mktemp("models") / "tiny-qwen3")


@pytest.fixture(scope="session")
def timeline() -> pl.DataFrame:
    return random_timeline()
