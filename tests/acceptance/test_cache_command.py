"""`palate cache`: what a user sees of what is kept, and how it goes."""

import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from palate import console
from palate.cli import main
from palate.store.cache import ENTRY, Cache

DAY = 86_400


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    monkeypatch.setenv("PALATE_CACHE_DIR", str(tmp_path))
    return Cache()


def keep(cache: Cache, kind: str, number: int, *, days: float = 0, name: str = "ml-100k") -> Path:
    """An entry of 1000 bytes and its entry.json, last used `days` ago."""

    def build(folder: Path) -> None:
        (folder / "ids.bin").write_bytes(bytes([number]) * 1000)

    entry = cache.entry(kind, {"number": number}, build, name=name)
    os.utime(entry / ENTRY, (time.time() - days * DAY,) * 2)
    return entry


def unfinished(cache: Cache) -> Path:
    """What a process of this machine left that was killed."""
    partial = cache.folder / "tables" / f".{'a' * 24}.partial-{platform.node()}-00000000"
    partial.mkdir(parents=True)
    (partial / "ids.bin").write_bytes(b"x" * 10)
    return partial


def model(cache: Cache) -> Path:
    folder = cache.folder / "models" / "smollm2"
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(b"x" * 5000)
    os.utime(folder / "weights", (0, 0))
    return folder


