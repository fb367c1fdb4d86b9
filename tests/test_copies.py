"""Runs and results in an object store: a command works on a copy, and sends what it changed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tests.acceptance.ratings import write_ratings
from tests.command import palate
from tests.objects import bucket

CONFIG = "ratings: {source: ratings}\nprepare: {history_len: 5, val_ratio: 0.2}\n"
ASK = ("--model", "user-item", "--all-users", "--top-k", "3")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PALATE_CACHE_DIR", str(tmp_path / "cache"))
    write_ratings(tmp_path / "ratings")
    Path("demo.yaml").write_text(CONFIG)
    with bucket(monkeypatch) as files:
        yield files


def content(store: Any, folder: str) -> dict[str, bytes]:
    return {path.removeprefix(folder): store.cat_file(path) for path in store.find(folder)}


def test_another_machine_goes_on_with_a_run_in_a_store(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in Path("ratings").iterdir():
        store.put_file(str(path), f"shop/log/{path.name}")
    words = ("prepare", "demo.yaml", "--ratings", "s3://shop/log", "--out", "s3://shop/run/data")
    assert palate(*words).returncode == 0
    assert palate("prepare", "demo.yaml", "--ratings", "s3://shop/log", "--out", "here/data").returncode == 0
    sent = content(store, "shop/run/data/")
    assert sent == {path.name: path.read_bytes() for path in Path("here/data").iterdir()}
    before = store.info("shop/run/data/manifest.json")["LastModified"]
    assert palate(*words).returncode == 0
    assert store.info("shop/run/data/manifest.json")["LastModified"] == before, "nothing changed, and nothing is sent"
    store.pipe({"shop/run/config.yaml": CONFIG.encode(), "shop/run/.hidden/own": b"mine"})
    Path("here/config.yaml").write_text(CONFIG)

    monkeypatch.setenv("PALATE_CACHE_DIR", str(Path("other").resolve()))
    asked = palate("recommend", "s3://shop/run", *ASK, "--out", "s3://shop/top.parquet")
    assert asked.returncode == 0, asked.stderr
    assert palate("recommend", "here", *ASK, "--out", "top.parquet").returncode == 0
    store.get_file("shop/top.parquet", "sent.parquet")
    assert pl.read_parquet("sent.parquet").equals(pl.read_parquet("top.parquet"))
    assert store.exists("shop/run/baselines/user-item.npz"), "what the command wrote in the run"
    assert content(store, "shop/run/data/") == sent
    assert store.cat_file("shop/run/.hidden/own") == b"mine"


def test_nothing_of_the_user_is_replaced(store: Any) -> None:
    for path in Path("ratings").iterdir():
        store.put_file(str(path), f"shop/log/{path.name}")
    store.pipe({"shop/own/notes.txt": b"mine", "shop/own.parquet": b"mine"})
    before = content(store, "shop/")
    for words, told in (
        ("prepare demo.yaml --out s3://shop/own", "holds notes.txt, expected an empty folder"),
        ("prepare demo.yaml --ratings s3://shop/log --out s3://shop/log", "is a place of the log s3://shop/log"),
        ("prepare demo.yaml --ratings s3://shop/log/ratings.csv --out s3://shop/log", "is a place of the log"),
        ("prepare demo.yaml --out s3://none/data", "no such"),
        ("prepare demo.yaml --out abc://none/data", "is of no known protocol"),
        ("prepare demo.yaml --set prepare.history_len=1000 --out s3://shop/data", "error: "),
    ):
        found = palate(*words.split())
        assert found.returncode == 2, told
        assert told in found.stderr
        assert found.stderr.count("error: ") == 1
    assert content(store, "shop/") == before


def test_what_another_process_sent_meanwhile_is_not_replaced(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from palate.commands import prepare

    real = prepare.prepare

    def slow(*args: Any, **options: Any) -> Any:
        found = real(*args, **options)
        store.pipe("shop/data/manifest.json", b"theirs")
        return found

    monkeypatch.setattr(prepare, "prepare", slow)
    found = palate("prepare", "demo.yaml", "--out", "s3://shop/data")
    assert found.returncode == 1
    assert "s3://shop/data/manifest.json has changed meanwhile; the result is in " in found.stderr
    assert content(store, "shop/data/") == {"manifest.json": b"theirs"}
    (own,) = Path("cache/stores").rglob("manifest.json")
    before = own.read_bytes()
    again = palate("prepare", "demo.yaml", "--out", "s3://shop/data")
    assert again.returncode == 1
    assert f"has changed, and so has the copy {own.resolve()}, which was not sent" in again.stderr
    assert own.read_bytes() == before, "what was not sent is lost"


def test_several_processes_of_another_launcher_take_paths(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    found = palate("train", "demo.yaml", "--out", "s3://shop/run")
    assert found.returncode == 2
    assert "s3://shop/run: another program launched several processes, expected a path" in found.stderr


def test_names_that_lead_out_of_the_copy_are_refused(store: Any, tmp_path: Path) -> None:
    store.pipe("shop/run/a/../../../../../evil", b"x")
    found = palate("prepare", "demo.yaml", "--out", "s3://shop/run")
    assert found.returncode == 2
    assert "expected names within the folder" in found.stderr
    assert not [*tmp_path.rglob("evil")]
