"""What messages tell users to type is there: options, commands and keys of the config."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import palate
from palate.cli import _parser
from palate.config import Config, _keys

COMMANDS = next(action.choices for action in _parser()._actions if isinstance(action.choices, dict))
OPTIONS = {name: {*command._option_string_actions} for name, command in COMMANDS.items()}
KEYS = {".".join(path) for path in _keys(Config)}
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
KEY = re.compile(rf"(?<![\w./])(?:{'|'.join(path[0] for path in _keys(Config) if len(path) == 2)})\.[a-z_]+\b(?![(./])")
FILES = (".json", ".jsonl", ".csv", ".dat", ".parquet", ".npy", ".safetensors")


def _texts() -> Iterator[tuple[str, str]]:
    """Every literal text of several words with its place, docstrings and pip's options left out."""
    for path in sorted(Path(palate.__file__).parent.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            text = node.value if isinstance(node, ast.Constant) and id(node) not in docs else None
            if isinstance(text, str) and " " in text and not text.startswith("pip install"):
                yield f"{path.name}:{node.lineno}", text


TEXTS = list(_texts())


def test_every_option_and_key_that_a_text_names_exists() -> None:
    known = {option for options in OPTIONS.values() for option in options}
    wrong = [(place, name) for place, text in TEXTS for name in OPTION.findall(text) if name not in known]
    wrong += [
        (place, name)
        for place, text in TEXTS
        for name in KEY.findall(text)
        if name not in KEYS and not name.endswith(FILES)
    ]
    assert not wrong


def test_every_command_that_a_text_names_exists_and_has_its_options() -> None:
    found = [(place, name) for place, text in TEXTS for name in re.findall(r"`palate ([^`]*)`", text)]
    assert len(found) > 30
    for place, line in found:
        command, *words = line.split()
        assert command in COMMANDS, place
        assert {*OPTION.findall(" ".join(words))} <= OPTIONS[command], place
