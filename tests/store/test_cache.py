import errno
import json
import logging
import mmap
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.disk import files_of_at_most

from palate.errors import InputError, WorkError
from palate.store.artifacts import DAY
from palate.store.cache import ENTRY, Cache

PARTS = {"ratings": "r1", "tokenizer": "t1", "prompt": {"yes": "Yes"}, "cutoff": 512}


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    logging.getLogger("palate").propagate = True
    caplog.set_level(logging.DEBUG, logger="palate")
    return caplog


def write(folder: Path) -> None:
    (folder / "ids").mkdir()
    (folder / "ids" / "0.bin").write_bytes(b"ids" * 1000)
    (folder / "items.json").write_text("[1]")


def not_again(folder: Path) -> None:
    raise AssertionError("built although it is there")


def content(entry: Path) -> dict[str, bytes]:
    return {
        p.relative_to(entry).as_posix(): p.read_bytes() for p in entry.rglob("*") if p.is_file() and p.name != ENTRY
    }


WRITTEN = {"ids/0.bin": b"ids" * 1000, "items.json": b"[1]"}


def start(code: str, *words: str) -> subprocess.Popen[str]:
    """Another Python; it prints a line when it is where the test wants it."""
    head = (
        "import sys, time\nfrom pathlib import Path\nfrom palate.store.cache import Cache\nroot = Path(sys.argv[1])\n"
    )
    return subprocess.Popen([sys.executable, "-c", head + code, *words], stdout=subprocess.PIPE, text=True)


HANGING = """
def build(folder):
    (folder / "half").write_bytes(b"x" * 1000)
    print(folder, flush=True)
    time.sleep(60)
Cache(root).entry("tables", {"a": 1}, build)
"""


