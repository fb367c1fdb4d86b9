"""What the terminal shows: results on stdout, the course of the work on stderr."""

import logging
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler

out = Console()
err = Console(stderr=True)

log = logging.getLogger("palate")


def start_logging(file: Path | None = None) -> None:
    """Send the log to stderr, and to `file` with times."""
    log.setLevel(logging.INFO)
    log.propagate = False
    if not log.handlers:
        shown = RichHandler(console=err, show_time=False, show_path=False, show_level=False, highlighter=None)
        shown.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(shown)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        for old in [h for h in log.handlers if isinstance(h, logging.FileHandler)]:
            log.removeHandler(old)
            old.close()
        kept = logging.FileHandler(file, encoding="utf-8")
        kept.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        log.addHandler(kept)
