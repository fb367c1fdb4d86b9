import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from palate.errors import WorkError
from palate.store.artifacts import atomic_file
from palate.store.resume import LongWork


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    logging.getLogger("palate").propagate = True
    caplog.set_level(logging.DEBUG, logger="palate")
    return caplog


def count(out: Path, *, until: int = 5, wait: threading.Event | None = None, **key: Any) -> str:
    """Write the numbers 0 to 4 into a file, a part each; stops before `until`."""
    work = LongWork("counting", out, {"model": "m1", **key}, 5, "numbers")

    def kept() -> str | None:
        return out.read_text() if out.exists() else None

    def make(done: int) -> str:
        for number in range(done, 5):
            if wait is not None:
                assert wait.wait(60)
            if number == until:
                raise KeyboardInterrupt
            with work.part(number, number + 1) as file:
                file.write(f"{number} ".encode())
        text = "".join(part.read_text() for part in work.parts()) + f"from {done}"
        with atomic_file(out) as file:
            file.write(text.encode())
        return text

    return work.result(kept, make)


def interrupt(out: Path, after: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        count(out, until=after)


def test_interrupted_work_goes_on_with_what_is_finished_and_leaves_one_file(
    tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "sub" / "x"
    interrupt(out, 3)

    assert count(out) == "0 1 2 3 4 from 3"
    assert "counting resumes: 3 of 5 numbers are finished" in said.text
    assert [path.name for path in out.parent.iterdir()] == ["x"]
    assert count(out) == "0 1 2 3 4 from 3"
    assert f"{out} is up to date: same model" in said.text


@pytest.mark.parametrize("key", ["key.json", None], ids=["damaged", "another"])
def test_parts_under_another_or_a_damaged_key_are_not_used(
    key: str | None, tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    interrupt(tmp_path / "x", 3)
    if key is not None:
        (tmp_path / "x.parts" / key).write_text("{")

    assert count(tmp_path / "x", model="m1" if key else "m2", seed=7).endswith("from 0")
    assert ("counting starts over: model and seed changed" in said.text) == (key is None)


def test_a_part_that_was_being_written_and_a_file_of_another_name_are_not_used(tmp_path: Path) -> None:
    interrupt(tmp_path / "x", 2)
    (tmp_path / "x.parts" / ".0000000002-0000000003.partial-vm-1234567").write_text("half")
    (tmp_path / "x.parts" / "0000000002.npz").write_text("of an earlier version")

    assert count(tmp_path / "x") == "0 1 2 3 4 from 2"


def test_a_second_process_waits_and_takes_the_file_of_the_first(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    go = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(count, tmp_path / "x", wait=go) for _ in range(2)]
        while "waiting for another process" not in said.text:
            time.sleep(0.001)
        go.set()
        assert [each.result(60) for each in both] == ["0 1 2 3 4 from 0"] * 2


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(WorkError, match=r"file/x: cannot be written: "):
        count(tmp_path / "file" / "x")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no /proc")
def test_a_folder_in_which_no_lock_can_be_made_is_one_line() -> None:
    with pytest.raises(WorkError, match=r"^/proc/x: cannot be written: No such file or directory$"):
        count(Path("/proc/x"))


def test_what_a_process_left_that_was_killed_at_the_end_is_removed(tmp_path: Path) -> None:
    expected = count(tmp_path / "x")
    (tmp_path / "x.parts").mkdir()
    (tmp_path / ".x.lock").touch()

    assert count(tmp_path / "x") == expected
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
