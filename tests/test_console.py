"""No control character of a text acts on a terminal, an error is one line, and the log goes where it was sent."""

import io
import json
import logging
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.table import Table
from tests.acceptance.ratings import write_ratings
from tests.command import palate

from palate.console import EARLIER, Console, begin_log, log, start_logging
from palate.errors import InputError
from palate.progress import Meter


def test_a_text_cannot_steer_the_terminal() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=60)
    table = Table("title")
    table.add_row("\x1b[31mRed\x1b[0m \x9b2J")
    console.print(table)
    console.print("\x1b]0;name\x07", style="yellow")
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "\x1b[31m" not in shown
    assert "\x1b]" not in shown
    assert "\x9b" not in shown
    assert "Red" in shown


def test_a_text_is_shown_as_it_stands() -> None:
    text = "data[/red]x [bold] :smile:"
    console = Console(file=io.StringIO(), width=60)
    table = Table("title")
    table.add_row(text)
    console.print(table)
    console.print(f"prepared in {text}", highlight=False, soft_wrap=True)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().count(text) == 2


def test_an_error_shows_line_breaks_and_control_characters_escaped() -> None:
    error = InputError("is 'a\nb\x1b[31m'", "x\r.csv", 3)
    assert str(error) == r"x\r.csv:3: is 'a\nb\x1b[31m'"


def objects(text: str) -> list[dict[str, Any]]:
    """The JSON objects of a text, one a line."""
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def ratings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ratings(tmp_path_factory.mktemp("ratings"), users=12, each=20)


def test_quiet_leaves_the_result_alone_and_json_logs_are_objects(
    ratings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PALATE_RUN_ID", "job-7")
    words = ("prepare", "--ratings", ratings, "--history-len", "5", "--out", tmp_path / "data")
    plain, quiet, logged = palate(*words), palate(*words, "--quiet"), palate("--json-logs", *words)

    assert plain.stdout == quiet.stdout == logged.stdout
    assert ": 240 ratings of 60 items" in plain.stderr
    assert quiet.stderr == ""
    lines = objects(logged.stderr)
    assert lines[0]["message"] == plain.stderr.splitlines()[0]
    assert {(line["level"], line["run"], line["command"]) for line in lines} == {("info", "job-7", "prepare")}
    assert all(line["time"].endswith("Z") for line in lines)


@pytest.mark.parametrize("words", [("lengths", "--nothing"), ("inspect", "nowhere.csv"), ("lengths", "-v", "--quiet")])
def test_an_error_is_an_object_too_and_quiet_shows_it(words: tuple[str, ...]) -> None:
    plain, logged = palate(*words), palate(*words, "--json-logs")
    quiet = palate(*words, "--quiet")
    (error,) = objects(logged.stderr)
    assert (error["level"], error["exit_code"]) == ("error", 2)
    assert error["message"] + "\n" == plain.stderr
    assert quiet.stderr == plain.stderr or "-v" in words


def test_progress_as_json_has_its_numbers_and_a_warning_is_an_object_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr("palate.progress.time", SimpleNamespace(monotonic=lambda: now))
    begin_log(as_json=True)
    with Meter("scoring", 200) as meter:
        now = 61.0
        meter.advance(122)
    warnings.warn("of a library", stacklevel=1)
    line, warning = objects(capsys.readouterr().err)
    assert (warning["level"], warning["logger"]) == ("warning", "py.warnings")
    numbers = {"work": "scoring", "done": 122, "total": 200, "unit": "samples", "rate": 2.0, "left": 39.0}
    assert numbers.items() <= line.items()


def test_a_crash_says_what_to_do_and_is_logged_with_its_traceback() -> None:
    code = "import sys, palate.__main__ as main, palate.commands.cache as cache\n"
    code += "cache.show_caches = lambda **options: 1 / 0\nsys.exit(main.main())"
    plain, logged = (
        subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
        for words in (["cache"], ["cache", "--json-logs"])
    )
    assert (plain.returncode, logged.returncode) == (1, 1)
    assert plain.stderr.startswith("error: ZeroDivisionError: division by zero; a fault of Palate: please report it")
    (line,) = objects(logged.stderr)
    assert line["traceback"].endswith("ZeroDivisionError: division by zero")
    assert plain.stderr == f"{line['message']}\n{line['traceback']}\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_adds_no_line_of_the_log_itself(capsys: pytest.CaptureFixture[str]) -> None:
    begin_log()
    start_logging(Path("/dev/full"))
    logging.getLogger("palate.any").error("error: x: No space left on device")
    assert capsys.readouterr().err == "error: x: No space left on device\n"


def test_what_was_logged_before_a_file_is_opened_is_kept_up_to_a_bound(tmp_path: Path) -> None:
    begin_log()
    logger = logging.getLogger("palate.any")
    for n in range(EARLIER + 50):
        logger.debug("record %d.", n)
    start_logging(tmp_path / "run.log")
    lines = (tmp_path / "run.log").read_text().splitlines()
    assert len(lines) == EARLIER
    assert lines[-1].endswith(f"record {EARLIER + 49}.")


def test_a_log_on_a_full_disk_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    start_logging(Path("/dev/full"))
    for _ in range(2):
        log.debug("a line")

    assert capsys.readouterr().err == "/dev/full: cannot be written: [Errno 28] No space left on device\n"
