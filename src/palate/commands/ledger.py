"""Ledger: what each finished stage was made from, so that it is not done twice."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import RootModel

from palate import __version__
from palate.config import Config
from palate.store.artifacts import sha256_file, write_json
from palate.store.hub import locate
from palate.store.keys import Key, as_recorded, changed, damage_in, recorded
from palate.store.manifest import Record, check_record

SHORT = 40
"""Characters of a value up to which a reason shows it."""


class _Stage(Record):
    made_from: dict[str, Any]
    outputs: dict[str, str]


class _Stages(RootModel[dict[str, _Stage]]):
    pass


class Ledger:
    """What each finished stage was made from, and the hashes of what it left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "stages.json"
        self.entries = recorded(self.path)
        check_record(self.entries, _Stages, self.path, "remove the file to do all stages again")

    def reason(self, stage: str, made_from: Mapping[str, Any], outputs: list[Path]) -> str | None:
        """Why a stage has to run; None if it need not."""
        entry = self.entries.get(stage)
        if entry is None:
            return "not done yet"
        known = {name: entry["outputs"].get(name, "") for name in map(self._name, outputs)}
        damage = damage_in(self.folder, known)
        return changes(entry["made_from"], made_from) or (str(damage) if damage else None)

    def note(self, stage: str, made_from: Mapping[str, Any], outputs: list[Path]) -> None:
        """Remember a finished stage."""
        hashes = {self._name(path): sha256_file(path) for path in outputs}
        self.entries[stage] = {"made_from": dict(made_from), "outputs": hashes}
        write_json(self.path, self.entries)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else path.as_posix()


def changes(then: Key, now: Key) -> str:
    """The entries that differ: `train.learning_rate changed from 0.0001 to 0.0002`; empty if there are none."""
    then, now = flat(as_recorded(then)), flat(as_recorded(now))
    changes = []
    for name in changed(then, now):
        values = [str(key.get(name)) for key in (then, now)]
        shown = name in then and name in now and all(len(value) <= SHORT for value in values)
        changes.append(f"{name} changed from {values[0]} to {values[1]}" if shown else f"{name} changed")
    return ", ".join(changes)


def flat(options: Any, prefix: str = "") -> dict[str, Any]:
    """Nested options by dotted names; empty for anything but a mapping."""
    found: dict[str, Any] = {}
    for key, value in options.items() if isinstance(options, Mapping) else ():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def reading(config: Config) -> dict[str, Any]:
    """What decides how a model reads a sample."""
    return {
        "model": model_identity(config),
        "tokenizer": config.tokenizer_name,
        "prompt": config.prompt.model_dump(mode="json"),
        "tokens": {"cutoff_len": config.tokens.cutoff_len, "truncation": config.tokens.truncation},
        "palate": __version__,
    }


def training(config: Config) -> dict[str, Any]:
    """What decides the trained weights, beside data and seed."""
    drawn = {"unrated pairs": config.seed} if config.train.unrated else {}
    return {**reading(config), "train": config.train.decisive(), **drawn}


def model_identity(config: Config) -> dict[str, Any]:
    """What distinguishes base models without loading them: name, revision, and a local file's state."""
    location = locate(config.model.base)
    identity: dict[str, Any] = config.model.model_dump(mode="json")
    if location.path is not None:
        files = (
            [location.path] if location.path.is_file() else sorted(p for p in location.path.iterdir() if p.is_file())
        )
        identity["files"] = {p.name: [p.stat().st_size, p.stat().st_mtime_ns] for p in files}
    return identity
