"""Inspect and prune the cache."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.cells import cell_len
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from palate import console
from palate.errors import InputError
from palate.store.artifacts import DAY
from palate.store.cache import Cache, CacheItem

USELESS = ("damaged", "unfinished")
STYLES = {"damaged": "red", "unfinished": "yellow", "being made": "cyan", "unchecked": "dim"}
WIDE = 110
"""Columns of a terminal that fits the whole key."""


@dataclass(frozen=True)
class CacheChoice:
    """The criteria of `palate cache prune`: an entry must meet all; without any, unusable entries."""

    kind: str | None = None
    older_than: float | None = None
    """Days since the last use."""
    damaged: bool = False
    everything: bool = False

    def __post_init__(self) -> None:
        if self.older_than is not None and not 0 <= self.older_than < math.inf:
            raise InputError(f"{self.older_than:g} is no number of days, expected 0 or more", "--older-than")
        if self.everything and (self.kind or self.damaged or self.older_than is not None):
            raise InputError("selects all entries, expected no --kind, --older-than or --damaged beside it", "--all")

    def takes(self, item: CacheItem, now: float) -> bool:
        """Whether an item is to be removed."""
        if self.everything:
            return True
        if self.kind not in (None, item.kind):
            return False
        if (self.damaged or self == CacheChoice()) and item.state not in USELESS:
            return False
        if self.older_than is None:
            return True
        # The last use of other programs' files is unknown: loading a model does not write to it.
        return bool(item.key) and item.used is not None and now - item.used >= self.older_than * DAY


def show_caches(*, kind: str | None = None, verify: bool = False, as_json: bool = False) -> None:
    """Print the entries of one kind or all; `verify` reads every byte to find damage."""
    cache = Cache()
    items = [item for item in _items(cache, kind, verify) if kind in (None, item.kind)]
    size, useless = _size(items), [item for item in items if item.state in USELESS]
    if as_json:
        console.print_json({"folder": str(cache.folder), "size": size, "items": [_described(item) for item in items]})
    elif not items:
        _print(f"the cache is empty: {cache.folder}")
    else:
        console.out.print(table(items, console.out.width, time.time()))
        remark = f"; {decimal(_size(useless))} of it useless, palate cache --prune removes that" if useless else ""
        _print(f"{decimal(size)} in {cache.folder}{remark}")


def prune(choice: CacheChoice, *, verify: bool = False, dry_run: bool = False, as_json: bool = False) -> None:
    """Remove the chosen entries, and print them and the freed size."""
    cache, now = Cache(), time.time()
    removed: list[CacheItem] = []
    kept: list[CacheItem] = []
    for item in _items(cache, choice.kind, verify):
        if not choice.takes(item, now):
            continue
        gone = item.state != "being made" and (dry_run or cache.remove(item))
        (removed if gone else kept).append(item)
        if not as_json:
            verb = ("would remove" if dry_run else "removed") if gone else "kept"
            condition = _condition(item, now) if gone else "it is in use"
            _print(f"{verb} {_title(item)}, {decimal(item.size)}, {condition}")
    freed = _size(removed)
    if as_json:
        done = {"folder": str(cache.folder), "dry_run": dry_run, "freed": freed}
        console.print_json(done | {"removed": [_described(i) for i in removed], "kept": [_described(i) for i in kept]})
    elif removed:
        _print(f"{decimal(freed)} {'would be ' if dry_run else ''}freed in {cache.folder}")
    else:
        _print(f"nothing to remove in {cache.folder}")


def table(items: Sequence[CacheItem], width: int, now: float) -> Table:
    """The items as a table that fits into `width` columns."""
    wide = width >= WIDE
    rows = [
        (
            item.kind,
            item.name or "–",
            item.key[: None if wide else 8] or "–",
            decimal(item.size),
            _ago(item.made, now),
            _ago(item.used, now),
            item.state,
        )
        for item in items
    ]
    heads = ("kind", "what", "key", "size", "made", "last used", "state")
    gap = 2 if wide else 1
    taken = sum(max(map(cell_len, column)) for column in zip(heads, *rows, strict=True)) + gap * len(heads)
    longest = max(cell_len(row[1]) for row in rows)
    shown = Table(box=None, padding=(0, gap, 0, 0))
    for head in heads:
        # Only the name may be shortened: rich would shorten every column.
        room = max(8, width - taken + longest) if head == "what" else None
        right = head in ("size", "made", "last used")
        shown.add_column(head, justify="right" if right else "left", no_wrap=True, max_width=room)
    for item, (kind, what, *middle, state) in zip(items, rows, strict=True):
        shown.add_row(Text(kind, style="cyan"), Text(what), *middle, Text(state, style=STYLES.get(item.state, "")))
    return shown


def _items(cache: Cache, kind: str | None, verify: bool) -> list[CacheItem]:
    items = cache.items(hashes=verify)
    kinds = sorted({item.kind for item in items})
    # An empty cache has no kinds, and pruning it is not an error.
    if kind is not None and kinds and kind not in kinds:
        raise InputError(f"{cache.folder} holds no {kind!r}, expected {', '.join(kinds)}", "--kind")
    return items


def _print(text: str) -> None:
    console.out.print(text, soft_wrap=True)


def _size(items: Sequence[CacheItem]) -> int:
    return sum(item.size for item in items)


def _title(item: CacheItem) -> str:
    """The name of an item in a line."""
    named = f"{item.kind} of {item.name}" if item.key and item.name else item.kind
    return f"{named} ({item.key[:8] or item.name})"


def _condition(item: CacheItem, now: float) -> str:
    if item.damage:
        return f"damaged: {item.damage}"
    return f"last used {_ago(item.used, now)}" if item.state == "whole" else item.state


def _ago(then: float | None, now: float) -> str:
    """The time since `then` in its largest whole unit."""
    if then is None:
        return "–"
    for seconds, unit in ((DAY, "d"), (3600.0, "h"), (60.0, "min")):
        if now - then >= seconds:
            return f"{int((now - then) / seconds)} {unit} ago"
    return "now"


def _described(item: CacheItem) -> dict[str, Any]:
    """An item for `--json`: sizes in bytes, times in ISO 8601."""
    found: dict[str, Any] = {"kind": item.kind, "name": item.name, "key": item.key or None, "path": str(item.path)}
    found["size"] = item.size
    for name, at in (("made", item.made), ("used", item.used)):
        found[name] = None if at is None else datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
    return found | {"state": item.state, "damage": item.damage or None}
