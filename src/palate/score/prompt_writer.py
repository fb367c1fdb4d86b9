"""Prompts for any history and candidate, rendered and cut as in training."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from palate.prompt.chat import Chat
from palate.prompt.messages import to_generation_messages
from palate.samples.lines import Renderer
from palate.tokens.cut import cut_prompts
from palate.tokens.dataset import Options

Longs = NDArray[np.int64]


@dataclass(frozen=True)
class PromptWriter:
    """Writes token ids up to the decision token; a sample's history, candidate and time give the sample's ids."""

    render: Renderer
    chat: Chat
    options: Options

    def ids(self, position: Longs, target: Longs, items: int) -> list[list[int]]:
        """Prompts whose histories are the `items` rows before timeline rows `position` (n,); candidates: `target` (n,).

        Raises `InputError` for a prompt longer than the cutoff that the truncation may not cut.
        """
        return self.cut(position, target, items)[0]

    def cut(self, position: Longs, target: Longs, items: int) -> tuple[list[list[int]], Longs]:
        """As `ids`, with the number of history items that each prompt shows, (n,): the cutoff may leave out some."""
        shown = np.full(position.size, items)

        def shorter(rows: Sequence[int], fewer: int) -> list[list[int]]:
            shown[list(rows)] = fewer
            return self._encode(position[list(rows)], target[list(rows)], fewer)

        prompts, options = self._encode(position, target, items), self.options
        return cut_prompts(prompts, self.chat, options.cutoff_len, options.truncation, (items, shorter)), shown

    def uncut(self, position: Longs, target: Longs, items: int) -> list[list[int]]:
        """As `ids`, of any length."""
        return self._encode(position, target, items)

    @cached_property
    def _chat(self) -> Chat:
        """The chat, with the tokens of the items if the prompt has them."""
        items = self.render.samples.items.height
        return self.chat.with_items(items) if self.render.prompt.names_vectors else self.chat

    def _encode(self, position: Longs, target: Longs, items: int) -> list[list[int]]:
        questions = self.render.questions(position, target, items)
        return self._chat.decision_prompts([to_generation_messages(row) for row in questions.iter_rows(named=True)])
