"""The command line in this process: what a process of its own prints and returns, without the imports it would need."""

import io
import logging
from contextlib import chdir, nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path
from subprocess import CompletedProcess

from palate.cli import main


def palate(*words: str | Path, cwd: Path | None = None) -> CompletedProcess[str]:
    """One command, in the folder `cwd`."""
    args = [str(word) for word in words]
    forget_log()
    place = chdir(cwd) if cwd else nullcontext()
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err, place:
        try:
            code = main(args)
        except SystemExit as stop:  # of --help
            code = int(stop.code or 0)
    forget_log()
    return CompletedProcess(args, code, out.getvalue(), err.getvalue())


def forget_log() -> None:
    """Close where the log went; the next command opens its own."""
    if logging.getLogger("palate").handlers:
        from palate.console import end_log

        end_log()
