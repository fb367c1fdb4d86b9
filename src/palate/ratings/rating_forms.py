"""How ratings are written: numbers, words for likes, `4 out of 5`, stars. One form holds for a whole column."""

from dataclasses import dataclass
from typing import Literal

import polars as pl

_YES = "1 true t yes y up like liked thumbsup positive recommended 👍"
_NO = "0 false f no n down dislike disliked thumbsdown negative notrecommended 👎"
WORDS = {**dict.fromkeys(_YES.split(), 1.0), **dict.fromkeys(_NO.split(), 0.0)}
"""Ratings in words, compared without case, spaces, `_` and `-`."""
_NUMBER = r"(\d+(?:[.,]\d+)?)"
_NOUN = r"(?:stars?|sterne?n?|étoiles?|estrellas?|estrelas?|stelle?|sterren|points?|punkten?)"
_PATTERNS: dict[Literal["parts", "counted", "stars"], str] = {
    "parts": rf"(?i)^{_NUMBER}\s*(?:/|out of|of|von|sur|de|di|su|van)\s*{_NUMBER}(?:\s*{_NOUN})?$",
    "counted": rf"(?i)^{_NUMBER}\s*{_NOUN}$",
    "stars": "^(?:[★⭐]\ufe0f?)*½?☆*$",
}


@dataclass(frozen=True)
class RatingForm:
    """How a column writes ratings: `4`, `up`, `4 out of 5` or `4/5`, `4 stars`, `★★★★☆`."""

    kind: Literal["numbers", "words", "parts", "counted", "stars"] = "numbers"
    top: float | None = None
    """The highest rating, if the form has it."""

    @property
    def name(self) -> str:
        """The form for the log; empty for plain numbers."""
        names = {"words": "likes and dislikes", "parts": "numbers", "counted": "numbers of stars", "stars": "stars"}
        return names.get(self.kind, "") + (f" out of {self.top:g}" if self.top else "")

    def scale(self, usual: tuple[float, float]) -> tuple[float, float]:
        """The scale of the ratings: the usual one, up to the highest rating if the form has it."""
        return (0.0, 1.0) if self.kind == "words" else (usual[0], self.top or usual[1])

    def numbers(self, texts: pl.Series) -> pl.Series:
        """The ratings as text of numbers; null for other words."""
        if self.kind == "numbers":
            return texts
        if self.kind == "words":
            found = {word: f"{number:g}" for word, number in WORDS.items()}
            return _plain(texts).replace_strict(found, default=None, return_dtype=pl.String)
        if self.kind == "stars":
            whole, half = texts.str.count_matches("[★⭐]"), texts.str.count_matches("½")
            return (whole + half * 0.5).cast(pl.String)
        return texts.str.extract(_PATTERNS[self.kind]).str.replace(",", ".", literal=True)


NUMBERS, IN_WORDS = RatingForm(), RatingForm("words")


def rating_form(texts: pl.Series) -> RatingForm:
    """The form of a column of text without white space around it; plain numbers if no other holds for all of it."""
    distinct = texts.drop_nulls().unique()
    if not distinct.cast(pl.Float64, strict=False).null_count():
        return NUMBERS
    plain = _plain(distinct)
    if plain.is_in(list(WORDS)).all() and not plain.is_in(["0", "1"]).all():
        return IN_WORDS
    if (
        kind := next((kind for kind, pattern in _PATTERNS.items() if distinct.str.contains(pattern).all()), None)
    ) is None:
        return NUMBERS
    tops = distinct.str.extract(_PATTERNS["parts"], 2).str.replace(",", ".", literal=True).cast(pl.Float64)
    if kind == "stars":
        tops = distinct.str.count_matches("[★⭐½☆]").cast(pl.Float64)
        if not distinct.str.contains("☆", literal=True).any():
            tops = tops.clear()
    tops = tops.drop_nulls().unique()
    return RatingForm(kind, tops[0] if tops.len() else None) if tops.len() < 2 else NUMBERS


def _plain(words: pl.Series) -> pl.Series:
    return words.str.to_lowercase().str.replace_all(r"[\s_-]", "")
