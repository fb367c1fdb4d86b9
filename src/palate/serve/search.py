"""`Catalogue`: the items by id, by exact title, and by a title that somebody mistyped."""

import difflib
import re
import sqlite3
import threading
import unicodedata
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from palate.recommend.lookup import Lookup
from palate.samples.people import Longs
from palate.serve import schemas

NEAR = 150
"""Titles with common trigrams that are compared letter by letter."""
SIMILAR = 0.75
"""The least similarity of a mistyped title, from 0 to 1: one wrong letter of four."""
BEHIND = 0.15
"""How much less similar than the best a title may be; a title with the query's words has similarity 1."""
INSIDE = 5
"""The place of titles that contain the query within a word."""
YEAR = re.compile(r"\d{4}")
ARTICLES = "the|a|an|le|la|les|l|il|el|der|die|das"


def plain(text: str) -> str:
    """A title in lower case without accents, punctuation and article: "matrix 1999" for "Matrix, The (1999)"."""
    text = unicodedata.normalize("NFKD", text.casefold())
    text = "".join(letter for letter in text if not unicodedata.combining(letter))
    text = re.sub(rf",\s+(?:{ARTICLES})\b(?=\s*(?:\(|:|$))", "", re.sub(r"['’]", "", text))
    text = re.sub(r"[^\w]+", " ", text).strip()
    return re.sub(rf"^(?:{ARTICLES}) (?=\S)", "", text)


