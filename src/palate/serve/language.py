"""`LanguageModel`: P(like) by a fine-tuned chat model, of candidates for a person, and the prompts that it reads."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from palate.baselines.statistics import BaselineData
from palate.measure.calibration import sigmoid
from palate.prompt.messages import to_generation_messages
from palate.prompt.wording import Wording
from palate.samples.items import shown_items
from palate.samples.lines import Renderer
from palate.samples.people import Longs, Person, scale_with, written_for
from palate.samples.signals import Asked
from palate.score.prompt_writer import PromptWriter
from palate.score.scorer import common_prefix
from palate.serve.worker import Cancelled, Forwarder, Worker

if TYPE_CHECKING:
    from palate.prompt.chat import Chat
    from palate.tokens.dataset import Options

BLOCK = 64
"""Prompts that are written between two looks whether somebody waits for them; long ones take 10 ms each."""
Floats = NDArray[np.float64]
Add = Callable[[Floats, Floats], Floats]
"""The logits of a sum from P(like) of the baseline and the language model's own logits, (n,) each."""
SignalsOf = Callable[[BaselineData, int], Asked]
"""The signals of a person, by the data about them and the row after their last rating."""


class Part(NamedTuple):
    """Answers to some of the candidates: their positions (m,) in the request, and (m,) float64 each."""

    position: Longs
    p: Floats
    logit: Floats
    mass: Floats | None


class Token(NamedTuple):
    """A token of a prompt."""

    id: int
    text: str
    part: Literal["template", "text", "answer"]


@dataclass
class LanguageModel:
    """A language model of a run.

    `render` is the renderer of the questions about every item after all ratings, whose rows are `target`.
    """

    worker: Worker | Forwarder
    chat: "Chat"
    options: "Options"
    render: Renderer
    target: Longs
    to_p: Callable[[Floats], Floats] = sigmoid
    signals: SignalsOf | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def model(self) -> Any:
        """The model in this process; None if a server has it."""
        return getattr(self.worker.backend, "model", None) if isinstance(self.worker, Worker) else None

    def prompts(
        self,
        person: Person,
        item: Longs,
        about: BaselineData | None,
        anchor: int,
        cancelled: Cancelled = lambda: False,
    ) -> tuple[list[list[int]], list[int]]:
        """The token ids of the prompts of candidates, and of each the number of tokens that precede the candidate.

        `about` has the person's rows, `anchor` is the row after the last one; for prompts with signals. Both lists are
        empty once `cancelled` returns True.
        """
        others = np.array([0, len(self.target) - 1])
        render, position, target, shown = self._written(person, np.concatenate([item, others]), about, anchor)
        writer, n = PromptWriter(render, self.chat, self.options), item.size
        prompts, items = [], np.zeros(n, np.int64)
        for begin in range(0, n, BLOCK):
            if cancelled():
                return [], []
            block = slice(begin, min(begin + BLOCK, n))
            cut, items[block] = writer.cut(position[block], target[block], shown)
            prompts += cut
        shared = np.zeros(n, np.int64)
        for kept in np.unique(items):  # the same history: of all candidates, or of those with titles of a length
            same = np.flatnonzero(items == kept)
            other = writer.uncut(position[n:], target[n:], int(kept))  # one alone would share all with itself
            shared[same] = self.shared([*(prompts[row] for row in same), *other])
        return prompts, np.minimum(shared, [len(prompt) - 1 for prompt in prompts]).tolist()

    @staticmethod
    def shared(prompts: Sequence[Sequence[int]]) -> int:
        """Number of first tokens that prompts have in common; each has at least one more."""
        return min(common_prefix(prompts), min(map(len, prompts)) - 1)

    def answers(
        self, prompts: Sequence[list[int]], shared: Sequence[int], *, base: bool, cancelled: Cancelled = lambda: False
    ) -> Iterator[Part]:
        """The model's own answers as they come; `base`: without its adapter."""
        for rows, scores in self.worker.answers(prompts, shared, base=base, cancelled=cancelled):
            logit = scores.logit.astype(np.float64)
            yield Part(
                np.array(rows), sigmoid(logit) if base else self.to_p(logit), logit, scores.mass.astype(np.float64)
            )

    def tokens(self, ids: Sequence[int], lines: Sequence[str]) -> list[Token]:
        """A prompt token by token; those of `lines`, in order, are `text`, the others `template`.

        Lines that the cutoff left out are skipped.
        """
        decode = self.chat.tokenizer.decode
        # A token may end within a character, which decodes to "\ufffd" until the next token completes it.
        ends = np.array([0, *(len(decode(list(ids[: n + 1])).rstrip("\ufffd")) for n in range(len(ids)))])
        whole, at = decode(list(ids)), 0
        inside = np.zeros(len(ids), bool)
        for line in lines:
            begin = whole.find(line, at)
            if line and begin >= 0:
                at = begin + len(line)
                inside |= (ends[:-1] < at) & (ends[1:] > begin)
        parts: list[Literal["text", "template"]] = ["text" if own else "template" for own in inside.tolist()]
        return [Token(each, decode([each]), part) for each, part in zip(ids, parts, strict=True)]

    def lines(self, person: Person, item: int, about: BaselineData | None, anchor: int) -> list[str]:
        """The lines of a prompt's messages; `about` and `anchor` as for `prompts`."""
        render, position, target, shown = self._written(person, np.array([item]), about, anchor)
        row = render.questions(position, target, shown).row(0, named=True)
        return [line for message in to_generation_messages(row) for line in message["content"].split("\n")]

    def _written(
        self, person: Person, item: Longs, about: BaselineData | None, anchor: int
    ) -> tuple[Renderer, Longs, Longs, int]:
        """See `written_for`; a rating that the log lacks joins the scale."""
        with self.lock:
            try:
                found = written_for(self.render, self.target, person, item)
            except KeyError:
                self.render = self._with_scale([each.rating for each in person.newer])
                found = written_for(self.render, self.target, person, item)
        if self.signals is None or about is None:
            return found
        return replace(found[0], asked=self.signals(about, anchor)), *found[1:]

    def _with_scale(self, ratings: Sequence[float]) -> Renderer:
        import polars as pl

        render = self.render
        scale = scale_with(render, ratings)
        contexts = pl.DataFrame() if render.samples.context is None else render.samples.context.values
        wording = Wording.of(render.prompt, shown_items(render.samples.items), scale, contexts, {})
        return replace(render, wording=wording, scale=pl.Series(scale))
