"""An output never takes the place of the user's own file."""

import json
import shutil
from pathlib import Path

import pytest
from tests.acceptance.ratings import write_ratings
from tests.command import palate

from palate.store.artifacts import HALF, MANIFEST


def tree(folder: Path) -> dict[str, bytes]:
    """The content of all files by their names."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ratings(tmp_path_factory.mktemp("log"), users=2, each=20)


@pytest.fixture(scope="module")
def data(log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared") / "data"
    assert palate("prepare", "--ratings", log, "--out", folder).returncode == 0
    return folder


@pytest.mark.parametrize("given", ["log", "log/ratings.csv", "log/r*.csv"])
def test_prepare_never_writes_into_the_folder_of_its_log(log: Path, data: Path, tmp_path: Path, given: str) -> None:
    shutil.copytree(log, tmp_path / "log")
    (tmp_path / "link").symlink_to(tmp_path / "log")
    for has_manifest in (False, True):
        if has_manifest:
            shutil.copytree(data, tmp_path / "log", dirs_exist_ok=True)
        before = tree(tmp_path)
        for out in ("log", "link"):
            done = palate("prepare", "--ratings", given, "--out", out, cwd=tmp_path)
            assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
            assert f"error: {out}: would replace the input" in done.stderr
        assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["ratings.parquet", "items.parquet", "train.json", "eval.json", "notes.txt"])
def test_prepare_replaces_no_file_of_the_user(log: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("mine")
    done = palate("prepare", "--ratings", log, "--out", out)
    assert done.returncode == 2
    assert f"error: {out}: holds {name}, expected an empty folder or one that `palate prepare` wrote" in done.stderr
    assert [path.read_text() for path in out.iterdir()] == ["mine"]
    (out / MANIFEST).write_text(json.dumps({"stage": "run", "outputs": {name: "0"}}))
    assert palate("prepare", "--ratings", log, "--out", out).returncode == 2


def test_prepare_replaces_what_it_wrote_also_if_it_was_killed_meanwhile(log: Path, data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path, dirs_exist_ok=True)
    (tmp_path / "train.json").write_text("damaged")
    (tmp_path / MANIFEST).rename(tmp_path / HALF)
    assert palate("prepare", "--ratings", log, "--out", tmp_path).returncode == 0
    assert tree(tmp_path) == tree(data)
    (tmp_path / MANIFEST).write_text((tmp_path / MANIFEST).read_text()[:100])  # torn
    assert palate("prepare", "--ratings", log, "--out", tmp_path).returncode == 0
    (tmp_path / "skipped.csv").write_text("a file that prepare may write, and that this manifest does not list")
    assert "holds skipped.csv" in palate("prepare", "--ratings", log, "--out", tmp_path).stderr


@pytest.mark.parametrize(
    "words",
    [
        ("recommend", "--all-users", "--set", "data_dir=data", "--out", "data/ratings.parquet"),
        ("recommend", "--all-users", "--candidates", "h.parquet", "--out", "h.parquet"),
        ("inspect", "a.html", "--html", "a.html"),
        ("baselines", "log/baselines.json", "--out", "log"),
        ("advise", "log/advice.json", "--out", "log"),
        ("compare", "a.html", "b.html", "--out", "a.html"),
    ],
)
def test_no_output_is_an_input(words: tuple[str, ...], log: Path, data: Path, tmp_path: Path) -> None:
    shutil.copytree(log, tmp_path / "log")
    shutil.copytree(data, tmp_path / "data")
    for name in ("h.parquet", "a.html", "b.html", "log/baselines.json", "log/advice.json"):
        (tmp_path / name).write_text("mine")
    before = tree(tmp_path)
    done = palate(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert "would replace the input" in done.stderr
    assert tree(tmp_path) == before


def test_training_replaces_no_folder_that_has_no_adapter_of_palates(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "mine.py").write_text("mine")
    done = palate("train", "--out", tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert f"error: {tmp_path / 'adapter'}: has no palate.json" in done.stderr


def test_a_page_takes_the_place_of_no_table(log: Path) -> None:
    done = palate("inspect", log, "--html", log / "ratings.csv")
    assert f"error: {log / 'ratings.csv'}: has another suffix, expected .html" in done.stderr
    assert done.returncode == 2
