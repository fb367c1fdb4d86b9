"""`Lookup`: find the items that a file names by id or title."""

import difflib
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl

from palate.errors import InputError

LONG = 200
"""Maximum length of a title, in characters; messages shorten longer values."""


@dataclass(frozen=True)
class Lookup:
    """Finds rows of an item table (`item_id`, `title`) by a text that a user typed."""

    items: pl.DataFrame

    def by_id(self, text: str, file: Path | str, line: int | None = None) -> int:
        """The row of an item's id; raises `InputError` if there is none."""
        row = self._ids.get(text.strip())
        if row is None:
            shown = shortened(repr(text.strip()))
            raise InputError(f"there is no item {shown}, expected an item_id of the item table", file, line)
        return row

    def by_title(self, title: str, file: Path | str, line: int | None = None) -> int:
        """The row of a title: an exact match, else one that ignores case.

        Raises `InputError` with the closest title if no item has this title, and if several have it.
        """
        title = title.strip()
        rows = self.titles.get(title) or self._folded.get(title.casefold(), [])
        if len(rows) > 1:
            ids = ", ".join(str(self.items["item_id"][row]) for row in rows[:3])
            raise InputError(f"{title!r} is the title of {len(rows)} items, expected an item_id: {ids}", file, line)
        if not rows:
            near = self.nearest(title) if len(title) <= LONG else None
            remark = f"did you mean {near!r}?" if near else "expected one of the item table"
            raise InputError(f"there is no title {shortened(repr(title))}, {remark}", file, line)
        return rows[0]

    def has_title(self, title: str) -> bool:
        """Whether an item has this title, in any case."""
        return title in self.titles or title.casefold() in self._folded

    def by_either(self, text: str, file: Path | str, line: int | None = None) -> int:
        """The row of an id, else of a title."""
        row = self._ids.get(text.strip())
        return self.by_title(text, file, line) if row is None else row

    def nearest(self, title: str) -> str | None:
        """The most similar title, whatever the order of its words; None if no title is similar."""
        key = _key(title)
        near = difflib.get_close_matches(key, self._keys, n=1, cutoff=0.6)
        if not near:  # the ratio of a few words to a long title is below the cutoff
            words = set(key.split())
            near = [other for other in self._keys if words and words <= set(other.split())][:1]
        return str(self.items["title"][self._keys[near[0]]]) if near else None

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {str(item): row for row, item in enumerate(self.items["item_id"].to_list())}

    @cached_property
    def titles(self) -> dict[str, list[int]]:
        """The rows of each exact title."""
        return _grouped(self.items["title"].to_list())

    @cached_property
    def _folded(self) -> dict[str, list[int]]:
        return _grouped([title.casefold() for title in self.items["title"].to_list()])

    @cached_property
    def _keys(self) -> dict[str, int]:
        return {_key(title): row for row, title in reversed(list(enumerate(self.items["title"].to_list())))}


def shortened(text: str) -> str:
    """A value from a file for a message: only its beginning if it is long."""
    return text if len(text) <= LONG else f"{text[:80]}…"


def _grouped(titles: list[str]) -> dict[str, list[int]]:
    rows = defaultdict(list)
    for row, title in enumerate(titles):
        rows[title.strip()].append(row)
    return rows


def _key(title: str) -> str:
    """A title's words in alphabetical order without the year: "The Matrix" has the key of "Matrix, The (1999)"."""
    undated = re.sub(r"\(\d{4}\)", "", title.casefold())
    return " ".join(sorted(re.findall(r"\w+", undated))) or title.casefold()
