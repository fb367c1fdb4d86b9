"""What the command does where nobody reads its output, and with what it cannot print as it stands."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from tests.acceptance.ratings import write_ratings

from palate.cli import _parser, main
from palate.console import begin_log
from palate.progress import Meter, working


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


@pytest.mark.parametrize("place", ["s3://bucket/x", "memory://x", "file:///tmp/x"])
@pytest.mark.parametrize("words", ["prepare --set data_dir=URL", "plan --set run_dir=URL"])
def test_a_url_in_a_key_of_a_folder_is_refused(
    words: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words.replace("URL", place).split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"'{place}' is a URL, expected a path, or the URL after --out" in line
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    "words", ["train --config URL", "tokenize --out URL", "compare URL b", "doctor --json URL.json"]
)
def test_a_url_of_no_known_store_is_refused(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PALATE_CACHE_DIR", str(tmp_path))
    assert main(words.replace("URL", "abc://bucket/x").split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "abc://bucket/x" in line
    assert "is of no known protocol" in line
    assert not [*tmp_path.iterdir()]


def test_a_name_with_control_characters_is_shown_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "--ratings", str(tmp_path / "a\nb\x1b[31m"), "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert r"a\nb\x1b[31m" in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("lenghts", "no command 'lenghts', did you mean 'lengths'? palate --help lists all"),
        ("xyz", "no command 'xyz'; palate --help lists all"),
        ("", "missing COMMAND; palate --help shows the usage"),
        ("compare", "missing RUN; palate compare --help shows the usage"),
        (
            "lengths --cutof-len 512",
            "palate lengths has no option '--cutof-len', did you mean '--cutoff-len'? palate lengths --help lists all",
        ),
        ("train a b", "palate train has no argument 'b'; palate train --help lists all"),
        ("lengths --cutoff-len", "--cutoff-len: expected one value"),
        ("lengths --cutoff-len 1k", "--cutoff-len: is '1k', expected a whole number, did you mean 1000?"),
        ("lengths --cutoff-len 1,024", "--cutoff-len: is '1,024', expected a whole number, did you mean 1024?"),
        ("train --max-samples 10%", "--max-samples: is '10%', expected a whole number"),
        ("prepare --val-ratio 5%", "--val-ratio: is '5%', expected a number from 0 to 1, did you mean 0.05?"),
        ("cache --older-than 3d", "--older-than: is '3d', expected a number of days, such as 7"),
        (
            "lengths --split tset",
            "--split/--on: is 'tset', expected one of train, eval, val, test, did you mean 'test'?",
        ),
    ],
)
def test_a_wrong_command_line_is_corrected_in_one_line(
    words: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words.split()) == 2
    assert capsys.readouterr() == ("", f"error: {line}\n")


@pytest.mark.skipif(sys.platform != "linux", reason="PyTorch has it on Linux alone")
@pytest.mark.parametrize("own", [None, "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_cudas_memory_grows_in_segments_unless_the_user_says_otherwise(
    own: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF"):
        monkeypatch.setenv(name, "")  # so that it is removed at the end
        monkeypatch.delenv(name)
    if own:
        monkeypatch.setenv(own, "backend:native")
    assert main(["completion", "bash"]) == 0
    found = {name: value for name, value in os.environ.items() if name.endswith("_ALLOC_CONF")}
    assert found == ({own: "backend:native"} if own else {"PYTORCH_ALLOC_CONF": "expandable_segments:True"})


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_names_every_command_and_option(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    dashes = "-l " if shell == "fish" else "--"
    for sub in (name for action in _parser()._actions if isinstance(name := action.choices, dict)):
        for name, parser in sub.items():
            assert re.search(rf"\b{name}\b", script)
            assert all(
                f"{dashes}{option[2:]}" in script for option in parser._option_string_actions if option[1] == "-"
            )


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("palate ex", ["export"]),
        ("palate lengths --cu", ["--cutoff-len"]),
        ("palate lengths runs/x --split ", ["train", "eval", "val", "test"]),
        ("palate --help completion z", ["zsh"]),
        ("palate train runs/", []),
    ],
)
def test_bash_completes_commands_options_and_choices(
    line: str, found: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["completion", "bash"])
    script = capsys.readouterr().out
    words = shlex.split(line) + ([""] if line.endswith(" ") else [])
    script += f"COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; complete -p palate >&2; _palate\n"
    script += r'printf "%s\n" "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "--norc", "-euc", script], capture_output=True, text=True)
    assert done.stderr == "complete -o default -F _palate palate\n"
    assert done.stdout.split() == found


def test_help_imports_neither_the_config_nor_a_library_of_a_stage() -> None:
    code = (
        "import contextlib, sys; from palate.cli import main\n"
        "with contextlib.suppress(SystemExit): main(['--help'])\n"
        "print(*sorted(sys.modules), file=sys.stderr)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr.split()

    assert "palate.cli" in loaded
    assert not {"pydantic", "yaml", "numpy", "polars", "rich", "torch", "transformers"} & set(loaded)


def test_memory_that_pytorch_does_not_get_is_reported_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr("palate.commands.doctor.doctor", lambda *_, **__: torch.empty(1 << 55))
    assert main(["doctor"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: out of memory: lower --memory, train.batch_size or evaluate.batch_size")
    assert told.count("\n") == 1


@pytest.mark.parametrize("module", ["argparse", "palate.cli", "pydantic", "numpy", "torch"])
def test_ctrl_c_during_the_imports_ends_with_one_line(module: str) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "palate", "doctor"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.rpartition("|")[2].strip() == module:
            process.send_signal(signal.SIGINT)
            break
    rest = [line for line in process.stderr if not line.startswith("import time:")]
    assert process.wait() == 130
    assert len(rest) == 1
    assert rest[0].startswith("interrupted")


@pytest.fixture(scope="module")
def ratings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ratings(tmp_path_factory.mktemp("ratings"), users=20)


@pytest.mark.parametrize("words", [["lengths", "-v"], ["--verbose", "lengths"], ["lengths"]])
def test_the_cache_is_mentioned_for_verbose_only(
    words: list[str], ratings: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--ratings", str(ratings), "--tokenizer", str(base)]) == 0
    assert ("cache" in capsys.readouterr().err) == (len(words) == 2)


@pytest.mark.parametrize(("verbose", "lines"), [(False, 3), (True, 13)])
def test_long_work_without_a_terminal_logs_a_line_a_minute(
    verbose: bool, lines: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    # Of this module alone: the event loops of services that other tests left running read the same clock.
    monkeypatch.setattr("palate.progress.time", SimpleNamespace(monotonic=lambda: now))
    begin_log(verbose=verbose)
    with Meter("scoring", 200) as meter:
        for _ in range(200):
            now += 1.0
            meter.advance(1)
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == lines
    assert all(len(line) < 80 for line in shown)


def test_a_long_call_shows_its_time_on_a_terminal_alone_even_while_stderr_is_dropped() -> None:
    shown, piped, dropped = StringIO(), StringIO(), StringIO()
    terminal = Console(file=shown, force_terminal=True)
    with working("loading [b]model", terminal), redirect_stderr(dropped), working("reading", Console(file=piped)):
        time.sleep(0.3)
    assert "loading [b]model" in shown.getvalue()
    assert "0:00:00" in shown.getvalue()
    assert shown.getvalue().endswith("\x1b[2K"), "the line is erased"
    assert (piped.getvalue(), dropped.getvalue()) == ("", "")
