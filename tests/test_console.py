"""No control character of a text acts on a terminal, and an error is one line."""

import io
from pathlib import Path

import pytest
from rich.table import Table

from palate.console import Console, log, start_logging
from palate.errors import InputError


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


def test_a_log_on_a_full_disk_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    start_logging(Path("/dev/full"))
    for _ in range(2):
        log.debug("a line")

    assert capsys.readouterr().err == "/dev/full: cannot be written: [Errno 28] No space left on device\n"
