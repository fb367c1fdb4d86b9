"""Named data sets: where they are looked for, and what is fetched where they are not found."""

import dataclasses
import hashlib
import io
import zipfile
from importlib import metadata

import pytest

from palate.errors import InputError, WorkError
from palate.ratings import archives
from palate.ratings.archives import ARCHIVES
from palate.ratings.load import load_ratings


def archive(rating: str = "4.0") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("ml/ratings.csv", f"userId,movieId,rating,timestamp\r\n1,10,{rating},100\r\n")
        file.writestr("ml/movies.csv", "movieId,title,genres\r\n10,Heat (1995),Action\r\n")
    return buffer.getvalue()


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """The data folder, for a machine where nothing answers."""
    monkeypatch.setenv("PALATE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("PALATE_MOVIELENS_URL", "http://127.0.0.1:9/none")
    return tmp_path


def test_a_name_is_found_as_a_folder_then_as_a_zip_in_the_data_folder(offline):
    (offline / "ml-32m.zip").write_bytes(archive("3.0"))
    assert load_ratings("ml-32m").frame["rating"].to_list() == [3.0]
    with zipfile.ZipFile(io.BytesIO(archive("5.0"))) as file:
        file.extractall(offline)
    (offline / "ml").rename(offline / "ml-32m")
    ratings = load_ratings("ml-32m")
    assert (ratings.name, ratings.frame["rating"].to_list()) == ("ml-32m", [5.0])


def test_ml_100k_comes_from_the_installed_package(offline):
    try:
        metadata.distribution("recbole")
    except metadata.PackageNotFoundError:
        pytest.skip("recbole is not installed")
    ratings = load_ratings("ml-100k")
    assert (ratings.frame.height, ratings.items.height, ratings.scale) == (100_000, 1_682, (1, 5))
    assert ratings.items["title"][0] == "Toy Story (1995)"
    assert ratings.items["genres"][0] == "Animation|Children's|Comedy"


def test_a_name_that_is_not_at_hand_is_downloaded_once(server, monkeypatch, tmp_path):
    body = archive()
    server.files["/ml-25m.zip"] = body
    monkeypatch.setenv("PALATE_MOVIELENS_URL", server.url)
    monkeypatch.setenv("PALATE_DATA_DIR", str(tmp_path))
    known = dataclasses.replace(ARCHIVES["ml-25m"], size=len(body), sha256=hashlib.sha256(body).hexdigest())
    monkeypatch.setitem(archives.ARCHIVES, "ml-25m", known)
    for _ in range(2):
        assert load_ratings("ml-25m").frame.rows() == [(1, 10, 4.0, 100)]
    assert len(server.asked) == 1
    assert (tmp_path / "ml-25m.zip").read_bytes() == body


def test_a_download_that_is_not_the_published_file_is_not_kept(server, monkeypatch, tmp_path):
    server.files["/ml-latest-small.zip"] = archive() + b" " * (978_202 - len(archive()))
    monkeypatch.setenv("PALATE_MOVIELENS_URL", server.url)
    monkeypatch.setenv("PALATE_DATA_DIR", str(tmp_path))
    with pytest.raises(WorkError, match="wrong checksum"):
        load_ratings("ml-latest-small")
    assert not list(tmp_path.glob("ml-*"))


def test_a_name_nobody_knows_is_told_the_nearest_and_all(offline):
    with pytest.raises(InputError, match=r"ml-1mm: no such file.*did you mean 'ml-1m'.*ml-100k, ml-1m, ml-10m"):
        load_ratings("ml-1mm")
