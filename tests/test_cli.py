"""What the command does where nobody reads its output, and with what it cannot print as it stands."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from palate.cli import main


@pytest.mark.parametrize("words", [["--help"], ["cache"], ["cache", "--json"]])
@pytest.mark.parametrize("end", ["closed", "gone"])
def test_an_output_that_nobody_reads_is_no_error(words: list[str], end: str) -> None:
    command = [sys.executable, "-m", "palate", *words]
    if end == "closed":
        done = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *command], stderr=subprocess.PIPE)
    else:
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE)
        os.close(writing)
    assert done.stderr.decode() == ""
    assert done.returncode == 0


@pytest.mark.parametrize("name", ["n" * 300, "file", "file/out"])
def test_an_output_that_can_be_no_folder_is_wrong_input(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "ratings").mkdir()
    rows = "".join(f"{user},{item},{(user + item) % 5 + 1},{item}\n" for user in range(8) for item in range(40))
    (tmp_path / "ratings/ratings.csv").write_text(f"userId,movieId,rating,timestamp\n{rows}")
    titles = "".join(f"{item},Film {item}\n" for item in range(40))
    (tmp_path / "ratings/movies.csv").write_text(f"movieId,title\n{titles}")
    assert main(["prepare", "--ratings", str(tmp_path / "ratings"), "--out", str(tmp_path / name)]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")


def test_a_name_with_control_characters_is_shown_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "--ratings", str(tmp_path / "a\nb\x1b[31m"), "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert r"a\nb\x1b[31m" in told
    assert told.count("\n") == 1


def test_help_imports_neither_the_config_nor_a_library_of_a_stage() -> None:
    code = (
        "import contextlib, sys; from palate.cli import main\n"
        "with contextlib.suppress(SystemExit): main(['--help'])\n"
        "print(*sorted(sys.modules), file=sys.stderr)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr.split()

    assert "palate.cli" in loaded
    assert not {"pydantic", "yaml", "numpy", "polars", "rich", "torch", "transformers"} & set(loaded)
