import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.disk import files_of_at_most

from palate.errors import InputError, WorkError
from palate.store.artifacts import (
    DAY,
    MANIFEST,
    atomic_file,
    atomic_folder,
    files_of,
    hidden,
    read_json,
    reading,
    sha256_file,
    sweep,
    write_json,
    write_manifest,
)


def test_a_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "x"
    with pytest.raises(RuntimeError, match="half-way"), atomic_file(path) as file:
        file.write(b"half")
        assert not path.exists()
        raise RuntimeError("half-way")

    assert list(path.parent.iterdir()) == []


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic_file(path) as file:
        file.write(b"new")
        raise RuntimeError

    assert path.read_bytes() == b"old"


def test_a_write_that_the_system_refuses_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    with (
        files_of_at_most(1000),
        pytest.raises(WorkError, match="x: cannot be written: File too large"),
        atomic_file(tmp_path / "x") as file,
    ):
        file.write(b"x" * 100_000)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["n" * 300, "file/x", "folder"])
@pytest.mark.parametrize("write", [atomic_file, atomic_folder])
def test_a_path_that_can_be_no_output_is_wrong_input(tmp_path: Path, write: Callable[[Path], Any], name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    path = tmp_path / ("file" if write is atomic_folder and name == "folder" else name)
    with pytest.raises(WorkError, match="cannot be written") as raised, write(path):
        pass
    assert raised.value.exit_code == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(InputError, match="is a device or a pipe"):
        write_json(path, {})
    assert path.is_fifo()
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_keeps_what_was_not_written_again_and_its_manifest_comes_last(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with atomic_folder(folder) as partial:
        (partial / "a").write_text("1")
        write_manifest(partial, "s", inputs={}, options={}, stats={})
    (folder / "mine").write_text("kept")
    with pytest.raises(RuntimeError), atomic_folder(folder) as partial:
        (partial / "a").write_text("2")
        raise RuntimeError
    assert (folder / "a").read_text() == "1"

    with atomic_folder(folder) as partial:
        (partial / "a").write_text("2")

    assert (folder / "a").read_text() == "2"
    assert (folder / "mine").read_text() == "kept"
    assert not (folder / MANIFEST).exists()  # it described the old files
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_a_manifest_names_every_file_with_its_hash(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    manifest = write_manifest(tmp_path, "prepare", inputs={"i": "0"}, options={"o": 1}, stats={"n": 2})

    assert manifest["outputs"] == {"a": sha256_file(tmp_path / "a")}
    assert json.loads((tmp_path / MANIFEST).read_text()) == manifest


def test_json_that_is_not_json_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"a": 1,\n "b": }\n')
    with pytest.raises(InputError, match=r"x\.json:2: is not JSON"):
        read_json(path)
    with pytest.raises(InputError, match=r"absent\.json: not found"):
        read_json(tmp_path / "absent.json")
    for text in (b"[1]", b"null", b'"a"'):
        path.write_bytes(text)
        with pytest.raises(InputError, match=r"x\.json: has another JSON value, expected an object"):
            read_json(path)
    for text in (b"\xff", b"[" * 100_000):
        path.write_bytes(text)
        with pytest.raises(InputError, match=r"x\.json: is not JSON"):
            read_json(path)


def test_json_keeps_every_letter(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"title": "Amélie ≈ 映画"})

    assert read_json(tmp_path / "x.json") == {"title": "Amélie ≈ 映画"}
    assert "Amélie ≈ 映画" in (tmp_path / "x.json").read_text(encoding="utf-8")


def test_a_whole_folder_takes_the_place_of_all_that_was_there(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for name in ("a", "b"):
        with atomic_folder(folder, whole=True) as partial:
            (partial / "sub").mkdir()
            (partial / "sub" / name).write_text(name)
    with pytest.raises(RuntimeError), atomic_folder(folder, whole=True) as partial:
        (partial / "c").write_text("c")
        raise RuntimeError

    assert [p.relative_to(tmp_path).as_posix() for p in sorted(tmp_path.rglob("*"))] == [
        "data",
        "data/sub",
        "data/sub/b",
    ]


def test_the_old_folder_comes_back_if_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a").write_text("old")
    rename = Path.rename

    def refusing(self: Path, target: Path) -> Path:
        if ".partial-" in self.name:
            raise OSError(16, "Device or resource busy")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refusing)
    with pytest.raises(WorkError, match="busy"), atomic_folder(folder, whole=True) as partial:
        (partial / "a").write_text("new")

    assert [p.name for p in tmp_path.iterdir()] == ["data"]
    assert (folder / "a").read_text() == "old"


@pytest.fixture
def dead() -> int:
    """The id of a process that has ended."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return child


def left_by(path: Path, use: str, pid: int) -> Path:
    """The name that a process of this machine uses beside `path`."""
    return path.with_name(hidden(path, use).name.replace(str(os.getpid()), str(pid)))


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path, dead: int) -> None:
    path = tmp_path / "x"
    left_by(path, "partial", dead).write_text("half")
    left_by(path, "partial", os.getppid()).write_text("of one that runs")
    (tmp_path / f".x.partial-elsewhere-{dead}").write_text("of another machine")
    with atomic_file(path) as file:
        file.write(b"whole")

    assert {p.name for p in tmp_path.iterdir()} == {
        "x", left_by(path, "partial", os.getppid()).name, f".x.partial-elsewhere-{dead}"
    }  # fmt: skip


def test_what_another_machine_left_is_removed_after_a_day_without_a_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, now = tmp_path / "data", time.time()
    partial, replaced = (tmp_path / f".data.{use}-3f2a-elsewhere-1" for use in ("partial", "replaced"))
    partial.mkdir()
    (partial / "a").write_text("half")
    replaced.mkdir()
    (replaced / "a").write_text("old")
    os.utime(replaced, (now - 9 * DAY,) * 2)  # written long ago, renamed just now
    with pytest.raises(RuntimeError), atomic_folder(path):
        raise RuntimeError
    assert {p.name for p in tmp_path.iterdir()} == {partial.name, replaced.name}

    monkeypatch.setattr(time, "time", lambda: now + DAY + 60)
    with pytest.raises(RuntimeError), atomic_folder(path):
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["data"]
    assert (path / "a").read_text() == "old"


def test_a_folder_that_a_killed_process_was_replacing_comes_back(tmp_path: Path, dead: int) -> None:
    folder = tmp_path / "data"
    left_by(folder, "replaced", dead).mkdir()
    (left_by(folder, "replaced", dead) / "a").write_text("old")
    with pytest.raises(RuntimeError), atomic_folder(folder, whole=True):
        raise RuntimeError

    assert [p.name for p in tmp_path.iterdir()] == ["data"]
    assert (folder / "a").read_text() == "old"


def test_what_a_killed_process_left_beside_finished_files_is_swept(tmp_path: Path, dead: int) -> None:
    finished, missing = tmp_path / "a" / "x", tmp_path / "a" / "y"
    finished.parent.mkdir()
    finished.write_text("whole")
    left_by(finished, "partial", dead).write_text("half")
    left_by(missing, "partial", dead).write_text("may be all that there is")
    left_by(finished, "partial", os.getppid()).write_text("of one that runs")
    sweep(tmp_path)

    kept = {"x", left_by(missing, "partial", dead).name, left_by(finished, "partial", os.getppid()).name}
    assert {p.name for p in finished.parent.iterdir()} == kept


@pytest.mark.parametrize(
    "text",
    ["Input/output error (os error 5)", "unable to open file </x> in read-only mode: Input/output error (5)",
     "unable to mmap 24 bytes from file </x>: Input/output error (5)"],
)  # fmt: skip
def test_a_read_that_fails_under_a_library_is_one_line(text: str, tmp_path: Path) -> None:
    with pytest.raises(WorkError, match="x: cannot be read: Input/output error"), reading(tmp_path / "x"):
        raise RuntimeError(text)


def test_a_full_disk_under_a_library_in_rust_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(WorkError, match="x: cannot be written: No space left on device"), atomic_file(tmp_path / "x"):
        raise ValueError("parquet: underlying IO error: No space left on device (os error 28)")


def test_a_folder_that_cannot_be_listed_is_not_an_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError):
        files_of(tmp_path)
