"""The layout of a prompt: which fields stand in it, and the constant text between them.

A user turn with m history items is constant, field, constant, field, …, constant. The list numbers are constant
text: the k-th line's number is k. What varies is what an item, a rating, an item's context or the candidate says, and
each says one of few distinct things.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import polars as pl

from palate.prompt.messages import to_chat_messages
from palate.prompt.spec import PromptSpec, TemplatePart, runs_of
from palate.samples.lines import format_value, part_texts


class Kind(NamedTuple):
    """A kind of field: what its values are of, and how they read."""

    name: str
    """For messages, such as `history item 1`."""
    of: Literal["item", "rating", "context"]
    candidate: bool
    texts: Sequence[str]
    """What each item, each distinct rating or each distinct context says; by code."""


class Field(NamedTuple):
    """A field in a prompt."""

    kind: int
    slot: int
    """The history line it stands in, from 1 for the oldest; 0 for the candidate."""


class Turn(NamedTuple):
    """A user turn: `constants[0] fields[0] constants[1] … fields[-1] constants[-1]`."""

    constants: list[str]
    fields: list[Field]

    def fill(self, values: Sequence[str]) -> str:
        """The turn as text, `values` in the order of the fields."""
        pieces = [self.constants[0]]
        for value, constant in zip(values, self.constants[1:], strict=True):
            pieces += [value, constant]
        return "".join(pieces)


Symbol = str | Field


@dataclass(frozen=True)
class PromptLayout:
    """The turns of a prompt. Made by `layout`.

    With `ends`, the fields at the two ends of the history are kinds of their own: the last line is followed
    by a blank one, and in some tokenizers that changes the token that its last character is in.
    """

    prompt: PromptSpec
    kinds: Sequence[Kind]
    line: Sequence[str | TemplatePart | int]
    """A history line: literal text, `{n}`, or the number of a kind."""
    candidate: Sequence[str | TemplatePart | int]
    ends: bool = False

    def turn(self, m: int) -> Turn:
        """The user turn with `m` history items."""
        opening, middle, closing = self._frame(m)
        symbols: list[Symbol] = [opening]
        for n in range(1, m + 1):
            symbols += ["\n"] if n > 1 else []
            symbols += self._symbols(self.line, n, self._variant(n, m))
        symbols += [middle, *self._symbols(self.candidate, 0, 0), closing]
        constants, fields = [""], []
        for symbol in symbols:
            if isinstance(symbol, str):
                constants[-1] += symbol
            else:
                fields.append(symbol)
                constants.append("")
        return Turn(constants, fields)

    def messages(self, content: str, answer: str) -> list[dict[str, str]]:
        """The conversation whose user turn is `content`."""
        messages = to_chat_messages(self.prompt.alpaca("", "", answer, 0))
        return [{**m, "content": content} if m["role"] == "user" else m for m in messages]

    def _variant(self, n: int, m: int) -> int:
        return (n == 1) + 2 * (n == m) if self.ends else 0

    def _symbols(self, pieces: Sequence[str | TemplatePart | int], slot: int, variant: int) -> list[Symbol]:
        symbols: list[Symbol] = []
        for piece in pieces:
            if isinstance(piece, str):
                symbols.append(piece)
            elif isinstance(piece, TemplatePart):
                symbols.append(format_value(slot, piece.format_spec, "history_line"))
            else:
                symbols.append(Field(piece + variant * self._base, slot))
        return symbols

    @property
    def _base(self) -> int:
        return len(self.kinds) // 4 if self.ends else len(self.kinds)

    def _frame(self, m: int) -> tuple[str, str, str]:
        """What stands before the history, between it and the candidate, and after."""
        history, candidate = "\0history\0", "\0candidate\0"
        example: dict[str, Any] = self.prompt.alpaca(history, candidate, "", m)
        content = to_chat_messages(example)[-2]["content"]
        opening, _, rest = content.partition(history)
        middle, _, closing = rest.partition(candidate)
        return opening, middle, closing

    def with_ends(self) -> "PromptLayout":
        """The same layout, the history's ends being kinds of their own."""
        return PromptLayout(self.prompt, list(self.kinds) * 4, self.line, self.candidate, ends=True)


def layout(
    prompt: PromptSpec, items: pl.DataFrame, ratings: Sequence[float], contexts: pl.DataFrame | None = None
) -> PromptLayout:
    """Lay out a prompt over the items (rows), and the distinct ratings and contexts (rows) that occur.

    The prompt must be one that `palate.samples.lines.renderer` accepts.
    """
    kinds: list[Kind] = []

    def pieces(option: str, candidate: bool) -> list[str | TemplatePart | int]:
        found: list[str | TemplatePart | int] = []
        for of, inner in runs_of(getattr(prompt, option)):
            if of == "n":
                found += inner
            elif of == "rating":
                for part in inner:
                    texts = [format_value(rating, part.format_spec, option) for rating in ratings]
                    kinds.append(Kind(f"rating in {option}", "rating", candidate, texts))
                    found.append(len(kinds) - 1)
            else:
                # Literals at the ends of the run are constant text; between two fields they belong to the item.
                begin = next((n for n, part in enumerate(inner) if part.field), len(inner))
                end = next((n for n, part in enumerate(reversed(inner)) if part.field), 0)
                found += [part.literal for part in inner[:begin]]
                if begin < len(inner):
                    fields = inner[begin : len(inner) - end]
                    name = "".join(f"{{{p.field}}}" if p.field else p.literal for p in fields)
                    table = contexts if of == "context" and contexts is not None else items
                    texts = part_texts(fields, table, option).to_list()
                    kinds.append(Kind(f"{name} in {option}", of, candidate, texts))
                    found.append(len(kinds) - 1)
                    found += [part.literal for part in inner[len(inner) - end :]]
        return found

    line, candidate = pieces("history_line", False), pieces("candidate_line", True)
    return PromptLayout(prompt, kinds, line, candidate)
