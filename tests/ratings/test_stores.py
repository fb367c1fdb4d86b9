"""Logs in stores that fsspec opens, on servers of this machine."""

from pathlib import Path

import pytest
from tests.acceptance.ratings import write_ratings
from tests.command import palate
from tests.stores import bucket_of, data_set, served

from palate.store.artifacts import MANIFEST, read_json


@pytest.fixture
def log(tmp_path: Path) -> Path:
    write_ratings(tmp_path / "store/log", users=6, each=16, items=20)
    return tmp_path / "store"


def assert_prepared_as_here(url: str, log: Path, out: Path) -> None:
    """The samples of a log by URL are those of the log on the disk; a missing one is a line."""
    assert "ratings   96" in palate("inspect", url).stdout
    for source, to in ((url, out / "far"), (str(log / "log"), out / "near")):
        done = palate("prepare", "--ratings", source, "--out", to)
        assert done.returncode == 0, done.stderr
    far, near = (read_json(out / to / MANIFEST)["outputs"] for to in ("far", "near"))
    assert len(far) >= 5
    assert far == near
    missing = palate("inspect", f"{url}-missing")
    assert missing.returncode == 2
    assert f"{url}-missing: no such file or folder" in missing.stderr


def test_a_data_set_of_the_hub_is_read_by_url(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfFileSystem, constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with served(data_set("shop/ratings", log)) as url:
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
        HfFileSystem.clear_instance_cache()
        assert_prepared_as_here("hf://datasets/shop/ratings/log", log, tmp_path)


def test_a_bucket_of_google_is_read_by_url(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gcsfs = pytest.importorskip("gcsfs", reason="no gcsfs here")
    with served(bucket_of("shop", log)) as url:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
        monkeypatch.setenv("FSSPEC_GCS_TOKEN", "anon")
        gcsfs.GCSFileSystem.clear_instance_cache()
        assert_prepared_as_here("gs://shop/log", log, tmp_path)
