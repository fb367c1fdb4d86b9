"""The layout of a prompt: which fields stand in it, and the constant text between them.

A user turn with m history items is constant, field, constant, field, …, constant. The list numbers are constant
text: the k-th line's number is k. What varies is what an item, a rating, an item's context or the candidate says, and
each says one of few distinct things.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from palate.prompt.messages import Message, to_chat_messages, to_generation_messages
from palate.prompt.spec import PromptSpec
from palate.prompt.wording import Piece, Wording
from palate.tokens.fragments import PLACES


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


@dataclass(frozen=True)
class PromptLayout:
    """The turns of a prompt whose lines `wording` has.

    With `ends`, the fields at the two ends of the history are kinds of their own: the last line is followed
    by a blank one, and in some tokenizers that changes the token that its last character is in.
    """

    prompt: PromptSpec
    wording: Wording
    ends: bool = False

    @cached_property
    def kinds(self) -> list[Piece]:
        """The kinds of fields: those of a history line, then the candidate's; with `ends` four times."""
        pieces = [piece for piece in (*self.wording.history, *self.wording.candidate) if piece.of in PLACES]
        return pieces * (4 if self.ends else 1)

    def turn(self, m: int) -> Turn:
        """The user turn with `m` history items."""
        opening, middle, closing = self.prompt.frame(m)
        asked = to_generation_messages({"instruction": self.prompt.instruction, "input": opening})
        constants, fields = [asked[-1]["content"]], list[Field]()

        def add(line: Sequence[Piece], slot: int, kind: int) -> None:
            for piece in line:
                if piece.of in PLACES:
                    fields.append(Field(kind, slot))
                    constants.append("")
                    kind += 1
                else:
                    constants[-1] += piece.text({}, slot)

        for n in range(1, m + 1):
            constants[-1] += "\n" if n > 1 else ""
            variant = (n == 1) + 2 * (n == m) if self.ends else 0
            add(self.wording.history, n, variant * len(self.kinds) // 4)
        constants[-1] += middle
        add(self.wording.candidate, 0, sum(piece.of in PLACES for piece in self.wording.history))
        constants[-1] += closing
        return Turn(constants, fields)

    def messages(self, content: str, answer: str) -> list[Message]:
        """The conversation whose user turn is `content`."""
        return to_chat_messages({"system": self.prompt.system, "instruction": content, "output": answer})

    def with_ends(self) -> "PromptLayout":
        """The same layout, the history's ends being kinds of their own."""
        return PromptLayout(self.prompt, self.wording, ends=True)
