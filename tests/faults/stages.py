"""The stages that run with faults."""

from pathlib import Path

from tests.acceptance.ratings import write_ratings
from tests.faults.rounds import Stage
from tests.small import small_tokenizer


def _log(root: Path) -> None:
    write_ratings(root / "log", users=12, each=20, items=30)


def _tokenizer(root: Path) -> None:
    _log(root)
    small_tokenizer().save_pretrained(root / "tokenizer")


PREPARE = Stage(
    "prepare",
    lambda root: ["prepare", "--ratings", f"{root}/log", "--out", f"{root}/out"],
    _log,
)
TOKENIZE = Stage(
    "tokenize",
    lambda root: ["tokenize", "--ratings", f"{root}/log", "--tokenizer", f"{root}/tokenizer", "--out", f"{root}/out"],
    _tokenizer,
)
