"""The user's turns of Alpaca examples, and the text of the chat template around them.

A template is rendered once for each distinct pair of system prompt and answer, with a probe in the turn's place. Only
turns that it shows as they are are given: one with white space at an end is not, where the template trims it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate.prompt.chat import Chat
from palate.prompt.messages import Message
from palate.tokens.plain import conversation

PROBE = "\n palate's probe \n"

Longs = NDArray[np.int64]


@dataclass(frozen=True)
class Template:
    """What stands before and after the user's turn in the rendered conversation, for one system prompt and answer."""

    before: str
    after: str
    response: int
    """The tokens of the response."""
    end: tuple[int, ...]
    """They, and the token before them."""


@dataclass
class Turns:
    """The templates met so far, and the turns that they show."""

    chat: Chat
    templates: list[Template] = field(default_factory=list)
    trims: bool = False
    """Whether the template leaves out white space at the turn's ends."""
    _codes: dict[tuple[str | None, str], int] = field(default_factory=dict)
    """Which template a system prompt and an answer have; −1 if none that will do."""

    def of(self, rows: pl.DataFrame) -> tuple[pl.Series, Longs]:
        """The user's turns of Alpaca examples, and the number of each one's template, −1 for one of another form."""
        needed = {name: rows.schema.get(name) for name in ("instruction", "output")}
        if set(needed.values()) != {pl.String()} or "messages" in rows.columns:
            return no_turns(rows)
        more, system, history = (rows.schema.get(name, pl.Null()) for name in ("input", "system", "history"))
        if not {type(more), type(system)} <= {pl.String, pl.Null}:
            return no_turns(rows)
        question, extra = pl.col("instruction"), pl.col("input") if more == pl.String() else pl.lit(None, pl.String)
        question = pl.when(extra.str.len_bytes() > 0).then(question + "\n\n" + extra).otherwise(question)
        usual = question.is_not_null() & pl.col("output").is_not_null()
        if history != pl.Null():
            if not isinstance(history, pl.List):
                return no_turns(rows)
            usual &= pl.col("history").list.len().fill_null(0) == 0
        who = pl.col("system") if system == pl.String() else pl.lit(None, pl.String)
        frame = rows.select(question.alias("text"), who.alias("system"), "output", usual.alias("usual"))
        pairs = frame.filter("usual").group_by("system", "output", maintain_order=True).len()
        pairs = pairs.with_columns(code=pl.Series([self._code(*pair) for pair in pairs.rows()], dtype=pl.Int64))
        frame = frame.join(pairs, on=["system", "output"], how="left", nulls_equal=True, maintain_order="left")
        usual = pl.col("usual")
        if self.trims:
            usual &= ~pl.col("text").str.contains(r"\A[\s\x1c-\x1f]|[\s\x1c-\x1f]\z")
        frame = frame.select(pl.col("text").fill_null(""), pl.when(usual).then("code").fill_null(-1))
        return frame["text"], np.array(frame["code"], np.int64)

    def _code(self, system: str | None, answer: str, uses: int) -> int:
        """The number of a template. One that is used but once is not worth finding."""
        if (system, answer) not in self._codes and uses > 1:
            template = self._template(system, answer)
            self._codes[system, answer] = len(self.templates) if template else -1
            self.templates += [template] if template else []
        return self._codes.get((system, answer), -1)

    def _messages(self, system: str | None, content: str, answer: str) -> list[Message]:
        return conversation({"instruction": content, "output": answer, "system": system})

    def _template(self, system: str | None, answer: str) -> Template | None:
        if self.chat.imitates_control(system or "") or self.chat.imitates_control(answer):
            return None
        messages = self._messages(system, PROBE, answer)
        text = self.chat.text(messages)
        self.trims |= PROBE not in text
        probe = PROBE.strip() if self.trims else PROBE
        messages = self._messages(system, probe, answer)
        if text.count(probe) != 1 or self.chat.text(messages) != text:
            return None
        before, _, after = text.partition(probe)
        ids, prompt_len = self.chat.encode(messages)
        if not 0 < prompt_len < len(ids):
            return None
        return Template(before, after, len(ids) - prompt_len, tuple(ids[prompt_len - 1 :]))

    def shown(self, texts: Sequence[str]) -> bool:
        """Whether the chat template shows such texts as they are: one that does not is no frame for them."""
        if not self._codes:
            return True
        system, answer = next(iter(self._codes))
        content = "\n".join(text for text in texts if not self.chat.imitates_control(text))
        return content.strip() in self.chat.text(self._messages(system, content, answer))


def no_turns(rows: pl.DataFrame) -> tuple[pl.Series, Longs]:
    """What `Turns.of` gives for examples none of which is of the form."""
    return pl.repeat("", rows.height, dtype=pl.String, eager=True), np.full(rows.height, -1, np.int64)