@pytest.fixture
def palate(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that succeeds; gives its stdout."""

    def run(*words: str) -> str:
        assert main(["cache", *words]) == 0
        return capsys.readouterr().out

    return run


def listed(palate: Callable[..., str], *words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(palate(*words, "--json"))
    return found


def test_the_list_has_a_line_for_each_entry_and_one_for_what_others_keep(
    cache: Cache, palate: Callable[..., str]
) -> None:
    whole = keep(cache, "tables", 1, days=3.1)
    damaged = keep(cache, "tables", 2, days=40)
    (damaged / "ids.bin").write_bytes(b"")
    unfinished(cache)
    model(cache)

    rows = [line.split() for line in palate().splitlines()]

    assert rows[0] == ["kind", "what", "key", "size", "made", "last", "used", "state"]
    assert rows[1] == ["models", "smollm2", "–", "5.0", "kB", "–", "–", "unchecked"]
    assert rows[2][:3] == ["tables", "ml-100k", whole.name[:8]]
    assert rows[2][-5:] == ["now", "3", "d", "ago", "whole"]
    assert rows[3][:3] == ["tables", "ml-100k", damaged.name[:8]]
    assert rows[3][-4:] == ["40", "d", "ago", "damaged"]
    assert rows[4][:3] == ["tables", "–", "aaaaaaaa"]
    assert rows[4][-1] == "unfinished"
    assert len(rows) == 6


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_into_the_terminal_and_only_the_name_is_cut(
    width: int, cache: Cache, palate: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(cache, "preprocessed", 1, days=400, name="映画 " * 40)
    model(cache)
    monkeypatch.setattr(console.out, "width", width)

    lines = palate().splitlines()[:3]

    assert [line.count("…") for line in lines] == [0, 0, 1]
    assert "last used" in lines[0]
    assert lines[2].rstrip().endswith("400 d ago" + " " * (2 if width == 120 else 1) + "whole")


def test_json_tells_sizes_in_bytes_times_and_paths(cache: Cache, palate: Callable[..., str]) -> None:
    entry = keep(cache, "tables", 1)
    found = listed(palate)

    (item,) = found["items"]
    assert item["size"] == found["size"] == 1000 + (entry / ENTRY).stat().st_size
    assert Path(item["path"]) == entry
    assert item["key"] == entry.name
    assert item["made"].endswith("+00:00")
    assert (item["state"], item["damage"]) == ("whole", None)


def test_the_list_reads_the_bytes_only_if_asked(cache: Cache, palate: Callable[..., str]) -> None:
    entry = keep(cache, "tables", 1)
    (entry / "ids.bin").write_bytes(b"y" * 1000)

    assert listed(palate)["items"][0]["state"] == "whole"
    (item,) = listed(palate, "--verify")["items"]
    assert (item["state"], item["damage"]) == ("damaged", "ids.bin was changed")
    palate("--prune", "--verify")
    assert not entry.exists()


def test_an_empty_cache_is_told_in_a_line_and_not_made(
    tmp_path: Path, palate: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PALATE_CACHE_DIR", str(tmp_path / "none"))

    assert palate() == f"the cache is empty: {tmp_path / 'none'}\n"
    assert palate("--prune", "--kind", "tables") == f"nothing to remove in {tmp_path / 'none'}\n"
    assert not (tmp_path / "none").exists()


def test_prune_alone_removes_what_nobody_can_use(cache: Cache, palate: Callable[..., str]) -> None:
    whole, damaged, left, weights = keep(cache, "tables", 1), keep(cache, "tables", 2), unfinished(cache), model(cache)
    (damaged / "ids.bin").unlink()
    size = (damaged / ENTRY).stat().st_size

    said = palate("--prune").splitlines()

    assert f"removed tables of ml-100k ({damaged.name[:8]}), {size} bytes, damaged: ids.bin is missing" in said
    assert "removed tables (aaaaaaaa), 10 bytes, unfinished" in said
    assert said[-1] == f"{size + 10} bytes freed in {cache.folder}"
    assert (whole.exists(), weights.exists()) == (True, True)
    assert sorted(p.name for p in (cache.folder / "tables").iterdir()) == [whole.name]
    assert not left.exists()


@pytest.mark.parametrize(
    ("words", "gone"),
    [
        (["--older-than", "30"], {"old tables", "old lengths"}),
        (["--older-than", "0"], {"old tables", "old lengths", "new tables", "damaged"}),
        (["--kind", "tables"], {"old tables", "new tables", "damaged"}),
        (["--kind", "tables", "--older-than", "30"], {"old tables"}),
        (["--damaged"], {"damaged"}),
        (["--damaged", "--kind", "lengths"], set()),
        (["--kind", "models"], {"model"}),
        (["--kind", "models", "--older-than", "30"], set()),  # when it was last used nobody knows
        (["--all"], {"old tables", "old lengths", "new tables", "damaged", "model"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_criteria_are_met_all_at_once_and_a_dry_run_removes_nothing(
    words: list[str], gone: set[str], cache: Cache, palate: Callable[..., str]
) -> None:
    paths = {
        "old tables": keep(cache, "tables", 1, days=31),
        "new tables": keep(cache, "tables", 2, days=29),
        "damaged": keep(cache, "tables", 3),
        "old lengths": keep(cache, "lengths", 1, days=31),
        "model": model(cache),
    }
    (paths["damaged"] / "ids.bin").write_bytes(b"")

    would = listed(palate, "--prune", "--dry-run", *words)
    assert all(path.exists() for path in paths.values())
    did = listed(palate, "--prune", *words)

    assert {name for name, path in paths.items() if not path.exists()} == gone
    assert would["removed"] == did["removed"]
    assert would["freed"] == did["freed"] == sum(item["size"] for item in did["removed"])


def test_what_is_being_made_stays_whatever_is_asked(cache: Cache, palate: Callable[..., str]) -> None:
    def build(folder: Path) -> None:
        (folder / "ids.bin").write_bytes(b"x" * 10)
        said = palate("--prune", "--all")
        assert "kept tables (" in said
        assert "10 bytes, it is in use" in said

    entry = cache.entry("tables", {"a": 1}, build)

    assert (entry / "ids.bin").read_bytes() == b"x" * 10


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--kind", "tabels"], "--kind: {} holds no 'tabels', expected tables"),
        (["--prune", "--kind", "tabels"], "--kind: {} holds no 'tabels', expected tables"),
        (["--prune", "--older-than=-1"], "--older-than: -1 is no number of days, expected 0 or more"),
        (["--prune", "--older-than", "nan"], "--older-than: nan is no number of days, expected 0 or more"),
        (["--prune", "--all", "--damaged"], "--all: selects all entries, expected no"),
        (["--older-than", "0"], "--older-than: selects what to remove, expected --prune"),
        (["--all"], "--all: selects what to remove, expected --prune"),
        (["--dry-run"], "--dry-run: selects what to remove, expected --prune"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_that_cannot_be_meant_are_one_line_and_remove_nothing(
    words: list[str], error: str, cache: Cache, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = keep(cache, "tables", 1)

    assert main(["cache", *words]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: " + error.format(cache.folder))
    assert len(said.err.splitlines()) == 1
    assert said.out == ""
    assert entry.exists()
