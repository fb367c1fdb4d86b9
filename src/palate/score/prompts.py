"""Prompts of any history and any candidate, as training shows them and cut as training cuts them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from palate.errors import InputError
from palate.prompt.chat import Chat
from palate.prompt.messages import to_generation_messages
from palate.samples.render import Renderer
from palate.score.alike import decision_prompts
from palate.tokens.dataset import Options

Longs = NDArray[np.int64]


@dataclass(frozen=True)
class Prompts:
    """Token ids up to the decision token; equal to a sample's where history, candidate and time are the sample's."""

    render: Renderer
    chat: Chat
    options: Options

    def ids(self, position: Longs, target: Longs, items: int) -> list[list[int]]:
        """Prompts that show the `items` rows before timeline rows `position` (n,) and ask of the rows `target` (n,).

        Raises `InputError` where one is longer than the cutoff and may not be cut.
        """
        prompts = self._encode(position, target, items)
        most = self.options.cutoff_len - 1 - len(self.chat.decision.tail)
        long = np.array([n for n, ids in enumerate(prompts) if len(ids) > most], np.int64)
        if not long.size:
            return prompts
        way = self.options.truncation
        if way == "history":
            self._drop_items(prompts, long, position, target, items, most)
            return prompts
        if way in ("right", "error"):
            whole = max(map(len, prompts)) + self.options.cutoff_len - most
            raise InputError(
                f"a prompt is {whole} tokens with its answer, tokens.cutoff_len is {self.options.cutoff_len}: "
                f"expected all to fit with tokens.truncation={way}",
                "tokens.cutoff_len",
            )
        head = self.options.cutoff_len // 2 if way == "middle" else 0
        if most < head + len(self.chat.decision.lead):
            raise InputError(f"{self.options.cutoff_len} would cut into the answer", "tokens.cutoff_len")
        for n in long.tolist():
            ids = prompts[n]
            prompts[n] = ids[:head] + ids[len(ids) - (most - head) :]
        return prompts

    def _encode(self, position: Longs, target: Longs, items: int) -> list[list[int]]:
        questions = self.render.questions(position, target, items)
        return decision_prompts(self.chat, [to_generation_messages(row) for row in questions.iter_rows(named=True)])

    def _drop_items(
        self, prompts: list[list[int]], long: Longs, position: Longs, target: Longs, items: int, most: int
    ) -> None:
        """Show as many of the latest items as fit, as `tokens.truncation: history` does."""
        for shown in range(items - 1, -1, -1):
            again = self._encode(position[long], target[long], shown)
            fits = np.array([len(ids) <= most for ids in again], bool)
            for n, ids in zip(long[fits].tolist(), (ids for ids in again if len(ids) <= most), strict=True):
                prompts[n] = ids
            long = long[~fits]
            if not long.size:
                return
        raise InputError(
            f"{long.size:,} prompts are too long without any history, the cutoff is {self.options.cutoff_len}",
            "tokens.cutoff_len",
        )
