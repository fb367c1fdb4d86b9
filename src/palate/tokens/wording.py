"""What the words of a timeline say: every text that a line of the prompt can have at a place, by code.

Written with the tables, so that a sample can be put into words where there is neither an item table nor Polars.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from palate.prompt.spec import Of
from palate.tokens.fragments import NOTHING, PLACES

FILE = "wording.json"

Line = Sequence[tuple[Of | Literal["literal"], list[str] | str]]
"""The pieces of a line as they are written: what each is of, and its texts by code; its text; or its format spec."""


class Piece(NamedTuple):
    """A piece of a line: the text that the code which a word holds at a place stands for, or the line's number."""

    place: tuple[int, int]
    """Shift and mask; `NOTHING` for a text that is always the same."""
    texts: Sequence[str]
    """By code; none for the number."""
    spec: str = ""
    """How the number is written."""


@dataclass(frozen=True)
class Wording:
    """The pieces of the two lines of a prompt."""

    history: list[Piece]
    candidate: list[Piece]

    def history_line(self, word: int, n: int) -> str:
        """The n-th line (from 1), of the rating that `word` packs."""
        return _said(self.history, word, n)

    def candidate_line(self, word: int) -> str:
        """What is asked of."""
        return _said(self.candidate, word, 0)

    def named(self, of: Of, code: int) -> list[str]:
        """Everything that the lines say of one item, rating or context."""
        return [piece.texts[code] for piece in (*self.history, *self.candidate) if piece.place == PLACES[of]]

    @classmethod
    def open(cls, folder: Path) -> "Wording":
        """Read what `write_wording` wrote."""
        stored = json.loads((folder / FILE).read_text(encoding="utf-8"))
        tables = stored["texts"]

        def piece(of: str, said: Any) -> Piece:
            if of == "n":
                return Piece(NOTHING, (), said)
            return Piece(NOTHING, (said,)) if of == "literal" else Piece(PLACES[of], tables[said])

        return cls(*([piece(*each) for each in stored[line]] for line in ("history", "candidate")))


def write_wording(folder: Path, lines: Mapping[str, Line]) -> None:
    """Write the pieces of the lines `history` and `candidate`."""
    texts: list[list[str]] = []
    stored: dict[str, Any] = {"texts": texts}
    for name, pieces in lines.items():
        stored[name] = []
        for of, said in pieces:
            if isinstance(said, list):
                if said not in texts:  # a title is told in both lines
                    texts.append(said)
                stored[name].append([of, texts.index(said)])
            else:
                stored[name].append([of, said])
    text = json.dumps(stored, ensure_ascii=False, separators=(",", ":"))
    (folder / FILE).write_text(text, encoding="utf-8")


def _said(pieces: list[Piece], word: int, n: int) -> str:
    return "".join(texts[word >> place[0] & place[1]] if texts else format(n, spec) for place, texts, spec in pieces)
