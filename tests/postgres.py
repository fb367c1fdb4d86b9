"""A real PostgreSQL server on a socket of its own, by Debian's binaries."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


def why_not() -> str | None:
    """Why no server can be started here; None if one can."""
    try:
        import psycopg  # noqa: F401
    except ModuleNotFoundError:
        return "psycopg is not installed"
    if not BINARIES:
        return "PostgreSQL is not installed in /usr/lib/postgresql"
    if os.geteuid() == 0 and (shutil.which("runuser") is None or not Path("~postgres").expanduser().is_absolute()):
        return "PostgreSQL does not run as root, and there is no user postgres"
    return None


@contextmanager
def serving() -> Iterator[str]:
    """The URL of an empty database; its folder is removed with the server. Skips the test where there is none."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # a socket's path is short
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
    data = folder / "data"
    options = f"-k {folder} -c listen_addresses= -c shared_buffers=16MB"
    try:
        _run("initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync", "--no-locale", "-E", "UTF8")
        _run("pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", options, "start")
        try:
            yield f"postgresql:///postgres?host={folder}&user=postgres"
        finally:
            _run("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def restart(url: str) -> None:
    """End the server as a crash would, and start it again."""
    data = Path(url.partition("host=")[2].partition("&")[0]) / "data"
    _run("pg_ctl", "-D", data, "-w", "-m", "immediate", "-l", data.parent / "log", "restart")


def _run(program: str, *words: str | Path) -> None:
    """Run a program of PostgreSQL, as the user postgres if this is root, who may not."""
    command = [str(BINARIES[-1] / program), *map(str, words)]
    if os.geteuid() == 0:
        command = ["runuser", "-u", "postgres", "--", *command]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, cwd="/", timeout=60)