@contextmanager
def hanging(root: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process in the middle of a build, and the folder that it writes."""
    process = start(HANGING, str(root))
    try:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())
    finally:
        process.kill()
        process.communicate()


def test_an_entry_holds_what_the_builder_wrote_and_is_built_once(tmp_path: Path) -> None:
    entry = Cache(tmp_path).entry("tables", PARTS, write)

    assert content(entry) == WRITTEN
    assert entry.parent == tmp_path / "tables"
    assert Cache(tmp_path).entry("tables", PARTS, not_again) == entry
    assert [p.name for p in entry.parent.iterdir()] == [entry.name]


def test_the_order_of_parts_and_tuples_for_lists_make_no_other_entry(tmp_path: Path) -> None:
    entry = Cache(tmp_path).entry("tables", {"a": (1, 2), "b": 1}, write)

    assert Cache(tmp_path).entry("tables", {"b": 1, "a": [1, 2]}, not_again) == entry


def test_without_a_folder_the_users_cache_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALATE_CACHE_DIR", str(tmp_path / "mine"))

    assert Cache().entry("tables", PARTS, write).parent == tmp_path / "mine" / "tables"


def test_the_builder_is_given_an_empty_hidden_folder_beside_the_final_place(tmp_path: Path) -> None:
    given: list[Path] = []

    def build(folder: Path) -> None:
        assert list(folder.iterdir()) == []
        given.append(folder)

    entry = Cache(tmp_path).entry("tables", PARTS, build)

    assert given[0].parent == entry.parent
    assert given[0].name.startswith(".")


def test_the_log_says_why_an_entry_was_found_or_made(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    cache = Cache(tmp_path)

    def line(note: dict[str, str] | None = None, **changed: Any) -> str:
        said.clear()
        cache.entry("tables", {**PARTS, **changed}, write, name="ml-100k", note=note)
        (record,) = said.records
        return record.getMessage()

    note = {"cutoff": "tables reused, lengths recomputed"}
    assert line() == "tables of ml-100k: cache miss, no earlier entry"
    hit = line()
    assert hit.startswith("tables of ml-100k: cache hit, same ratings, tokenizer, prompt, cutoff (")
    assert hit.endswith(f"{next((tmp_path / 'tables').iterdir())})")
    assert line(tokenizer="t2") == "tables of ml-100k: cache miss, tokenizer changed"
    assert line(note, cutoff=64) == "tables of ml-100k: cache miss, cutoff changed: tables reused, lengths recomputed"
    assert line(note, cutoff=65, prompt={}) == "tables of ml-100k: cache miss, prompt and cutoff changed"
    assert (
        line(cutoff=66, prompt=1, ratings="r2") == "tables of ml-100k: cache miss, ratings, prompt and cutoff changed"
    )
    assert line(template="new") == "tables of ml-100k: cache miss, template changed"  # not there before


def test_the_reason_is_told_against_the_most_similar_entry_and_another_kind_is_none(
    tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    cache = Cache(tmp_path)
    cache.entry("tables", PARTS, write)
    cache.entry("tables", {**PARTS, "ratings": "r2", "tokenizer": "t2"}, write)
    said.clear()

    cache.entry("tables", {**PARTS, "ratings": "r2", "tokenizer": "t2", "cutoff": 1}, write)
    cache.entry("lengths", PARTS, write)

    assert [record.getMessage() for record in said.records] == [
        "tables: cache miss, cutoff changed",
        "lengths: cache miss, no earlier entry",
    ]


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda e: (e / "items.json").write_text("["), "items.json has 1 bytes, expected 3"),
        (lambda e: flipped(e / "ids" / "0.bin"), "ids/0.bin was changed"),
        (lambda e: (e / "items.json").unlink(), "items.json is missing"),
        (lambda e: (e / ENTRY).unlink(), "entry.json is missing"),
        (lambda e: (e / ENTRY).write_text((e / ENTRY).read_text()[:-9]), "entry.json is not readable"),
        (lambda e: (e / ENTRY).write_text('{"parts": {}, "files": {"x": 12}}'), "belongs to another entry"),
        (lambda e: (e / ENTRY).write_text((e / ENTRY).read_text().replace("t1", "t2")), "belongs to another entry"),
    ],
    ids=["truncated", "flipped bit", "file gone", "no entry.json", "half of it", "an older form", "of other parts"],
)
def test_a_damaged_entry_is_made_again_and_the_log_names_the_file(
    spoil: Callable[[Path], None], words: str, tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    entry = Cache(tmp_path).entry("tables", PARTS, write)
    spoil(entry)
    said.clear()

    assert Cache(tmp_path).entry("tables", PARTS, write) == entry
    assert content(entry) == WRITTEN
    assert "cache miss, the entry is damaged: " in said.text
    assert words in said.text
    assert [p.name for p in entry.parent.iterdir()] == [entry.name]


def test_a_file_that_nobody_listed_does_not_spoil_an_entry(tmp_path: Path) -> None:
    entry = Cache(tmp_path).entry("tables", PARTS, write)
    (entry / ".nfs0001").write_text("x")

    assert Cache(tmp_path).entry("tables", PARTS, not_again) == entry


def test_a_file_in_the_entrys_place_gives_way(tmp_path: Path) -> None:
    entry = Cache(tmp_path / "a").entry("tables", PARTS, write)
    (tmp_path / "b" / "tables").mkdir(parents=True)
    (tmp_path / "b" / "tables" / entry.name).write_text("what is this")

    assert content(Cache(tmp_path / "b").entry("tables", PARTS, write)) == WRITTEN


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_build_that_breaks_off_leaves_nothing(error: type[BaseException], tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        write(folder)
        raise error

    with pytest.raises(error):
        Cache(tmp_path).entry("tables", PARTS, build)

    assert list((tmp_path / "tables").iterdir()) == []


def test_a_hit_counts_as_a_use(tmp_path: Path) -> None:
    entry = Cache(tmp_path).entry("tables", PARTS, write)
    os.utime(entry / ENTRY, (1_000_000, 1_000_000))

    Cache(tmp_path).entry("tables", PARTS, not_again)

    assert time.time() - (entry / ENTRY).stat().st_mtime < 60
    assert Cache(tmp_path).entry("tables", PARTS, not_again) == entry


def test_what_a_killed_process_leaves_is_no_hit_and_goes_when_the_entry_is_made(
    tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    with hanging(tmp_path) as (process, partial):
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (partial / "half").is_file()

    entry = Cache(tmp_path).entry("tables", {"a": 1}, write)

    assert content(entry) == WRITTEN
    assert f"removed the unfinished files of a killed process: {partial}" in said.text
    assert [p.name for p in entry.parent.iterdir()] == [entry.name]


def test_what_a_living_process_writes_is_not_removed_however_old_it_looks(tmp_path: Path) -> None:
    with hanging(tmp_path) as (_, partial):
        for path in (partial / "half", partial):
            os.utime(path, (time.time() - 9 * DAY,) * 2)
        cache = Cache(tmp_path)
        entry = cache.entry("tables", {"a": 2}, write)
        (item,) = [item for item in cache.items() if item.path != entry]

        assert item.state == "being made"
        assert not cache.remove(item)
        assert (partial / "half").is_file()


def test_a_second_builder_waits_and_takes_the_entry_of_the_first(
    tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    begun, go = threading.Event(), threading.Event()

    def slow(folder: Path) -> None:
        begun.set()
        assert go.wait(60)
        write(folder)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(Cache(tmp_path).entry, "tables", PARTS, slow)
        assert begun.wait(60)
        second = pool.submit(Cache(tmp_path).entry, "tables", PARTS, not_again)
        while "waiting for another process" not in said.text:
            time.sleep(0.001)
        go.set()
        assert second.result(60) == first.result(60)


def test_the_end_of_its_process_makes_a_build_unfinished(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    with hanging(tmp_path) as (process, partial):
        process.send_signal(signal.SIGKILL)
        process.wait()
        (item,) = cache.items()

        assert (item.state, item.path) == ("unfinished", partial)
        assert cache.remove(item)
        assert list((tmp_path / "tables").iterdir()) == []


def test_a_build_on_another_machine_counts_as_given_up_only_after_a_day(tmp_path: Path) -> None:
    partial = tmp_path / "tables" / f".{'a' * 24}.partial-elsewhere-00000000"
    partial.mkdir(parents=True)
    cache = Cache(tmp_path)

    (item,) = cache.items()
    assert item.state == "being made"
    assert not cache.remove(item)
    os.utime(partial, (time.time() - DAY - 60,) * 2)
    (item,) = cache.items()
    assert item.state == "unfinished"
    assert cache.remove(item)


TOGETHER = """
import hashlib
cache, number = Cache(root), sys.argv[2]
def build(folder):
    for name in "abc":
        (folder / name).write_bytes(number.encode() * 100_000)
        time.sleep(0.02)
print("ready", flush=True)
while not (root / "go").exists():
    pass
for turn in range(8):
    entry = cache.entry("tables", {"turn": turn}, build)
    content = {(entry / name).read_bytes() for name in "abc"}
    assert len(content) == 1 and len(content.pop()) == 100_000, "parts of two builds"
"""


def test_processes_that_build_the_same_at_once_all_succeed_and_one_wins(tmp_path: Path) -> None:
    processes = [start(TOGETHER, str(tmp_path), str(number)) for number in range(3)]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    (tmp_path / "go").touch()

    assert [process.wait(60) for process in processes] == [0, 0, 0]
    for process in processes:
        process.communicate()
    assert len(list((tmp_path / "tables").iterdir())) == 8
    assert {item.state for item in Cache(tmp_path).items(hashes=True)} == {"whole"}


PRUNED = """
def build(folder):
    for name in "abc":
        (folder / name).write_bytes(b"x" * 1000)
print("ready", flush=True)
for turn in range(400):
    Cache(root).entry("tables", {"turn": turn % 3}, build)
"""


def test_builds_go_on_while_everything_that_may_go_is_pruned(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    processes = [start(PRUNED, str(tmp_path)) for _ in range(2)]
    removed = 0
    while any(process.poll() is None for process in processes):
        removed += sum(map(cache.remove, cache.items()))
    for process in processes:
        process.communicate()

    assert [process.returncode for process in processes] == [0, 0]
    assert removed > 20
    assert {item.state for item in cache.items(hashes=True)} <= {"whole"}


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without locks: two may then build the same entry at once."""

    def refuse(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)


def test_the_first_of_two_builders_wins_and_the_second_takes_its_entry(tmp_path: Path, no_locks: None) -> None:
    cache = Cache(tmp_path)

    def first(folder: Path) -> None:
        (folder / "x").write_text("first")

    def second(folder: Path) -> None:
        (folder / "x").write_text("second")
        cache.entry("tables", PARTS, first)

    entry = cache.entry("tables", PARTS, second)

    assert (entry / "x").read_text() == "first"
    assert [p.name for p in entry.parent.iterdir()] == [entry.name]


def test_a_whole_entry_that_replaced_a_damaged_one_meanwhile_is_not_moved(tmp_path: Path, no_locks: None) -> None:
    cache = Cache(tmp_path)
    damaged = cache.entry("tables", PARTS, write)
    (damaged / "items.json").unlink()
    placed: list[int] = []

    def second(folder: Path) -> None:
        write(folder)
        placed.append(cache.entry("tables", PARTS, write).stat().st_ino)

    entry = cache.entry("tables", PARTS, second)

    assert entry.stat().st_ino == placed[0]


def test_an_entry_that_was_put_first_but_is_damaged_gives_way_to_the_second(tmp_path: Path, no_locks: None) -> None:
    cache = Cache(tmp_path)

    def second(folder: Path) -> None:
        write(folder)
        flipped(cache.entry("tables", PARTS, write) / "ids" / "0.bin")

    assert content(cache.entry("tables", PARTS, second)) == WRITTEN


def test_a_file_system_without_locks_keeps_entries_all_the_same(tmp_path: Path, no_locks: None) -> None:
    cache = Cache(tmp_path)
    entry = cache.entry("tables", PARTS, write)
    flipped(entry / "ids" / "0.bin")

    assert content(cache.entry("tables", PARTS, write)) == WRITTEN
    assert cache.entry("tables", PARTS, not_again) == entry
    partial = entry.with_name(f".{entry.name}.partial-{platform.node()}-00000000")
    partial.mkdir()
    assert {item.state for item in cache.items()} == {"whole", "being made"}  # only time can tell
    os.utime(partial, (time.time() - DAY - 60,) * 2)
    assert {item.state for item in cache.items()} == {"whole", "unfinished"}


def test_threads_that_find_a_damaged_entry_all_get_a_whole_one(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    entry = cache.entry("tables", PARTS, write)
    flipped(entry / "ids" / "0.bin")
    barrier = threading.Barrier(4)

    def take(_: int) -> dict[str, bytes]:
        barrier.wait()
        return content(cache.entry("tables", PARTS, write))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(take, range(4))) == [WRITTEN] * 4
    assert [p.name for p in entry.parent.iterdir()] == [entry.name]


def test_what_is_mapped_stays_readable_when_its_entry_is_replaced_or_removed(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    entry = cache.entry("tables", PARTS, write)
    with (entry / "ids" / "0.bin").open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    (entry / "items.json").unlink()

    cache.entry("tables", PARTS, write)
    for item in cache.items():
        assert cache.remove(item)

    assert mapped[:] == b"ids" * 1000
    assert list((tmp_path / "tables").iterdir()) == []


@pytest.mark.parametrize("limit", [1000, 3100], ids=["in the builder", "in entry.json"])
def test_a_full_disk_is_one_line_and_leaves_nothing(limit: int, tmp_path: Path) -> None:
    many = {str(number): "x" * 100 for number in range(100)}
    with (
        files_of_at_most(limit),
        pytest.raises(WorkError, match=r"tables: cannot be written: File too large; .*PALATE_CACHE"),
    ):
        Cache(tmp_path).entry("tables", many, write)

    assert list((tmp_path / "tables").iterdir()) == []


def test_a_full_disk_that_a_library_wraps_is_the_same_line(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("An error occurred while generating the dataset") from error

    with pytest.raises(WorkError, match="tables: cannot be written: No space left on device"):
        Cache(tmp_path).entry("tables", PARTS, build)


def test_an_input_that_the_builder_misses_is_not_blamed_on_the_cache(tmp_path: Path) -> None:
    def read(folder: Path) -> None:
        (tmp_path / "ratings.csv").read_text()

    def refuse(folder: Path) -> None:
        raise InputError("is empty", "ratings.csv")

    with pytest.raises(FileNotFoundError, match=r"ratings\.csv"):
        Cache(tmp_path / "cache").entry("tables", PARTS, read)
    with pytest.raises(InputError, match=r"ratings\.csv: is empty"):
        Cache(tmp_path / "cache").entry("tables", PARTS, refuse)


@contextmanager
def read_only() -> Iterator[Path]:
    """A folder that this process may read but not write, also when the tests are run by root."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "cache"
        Cache(folder).entry("tables", PARTS, write)
        for path in (*folder.rglob("*"), folder, folder.parent):
            path.chmod(0o555 if path.is_dir() else 0o444)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        try:
            yield folder
        finally:
            if root:
                os.seteuid(0)
            for path in (folder.parent, folder, *folder.rglob("*")):
                path.chmod(0o755)


def test_a_cache_that_may_only_be_read_gives_hits_and_refuses_new_entries_in_one_line() -> None:
    with read_only() as folder:
        assert content(Cache(folder).entry("tables", PARTS, not_again)) == WRITTEN
        with pytest.raises(WorkError, match="tables: cannot be written: Permission denied"):
            Cache(folder).entry("tables", {"a": 1}, write)
        with pytest.raises(WorkError, match="lengths: cannot be written: Permission denied"):
            Cache(folder).entry("lengths", PARTS, write)
        (item,) = Cache(folder).items()
        with pytest.raises(WorkError, match="cannot be removed: Permission denied"):
            Cache(folder).remove(item)
        assert Cache(folder).items(hashes=True)[0].state == "whole"


def test_a_file_where_the_cache_should_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("x")

    with pytest.raises(WorkError, match="cache/tables: cannot be written: Not a directory"):
        Cache(tmp_path / "cache").entry("tables", PARTS, write)


def test_items_tell_what_is_kept_and_only_hashes_find_a_flipped_bit(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    entry = cache.entry("tables", PARTS, write, name="ml-100k")
    flipped(entry / "ids" / "0.bin")

    (item,) = cache.items()
    assert (item.kind, item.name, item.key, item.state) == ("tables", "ml-100k", entry.name, "whole")
    assert item.size == 3003 + (entry / ENTRY).stat().st_size
    assert item.made is not None
    assert abs(item.made - time.time()) < 60
    (item,) = cache.items(hashes=True)
    assert (item.state, item.damage) == ("damaged", "ids/0.bin was changed")


def test_what_others_keep_is_one_item_and_strangers_in_a_shared_folder_are_not_seen(tmp_path: Path) -> None:
    for name in ("models/a/w.safetensors", "models/b/w.safetensors", "pip/wheel", f"apps/{'a' * 24}/mail"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"x" * 10)
    cache = Cache(tmp_path)

    (item,) = cache.items()
    assert (item.kind, item.name, item.key, item.size, item.state) == ("models", "a, b", "", 20, "unchecked")
    assert cache.remove(item)
    assert list((tmp_path / "models").iterdir()) == []
    assert cache.items() == []


def test_the_lock_of_a_process_that_was_killed_at_the_end_is_removed(tmp_path: Path) -> None:
    entry = Cache(tmp_path).entry("tables", PARTS, write)
    entry.with_name(f".{entry.name}.lock").touch()

    assert Cache(tmp_path).entry("tables", PARTS, write) == entry
    assert list(entry.parent.iterdir()) == [entry]


def test_what_other_code_writes_at_the_moment_is_left_to_it(tmp_path: Path) -> None:
    partial = tmp_path / "models" / ".SmolLM2.partial-123"
    partial.mkdir(parents=True)

    assert Cache(tmp_path).items() == []
    os.utime(partial, (time.time() - DAY - 60,) * 2)
    assert [item.name for item in Cache(tmp_path).items()] == [".SmolLM2.partial-123"]


def test_an_entry_that_was_used_after_it_was_listed_is_not_removed(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    entry = cache.entry("tables", PARTS, write)
    os.utime(entry / ENTRY, (1_000_000, 1_000_000))
    (item,) = cache.items()

    cache.entry("tables", PARTS, not_again)

    assert not cache.remove(item)
    assert content(entry) == WRITTEN


def test_entry_json_says_what_the_entry_was_made_from(tmp_path: Path) -> None:
    entry = Cache(tmp_path).entry("tables", PARTS, write, name="ml-100k")
    said = json.loads((entry / ENTRY).read_text())

    assert (said["kind"], said["name"], said["parts"]) == ("tables", "ml-100k", PARTS)
    assert said["files"].keys() == WRITTEN.keys()
    assert said["files"]["items.json"]["size"] == 3
