"""The JSON records that Palate writes and reads again."""

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.case import Case, Fault, Outcome, refusal
from tests.fuzz.mutations import BYTES, NASTY, damage_bytes

from palate.commands.ledger import Ledger
from palate.errors import PalateError
from palate.report.outcome import read_metrics
from palate.store.manifest import PREPARE_AGAIN, PreparedManifest, read_manifest

METRICS = {
    "entries": [{"key": "m", "kind": "model", "metrics": {"auc": 0.5}}],
    "ladder": {"use": "m"},
    "verdict": ["a"],
}
MANIFEST = {
    "palate": "0.1.0",
    "stage": "prepare",
    "inputs": {"ratings.csv": "0"},
    "options": {"prepare": {"history_len": 3, "rating_threshold": 4.0}, "prompt": {"yes": "Yes"}, "seed": 13},
    "stats": {"name": "log", "users": 1, "items": 2, "ratings": 3, "samples": {"train": 1, "val": 2, "test": 3}},
    "outputs": {"ratings.parquet": "0", "items.parquet": "0"},
}
RECORDS = {
    "manifest": MANIFEST,
    "metrics": METRICS,
    "stages": {"train": {"made_from": {"a": 1}, "outputs": {"b": "0"}}},
}
VALUES = (None, True, -1, 0, 2**70, 1e308, "", [], {}, [[]], {"": {}})


def make_record(draw: Random, folder: Path) -> Case:
    """A record of which a few values are left out or others, or bytes are damaged."""
    name = draw.choice(sorted(RECORDS))
    record = json.loads(json.dumps(RECORDS[name]))
    for _ in range(draw.choice((0, 1, 1, 2))):
        if not (places := [*_places(record)]):
            break
        inside, key = draw.choice(places)
        if draw.random() < 0.3:
            del inside[key]
        else:
            inside[key] = draw.choice((*VALUES, *NASTY))
    content = json.dumps(record).encode()
    content = damage_bytes(draw, content, BYTES) if draw.random() < 0.3 else content
    (folder / f"{name}.json").write_bytes(content)
    return Case(folder / f"{name}.json", len(content))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """All places of a record: what holds the value, and its key there."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield value, key
        yield from _places(inner)


def check_record(case: Case, seed: int) -> Outcome:
    """What is read can be used as commands use it."""
    folder = case.path.parent
    try:
        if case.path.stem == "metrics":
            found = read_metrics(case.path)
            rows = [row["key"] + row["kind"] for row in found.get("entries") or ()]
            used = [*rows, *(found.get("verdict") or ()), (found.get("ladder") or {"use": ""})["use"]]
        elif case.path.stem == "stages":
            ledger = Ledger(folder)
            used = [ledger.reason(stage, {"a": 1}, [folder / "b"]) or "" for stage in ledger.entries]
        else:
            found = read_manifest(case.path, PREPARE_AGAIN, PreparedManifest)
            count = sum(found["stats"]["samples"][name] for name in ("train", "val", "test"))
            used = [found["stats"]["name"], str(count + found["options"]["prepare"]["history_len"]), *found["outputs"]]
    except PalateError as error:
        return refusal(error, folder)
    if not all(isinstance(each, str) for each in used):
        raise Fault(f"has {used}")
    return "read"
