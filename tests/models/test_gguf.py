"""llama.cpp's converter is looked for in three places, and asked for where there is none."""

import os
from pathlib import Path

import pytest

from palate.errors import InputError, WorkError
from palate.models.gguf import convert, find_converter


@pytest.fixture(autouse=True)
def nothing_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLAMA_CPP", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))


def script(path: Path, text: str = "#!/bin/sh\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_none_is_asked_for_with_the_remedy() -> None:
    with pytest.raises(InputError, match=r"^--gguf: needs llama.cpp's convert_hf_to_gguf.py, .*--converter.*LLAMA_CPP"):
        find_converter(None)


def test_the_named_one_comes_first_then_the_folder_then_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_path = script(tmp_path / "convert-hf-to-gguf")
    assert find_converter(None) == on_path
    other = script(tmp_path / "convert_hf_to_gguf.py")
    assert find_converter(None) == other
    in_folder = script(tmp_path / "llama.cpp" / "convert_hf_to_gguf.py")
    monkeypatch.setenv("LLAMA_CPP", str(in_folder.parent))
    assert find_converter(None) == in_folder
    assert find_converter(on_path) == on_path


def test_places_that_hold_none_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"absent\.py: not found"):
        find_converter(tmp_path / "absent.py")
    monkeypatch.setenv("LLAMA_CPP", str(tmp_path))
    with pytest.raises(InputError, match=f"{tmp_path}: holds no convert_hf_to_gguf.py"):
        find_converter(None)


def test_a_converter_that_fails_has_the_last_word(tmp_path: Path) -> None:
    failing = script(
        tmp_path / "fails.py", "import sys\nprint('loading', file=sys.stderr)\nsys.exit('no such thing')\n"
    )
    with pytest.raises(WorkError, match=r"fails.py: failed with exit code 1: no such thing$"):
        convert(failing, tmp_path, tmp_path / "x.gguf", "f16")
    silent = script(tmp_path / "silent.py", "")
    with pytest.raises(WorkError, match=r"silent.py: failed with exit code 0: it wrote no message$"):
        convert(silent, tmp_path, tmp_path / "x.gguf", "f16")
    not_a_program = tmp_path / "convert-hf-to-gguf"
    not_a_program.write_text("x")
    with pytest.raises(
        WorkError, match="convert-hf-to-gguf: cannot be run, --converter names another: Permission denied"
    ):
        convert(not_a_program, tmp_path, tmp_path / "x.gguf", "f16")


def test_a_program_is_run_by_itself_and_a_script_by_this_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", os.defpath)  # what the shell script needs
    program = script(tmp_path / "convert-hf-to-gguf", '#!/bin/sh\necho "$@" > "$3"\n')
    convert(program, tmp_path / "model", tmp_path / "x.gguf", "q8_0")
    assert (tmp_path / "x.gguf").read_text() == (
        f"{tmp_path / 'model'} --outfile {tmp_path / 'x.gguf'} --outtype q8_0\n"
    )
    written = "import sys\nopen(sys.argv[3], 'w').write(sys.executable)\n"
    convert(script(tmp_path / "c.py", written), tmp_path / "model", tmp_path / "y.gguf", "f16")
    assert "python" in (tmp_path / "y.gguf").read_text()