@dataclass(frozen=True)
class Catalogue(Lookup):
    """Finds rows of the item table; several threads may ask at once."""

    ratings: Longs | None = field(default=None, repr=False, compare=False)
    """(items,): the number of ratings of each; None: unknown."""

    @cached_property
    def ids(self) -> list[Any]:
        """The id of each row."""
        return self.items["item_id"].to_list()

    @cached_property
    def names(self) -> list[str]:
        """The title of each row."""
        return self.items["title"].fill_null("").to_list()

    @cached_property
    def _plain(self) -> list[str]:
        return [plain(name) for name in self.names]

    @cached_property
    def _heads(self) -> list[str]:
        """The plain titles without what stands in parentheses."""
        return [plain(name.partition("(")[0]) for name in self.names]

    @cached_property
    def _index(self) -> tuple[sqlite3.Connection, threading.Lock]:
        """An FTS5 table of the plain titles by trigrams, with a space before the first word and after the last."""
        found = sqlite3.connect(":memory:", check_same_thread=False)
        found.execute("CREATE VIRTUAL TABLE title USING fts5(text, tokenize='trigram')")
        rows = ((row, f" {text} ") for row, text in enumerate(self._plain))
        found.executemany("INSERT INTO title(rowid, text) VALUES (?, ?)", rows)
        return found, threading.Lock()

    def row(self, item: schemas.Item, place: str) -> int:
        """The row of an item by id or title; raises `InputError` with the nearest title if there is none."""
        if item.title is not None:
            return self.by_title(item.title, place)
        return self.by_id(str(item.item_id), place)

    def known(self, item_id: int | str) -> int | None:
        """The row of an id; None if there is none."""
        return self._ids.get(str(item_id))

    def nearest(self, title: str) -> str | None:
        """The most similar title; None if no title is similar."""
        rows = self.search(title, 1)
        return self.names[rows[0]] if rows else None

    def search(self, query: str, limit: int) -> list[int]:
        """The rows of the closest titles, the closest first; none if no title is close.

        The order: the exact title, the whole title without accents, titles that begin with the query, titles with a
        word that does, titles that contain it, and titles that resemble it, for a query with wrong or missing letters
        or words: by `SIMILAR` at least, and no more than `BEHIND` the best; none of these if a whole title fits. Whole
        words come before beginnings of words. Among equals the item with more ratings comes first, then the shorter
        title, then the earlier row.
        """
        exact = self.titles.get(query.strip()) or self._folded.get(query.strip().casefold(), [])
        exact = sorted(exact, key=self._behind)
        text = plain(query)
        # Two letters have no trigram, and as a beginning of words they fit thousands of titles.
        found = [] if not text else self._containing(text) if len(text) > 2 else self._beginning(text)
        places = {row: self._place(row, text) for row in found}
        ranked = sorted(found, key=lambda row: (places[row], *self._behind(row)))
        ranked = list(dict.fromkeys([*exact, *ranked]))[:limit]
        best = 0 if exact else min(places.values(), default=INSIDE)
        if best and len(ranked) < limit and len(text) > 2:
            near = self._resembling(text, SIMILAR if best == INSIDE else 1 - BEHIND)
            ranked = list(dict.fromkeys([*ranked, *near]))[:limit]
        return ranked

    def _behind(self, row: int) -> tuple[int, int, int]:
        """The order of rows that fit a query alike."""
        return 0 if self.ratings is None else -int(self.ratings[row]), len(self._plain[row]), row

    def _place(self, row: int, text: str) -> int:
        title = f" {self._plain[row]} "
        if text in (title[1:-1], self._heads[row]):
            return 0
        fits = (title.startswith(f" {text} "), title.startswith(f" {text}"), f" {text} " in title, f" {text}" in title)
        return 1 + next((place for place, fit in enumerate(fits) if fit), INSIDE - 1)

    def _beginning(self, text: str) -> list[int]:
        return [row for row, title in enumerate(self._plain) if title.startswith(text)]

    def _containing(self, text: str) -> list[int]:
        return self._rows(f'"{text}"', 20_000, "rowid")

    def _resembling(self, text: str, least: float) -> list[int]:
        """Rows of similarity `least` or more, the most similar first.

        The similarity is that of each word of the query to a word of the title's own, a mean by their lengths, or that
        of all letters, for words that are written together or apart.
        """
        words = [(1 if YEAR.fullmatch(word) else len(word), _Near(word)) for word in text.split()]
        words.sort(key=lambda each: -each[0])
        total, letters = sum(weight for weight, _ in words), _Near(text.replace(" ", ""))
        dated = any(map(str.isdecimal, text.split()))
        found = []
        for row in self._rows(" OR ".join(f'"{part}"' for part in sorted(trigrams(text))), NEAR, "rank"):
            title, alike = self._plain[row].split(), 0.0
            whole = letters((self._plain if dated else self._heads)[row].replace(" ", ""))
            for weight, near in words[: len(title)]:
                closest = max(title, key=near)
                alike += weight * near(closest) / total
                title.remove(closest)
            if max(alike, whole) >= least:
                found.append((max(alike, whole), whole, row))
        best = max(found, default=(0.0,))[0]
        order = sorted(found, key=lambda each: (-each[0], -each[1], *self._behind(each[2])))
        return [row for alike, _, row in order if alike >= best - BEHIND]

    def _rows(self, match: str, limit: int, order: str) -> list[int]:
        connection, lock = self._index
        asked = f"SELECT rowid FROM title WHERE title MATCH ? ORDER BY {order} LIMIT ?"
        with lock:
            return [row for (row,) in connection.execute(asked, (match, limit))]

    def described(self, row: int) -> schemas.ItemAnswer:
        """An item with all its columns."""
        columns = finite(self.items.row(row, named=True))
        return schemas.ItemAnswer(item_id=columns.pop("item_id"), title=columns.pop("title") or "", columns=columns)


class _Near:
    """The similarity of texts to one text, from 0 to 1: twice the number of equal letters in order, by all letters."""

    def __init__(self, text: str) -> None:
        self._size, self._known = len(text), dict[str, float]()
        self._matcher = difflib.SequenceMatcher(autojunk=False)
        self._matcher.set_seq2(text)

    def __call__(self, other: str) -> float:
        """The similarity, 0 if the lengths alone say that it is below a half."""
        if other not in self._known:
            self._matcher.set_seq1(other)
            fits = 4 * min(self._size, len(other)) >= self._size + len(other)
            self._known[other] = self._matcher.ratio() if fits else 0.0
        return self._known[other]


def trigrams(text: str) -> set[str]:
    """Each three neighbouring characters of a text with a space before and after it."""
    padded = f" {text} "
    return {padded[n : n + 3] for n in range(len(padded) - 2)}


def finite(value: Any) -> Any:
    """A value of JSON: numbers that are not finite become None, as JSON has none, and bytes become text."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, dict):
        return {str(key): finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(each) for each in value]
    return value
