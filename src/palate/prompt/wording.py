"""Wording: the texts of every item, rating, context and signal in the two lines of a prompt, as pieces.

A piece of a line is constant text, the line's number, or a table with one text for each item or for each distinct
rating, context or value of a signal. All code that writes lines reads these pieces: one sample as text
(`history_line`), whole columns (`palate.samples.lines`), and the fragments of token ids (`palate.tokens.layout`). The
pieces are stored as JSON, so that a machine without item table and Polars can read them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from palate.errors import InputError
from palate.prompt.item_tokens import FIELD, item_token, without_item_tokens
from palate.prompt.spec import (
    SIGNAL_FIELDS,
    SIGNALS,
    Number,
    Of,
    PromptSpec,
    TemplatePart,
    Text,
    runs_of,
    split_template,
)

if TYPE_CHECKING:
    import polars as pl

FILE = "wording.json"

Codes = Mapping[str, int]
"""The codes of a line's item, rating and context, and of a candidate's signals."""


class Piece(NamedTuple):
    """A piece of a line: its texts by code. A literal has one text, the number none."""

    of: Of
    texts: Sequence[str] = ()
    spec: str = ""
    """The format spec of the number or a signal; for an item, a context or a user, the piece's part of the template."""
    option: str = ""
    """The config key of the template, for messages."""

    @property
    def name(self) -> str:
        """For messages, such as `{title} in history_line`."""
        return f"{self.of if self.of == 'rating' or self.of in SIGNAL_FIELDS else self.spec} in {self.option}"

    def text(self, codes: Codes, n: int) -> str:
        """The piece's text in the n-th line, which has these codes."""
        if self.of == "n":
            return format_value(n, self.spec, "history_line")
        return self.texts[0 if self.of == "literal" else codes[self.of]]


@dataclass(frozen=True)
class Wording:
    """The pieces of the two lines of a prompt."""

    history: Sequence[Piece]
    candidate: Sequence[Piece]

    @classmethod
    def of(
        cls,
        prompt: PromptSpec,
        items: "pl.DataFrame",
        ratings: Sequence[float],
        contexts: "pl.DataFrame",
        signals: Mapping[str, Sequence[Any]] = MappingProxyType({}),
    ) -> "Wording":
        """Write the texts of the rows of `items` and `contexts`, and of each rating and signal.

        A code is a position in these. `signals` has the values of each one that the prompt names, without which its
        pieces have no texts; a value of `user` has the user's fields.

        Raises `InputError` if a format spec does not fit a value.
        """

        def texts(of: Of, field: str, spec: str, option: str) -> list[str]:
            if field == FIELD:
                return [item_token(row) for row in range(len(items))]
            values = ratings if of == "rating" else (items if of == "item" else contexts)[field].to_list()
            found = [v if not spec and type(v) is str else format_value(v, spec, option) for v in values]
            return list(map(without_item_tokens, found)) if of == "item" and prompt.names_vectors else found

        def piece(of: Of, parts: Sequence[TemplatePart], option: str) -> Piece:
            if of == "n":
                return Piece(of, (), parts[0].format_spec)
            if of == "literal":
                return Piece(of, [parts[0].literal])
            if of in SIGNALS:
                spec = _template(parts) if of == "user" else parts[0].format_spec
                bare = Piece(of, (), spec, option)
                return bare._replace(texts=signal_texts(bare, signals.get(of, ()), prompt))
            columns = [texts(of, p.field, p.format_spec, option) if p.field else repeat(p.literal) for p in parts]
            name = "".join(f"{{{p.field}}}" if p.field else p.literal for p in parts)
            return Piece(of, list(map("".join, zip(*columns, strict=False))), name, option)

        lines = [
            [piece(of, parts, option) for of, parts in runs_of(getattr(prompt, option))]
            for option in ("history_line", "candidate_line")
        ]
        return cls(*lines)

    def history_line(self, codes: Codes, n: int) -> str:
        """The n-th history line, from 1."""
        return "".join(piece.text(codes, n) for piece in self.history)

    def candidate_line(self, codes: Codes) -> str:
        """The line of the candidate."""
        return "".join(piece.text(codes, 0) for piece in self.candidate)

    def named(self, of: Of, code: int) -> list[str]:
        """All texts in the lines of one item, rating, context or value of a signal."""
        return [piece.texts[code] for piece in (*self.history, *self.candidate) if piece.of == of]

    def of_items(self, rows: Sequence[int]) -> "Wording":
        """The wording of some items; an item's code is its position in `rows`."""

        def chosen(piece: Piece) -> Piece:
            return piece._replace(texts=[piece.texts[row] for row in rows]) if piece.of == "item" else piece

        return Wording(*([chosen(piece) for piece in line] for line in (self.history, self.candidate)))

    def save(self, folder: Path) -> None:
        """Write the pieces as JSON; texts that several pieces share are written once."""
        texts: list[Sequence[str]] = []
        stored: dict[str, Any] = {"texts": texts}
        for name, line in (("history", self.history), ("candidate", self.candidate)):
            stored[name] = []
            for piece in line:
                if piece.of in ("literal", "n"):
                    stored[name].append([piece.of, piece.texts[0] if piece.texts else piece.spec])
                    continue
                if piece.texts not in texts:
                    texts.append(piece.texts)
                stored[name].append([piece.of, texts.index(piece.texts)])
        (folder / FILE).write_text(json.dumps(stored, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")

    @classmethod
    def open(cls, folder: Path) -> "Wording":
        """Read what `save` wrote."""
        stored = json.loads((folder / FILE).read_text(encoding="utf-8"))

        def piece(of: Of, found: Any) -> Piece:
            if of == "n":
                return Piece(of, (), found)
            return Piece(of, [found] if of == "literal" else stored["texts"][found])

        return cls(*([piece(*each) for each in stored[line]] for line in ("history", "candidate")))


def signal_texts(piece: Piece, values: Sequence[Any], prompt: PromptSpec) -> list[str]:
    """The texts of a signal's values by its piece; raises `InputError` for a format spec that does not fit."""
    if piece.of == "user":
        parts = split_template(piece.spec)
        texts = [
            "".join(
                p.literal + (format_value(row[p.field], p.format_spec, piece.option) if p.field else "") for p in parts
            )
            for row in values
        ]
    else:
        texts = [format_value(value, piece.spec, piece.option) for value in values]
    return (
        list(map(without_item_tokens, texts)) if prompt.names_vectors and piece.of in ("neighbour", "user") else texts
    )


def _template(parts: Sequence[TemplatePart]) -> str:
    """The template that has these parts."""
    fields = (f"{{{p.field}:{p.format_spec}}}" if p.field else "" for p in parts)
    literals = (p.literal.replace("{", "{{").replace("}", "}}") for p in parts)
    return "".join(map(str.__add__, literals, fields))


def format_value(value: object, spec: str, option: str) -> str:
    """`format(value, spec)`, as `Number` and `Text` do; an error is an `InputError` for the prompt's `option`."""
    if isinstance(value, (float, str)):
        value = Number(value) if isinstance(value, float) else Text(value)
    try:
        return format(value, spec)
    except (ValueError, TypeError) as error:
        raise InputError(f"{value!r} cannot be written as {{:{spec}}}: {error}", f"prompt.{option}") from None
