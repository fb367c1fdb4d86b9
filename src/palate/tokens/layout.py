"""The layout of a prompt: its fields, and the constant text between them.

A user turn with m history items is constant, field, constant, field, …, constant. Line numbers are constant text: the
number of the k-th line is k. Fields vary: the texts of an item, a rating, an item's context, and the candidate. Each
has few distinct values.
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
    """The field's history line, from 1 for the oldest; 0 for the candidate."""


class Turn(NamedTuple):
    """A user turn: `constants[0] fields[0] constants[1] … fields[-1] constants[-1]`."""

    constants: list[str]
    fields: list[Field]

    def fill(self, values: Sequence[str]) -> str:
        """The turn as text with the fields' `values`."""
        pieces = [self.constants[0]]
        for value, constant in zip(values, self.constants[1:], strict=True):
            pieces += [value, constant]
        return "".join(pieces)


@dataclass(frozen=True)
class PromptLayout:
    """The turns of a prompt with the lines of `wording`.

    With `ends`, the fields of the first and the last history line are separate kinds. A blank line follows the last
    one, and with some tokenizers this changes the token of its last character.
    """

    prompt: PromptSpec
    wording: Wording
    ends: bool = False

    @cached_property
    def kinds(self) -> list[Piece]:
        """The kinds of fields: those of a history line, then the candidate's; four times with `ends`."""
        pieces = [piece for piece in (*self.wording.history, *self.wording.candidate) if piece.of in PLACES]
        return pieces * (4 if self.ends else 1)

    def turn(self, m: int) -> Turn:
        """The user turn with `m` history items."""
        opening, middle, closing = self.prompt.frame(m)
        # An input of no text would leave out the blank line before it, which stands before the history too.
        begin = to_generation_messages({"instruction": self.prompt.instruction, "input": f"{opening}\n"})
        constants, fields = [begin[-1]["content"].removesuffix("\n")], list[Field]()

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
        """The conversation with the user turn `content`."""
        return to_chat_messages({"system": self.prompt.system, "instruction": content, "output": answer})

    def with_ends(self) -> "PromptLayout":
        """The same layout with `ends`."""
        return PromptLayout(self.prompt, self.wording, ends=True)
