"""Write GGUF files with llama.cpp's converter, which the user must install."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from palate.errors import InputError, WorkError

TYPES = ("f16", "bf16", "q8_0", "f32")
"""The converter's formats that are exact enough to be compared with the model."""
SCRIPT = "convert_hf_to_gguf.py"
NAMES = (SCRIPT, "convert-hf-to-gguf")


def find_converter(named: Path | None) -> Path:
    """The converter at the path `named`, else the one in the folder `$LLAMA_CPP`, else one on the PATH.

    Raises `InputError` if none is found.
    """
    if named is not None:
        if not named.is_file():
            raise InputError(f"not found, expected llama.cpp's {SCRIPT}", named)
        return named
    folder = os.environ.get("LLAMA_CPP")
    if folder:
        if not (Path(folder) / SCRIPT).is_file():
            raise InputError(f"holds no {SCRIPT}, expected llama.cpp's source folder in $LLAMA_CPP", folder)
        return Path(folder) / SCRIPT
    for name in NAMES:
        found = shutil.which(name)
        if found:
            return Path(found)
    raise InputError(
        f"needs llama.cpp's {SCRIPT}, which is not on the PATH: "
        "name it with --converter, or set LLAMA_CPP to llama.cpp's source folder",
        "--gguf",
    )


def convert(converter: Path, model: Path, file: Path, kind: str) -> None:
    """Run the converter on a model folder; it writes a GGUF file of one of `TYPES`.

    Raises `WorkError` with the converter's last line if it fails.
    """
    # A script runs under this Python, where the packages that it imports are installed.
    program = [sys.executable, str(converter)] if converter.suffix == ".py" else [str(converter)]
    command = [*program, str(model), "--outfile", str(file), "--outtype", kind]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise WorkError(f"{converter}: cannot be run, --converter names another: {error.strerror or error}") from error
    if done.returncode or not file.is_file():
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        last = lines[-1] if lines else "it wrote no message"
        raise WorkError(f"{converter}: failed with exit code {done.returncode}: {last}")
