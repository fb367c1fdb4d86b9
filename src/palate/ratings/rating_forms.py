"""How ratings are written: numbers, words for likes, `4 out of 5`, stars. A column has the form of most of its rows."""

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
        """The ratings as text of numbers; null for a text in another form, or out of another highest rating."""
        if self.kind == "numbers":
            return texts
        if self.kind == "words":
            words = {word: f"{number:g}" for word, number in WORDS.items()}
            return _plain(texts).replace_strict(words, default=None, return_dtype=pl.String)
        if self.kind == "stars":
            whole, half = texts.str.count_matches("[★⭐]"), texts.str.count_matches("½")
            found = (whole + half * 0.5).cast(pl.String)
        else:
            found = texts.str.extract(_PATTERNS[self.kind]).str.replace(",", ".", literal=True)
        fits = texts.str.contains(_PATTERNS[self.kind]) if self.top is None else _tops(texts, self.kind) == self.top
        return pl.select(pl.when(fits).then(found).alias(texts.name)).to_series()


NUMBERS, IN_WORDS = RatingForm(), RatingForm("words")


def rating_form(texts: pl.Series) -> RatingForm:
    """The form of most rows of a column of text without white space around it; plain numbers if there is none."""
    if texts.cast(pl.Float64, strict=False).null_count() == texts.null_count():
        return NUMBERS
    distinct, rows = texts.drop_nulls().alias("text").value_counts().get_columns()

    def most(fits: pl.Series) -> bool:
        return 2 * rows.filter(fits).sum() > rows.sum()

    is_number = distinct.cast(pl.Float64, strict=False).is_not_null()
    is_word = _plain(distinct).is_in(list(WORDS))
    if most(is_number) and not is_word.all():
        return NUMBERS
    if most(is_word):
        return IN_WORDS
    kind = next((kind for kind, pattern in _PATTERNS.items() if most(distinct.str.contains(pattern))), None)
    if kind is None:
        return NUMBERS
    tops = _tops(distinct, kind)
    if kind == "counted" or (kind == "stars" and not distinct.str.contains("☆", literal=True).any()):
        return RatingForm(kind)
    top = next((top for top in tops.drop_nulls().unique() if most(tops == top)), None)
    return NUMBERS if top is None else RatingForm(kind, top)


def in_numbers(texts: pl.DataFrame) -> tuple[pl.DataFrame, RatingForm]:
    """The table with its ratings as text of numbers, and the form that they have."""
    rated = rating_form(texts["rating"])
    return texts.with_columns(rated.numbers(texts["rating"])), rated


def _tops(texts: pl.Series, kind: str) -> pl.Series:
    """The highest rating in each text of `4 out of 5` or of stars, Float64; null for other texts."""
    if kind != "stars":
        return texts.str.extract(_PATTERNS["parts"], 2).str.replace(",", ".", literal=True).cast(pl.Float64)
    stars = texts.str.count_matches("[★⭐½☆]").cast(pl.Float64)
    return pl.select(pl.when(texts.str.contains(_PATTERNS["stars"])).then(stars)).to_series()


def _plain(words: pl.Series) -> pl.Series:
    """The words without case, spaces, `_`, `-`, and what gives a thumb its colour."""
    return words.str.to_lowercase().str.replace_all("[\\s_\ufe0f\U0001f3fb-\U0001f3ff-]", "")
