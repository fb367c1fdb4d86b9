"""Ledger: what each finished stage was made from, so that it is not done twice."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from palate import __version__
from palate.config import Config
from palate.store.artifacts import sha256_file, write_json
from palate.store.hub import locate


class Ledger:
    """What each finished stage was made from, and the hashes of what it left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "stages.json"
        try:
            self.entries: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self.entries = {}

    def reason(self, stage: str, made_from: Mapping[str, Any], outputs: list[Path]) -> str | None:
        """Why a stage has to run; None if it need not."""
        entry = self.entries.get(stage)
        if entry is None:
            return "not done yet"
        then, now = entry["made_from"], json.loads(json.dumps(dict(made_from)))
        changed = [key for key in now if then.get(key) != now[key]]
        if changed:
            return f"{' and '.join(changed)} changed"
        for path in outputs:
            known = entry["outputs"].get(self._name(path))
            if known is None or not path.is_file() or sha256_file(path) != known:
                return f"{path} is missing or was changed"
        return None

    def note(self, stage: str, made_from: Mapping[str, Any], outputs: list[Path]) -> None:
        """Remember a finished stage."""
        hashes = {self._name(path): sha256_file(path) for path in outputs}
        self.entries[stage] = {"made_from": dict(made_from), "outputs": hashes}
        write_json(self.path, self.entries)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else path.as_posix()


def reading(config: Config) -> dict[str, Any]:
    """What decides how a model reads a sample."""
    return {
        "model": model_identity(config),
        "tokenizer": config.tokenizer_name,
        "prompt": config.prompt.model_dump(mode="json"),
        "cutoff_len": config.tokens.cutoff_len,
        "truncation": config.tokens.truncation,
        "palate": __version__,
    }


def model_identity(config: Config) -> dict[str, Any]:
    """What tells one base model from another without loading it: name, revision, and a local file's state."""
    location = locate(config.model.base)
    identity: dict[str, Any] = config.model.model_dump(mode="json")
    if location.path is not None:
        files = (
            [location.path] if location.path.is_file() else sorted(p for p in location.path.iterdir() if p.is_file())
        )
        identity["files"] = {p.name: [p.stat().st_size, p.stat().st_mtime_ns] for p in files}
    return identity
