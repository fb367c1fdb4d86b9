"""Configs in YAML."""

from pathlib import Path
from random import Random
from typing import Any

import yaml
from tests.fuzz.case import Case, Fault, Outcome, refusal
from tests.fuzz.mutations import NASTY, damage_bytes

from palate.config import Config, dump_config, load_config
from palate.errors import PalateError

VALUES = (
    *NASTY, "~", "yes", "no", "on", "[1, 2]", "{a: 1}", "!!python/object:os.system x", "!!binary aGk=", "!!set {a, b}",
    "*a", "&a 1", "&a [*a]", "<<: 1", "2001-99-99", "0o17", "0b1", "1:30", ".inf", "-.inf", ".nan", "|\n  text",
    ">-\n  x", "1e-4", "1_000", "null", "- 1", "? x", "@x", "`x`", "%x", "[" * 60, "{a: " * 60,
)  # fmt: skip
BYTES = (
    b":", b": ", b"-", b"- ", b"\n", b"\n\n", b"  ", b"\t", b"#", b"&a ", b"*a", b"<<: *a", b"!!", b"|", b">", b"[",
    b"]", b"{", b"}", b"'", b'"', b"\\", b"\x00", b"\xff", b"---\n", b"...\n", b"%YAML 9\n", b"\xef\xbb\xbf",
    b"\xc2\x85", b"? ",
)  # fmt: skip
LINES = dump_config(Config()).splitlines()


def make_config(draw: Random, folder: Path) -> Case:
    """The config with all its keys, of which some are left out, moved, or given other values."""
    sections = [n for n, line in enumerate(LINES) if line[0] not in " -"]
    chosen = sorted(draw.sample(sections, draw.randint(1, min(4, len(sections)))))
    lines = []
    for at in chosen:
        end = next((n for n in sections if n > at), len(LINES))
        lines += LINES[at:end]
    for _ in range(draw.choice((0, 1, 1, 2, 3))):
        at = draw.randrange(len(lines))
        key = lines[at].partition(":")[0]
        match draw.randrange(6):
            case 0 | 1 | 2:
                lines[at] = f"{key}: {draw.choice(VALUES)}"
            case 3:
                lines.insert(draw.randint(0, len(lines)), draw.choice(lines))
            case 4:
                lines[at] = f"{key}x: 1" if draw.random() < 0.5 else f"{draw.choice(NASTY)}: 1"
            case 5:
                del lines[at:]
                lines.append("train:")
    content = "\n".join(lines).encode()
    content = damage_bytes(draw, content, BYTES) if draw.random() < 0.4 else content
    (folder / "config.yaml").write_bytes(content)
    return Case(folder / "config.yaml", len(content))


def check_config(case: Case, seed: int) -> Outcome:
    """Each key of the file is in the config, with the value that PyYAML's own loader reads."""
    try:
        found = load_config(case.path)
    except PalateError as error:
        return refusal(error, case.path.parent)
    text = case.path.read_bytes().decode()
    try:
        values = yaml.safe_load(text) or {}
        _refuse_twice(yaml.compose(text, Loader=yaml.SafeLoader), 0)
    except (yaml.YAMLError, ValueError) as error:
        raise Fault(f"was read, but PyYAML does not: {error}") from None
    for key, value in _leaves(values):
        target: Any = found.model_dump(mode="python")
        for part in key:
            target = target.get(part, "missing") if isinstance(target, dict) else target
        if not _alike(value, target):
            raise Fault(f"{'.'.join(map(str, key))} is {value!r} in the file, {target!r} in the config")
    return "read"


def _leaves(values: Any, key: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], Any]]:
    if isinstance(values, dict) and values:
        return [leaf for name, value in values.items() for leaf in _leaves(value, (*key, name))]
    return [(key, values)]


def _alike(value: Any, target: Any) -> bool:
    """Whether a value of the config is that of the file, in another type."""
    if value == target or value is None or isinstance(value, list | dict | bool | bytes) or isinstance(target, bool):
        return True
    if isinstance(target, int | float):
        return float(value) == target
    return str(value) == str(target) or isinstance(target, tuple | dict)


def _refuse_twice(node: Any, depth: int) -> None:
    if isinstance(node, yaml.MappingNode) and depth < 4:
        keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(keys) != len(set(keys)):
            raise ValueError(f"a key of {keys} is there twice")
        for _, value in node.value:
            _refuse_twice(value, depth + 1)
