"""Answers from an OpenAI-compatible server: vLLM, SGLang, llama.cpp, and what else returns log-probabilities."""

from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from queue import Empty, SimpleQueue

import numpy as np

from palate.errors import InputError, WorkError
from palate.prompt.chat import Chat
from palate.score.backend import Floats, Ids, OnBatch
from palate.score.client import Client, RefusedError
from palate.score.completions import PATH, TOP, NextToken, Token, forced, read, request

BIASES = (50.0, 100.0)
"""Added to an answer's logit where it is not among the likeliest tokens; servers take no more than 100."""
Answers = tuple[float, float]
"""log P of yes and no."""
HEED = 1.0
"""Seconds after which a wait looks up: Ctrl-C that comes just before a wait would not end it."""


class PromptRefusedError(InputError):
    """A prompt that the server will not have."""


@dataclass(frozen=True)
class ServerBackend:
    """Asks a server for the log-probabilities of the two answers, one request a prompt, several at a time.

    Prompts are sent as token ids (or, where the server takes none, as text that gives the same ids), in the order in
    which those with a common beginning follow each other, as the server's prefix cache likes it. An answer that is
    not among the `TOP` likeliest tokens is asked for once more with a bias on its logit; see `completions.forced`.

    Temperature is 0 and nothing is sampled from: one position's distribution is all that is read.
    """

    url: str
    model: str
    chat: Chat
    in_flight: int = 8
    as_text: bool = False
    key: str | None = field(default=None, repr=False)

    def answers(self, prompts: Sequence[Ids]) -> Floats:
        """log P of yes and no behind each prompt, (n, 2) float32, in their order."""
        return self.answers_behind((), prompts, len(prompts), lambda n: None)

    def answers_behind(self, prefix: Ids, rests: Sequence[Ids], batch_size: int, on_batch: OnBatch) -> Floats:
        """As `answers` for prompts that begin alike (`prefix` may be empty): the gain is the server's prefix cache's.

        `on_batch` is told of each prompt; `batch_size` is not looked at, `in_flight` is.
        """
        prompts = [[*prefix, *rest] for rest in rests]
        found = np.empty((len(prompts), 2), np.float32)
        order = sorted(range(len(prompts)), key=prompts.__getitem__)
        with Client(self.url, self.key) as client, ThreadPoolExecutor(self.in_flight) as pool:
            try:
                if prefix and order:  # computed once, by the first; else by as many as are in flight
                    found[order[0]] = self.answer(client, prompts[order[0]])
                    on_batch(1)
                tasks = {pool.submit(self.answer, client, prompts[row]): row for row in order[bool(prefix) :]}
                for task in _as_completed(tasks):
                    found[tasks[task]] = task.result()
                    on_batch(1)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                client.close()  # else leaving the pool would wait for answers that nobody wants any more
                raise
        return found

    def answer(self, client: Client, prompt: list[int]) -> Answers:
        """log P of yes and no behind one prompt."""
        plain = self.next_token(client, prompt)
        yes, no = (self._log_p(client, prompt, plain, answer) for answer in self._answers)
        return yes, no

    def _log_p(self, client: Client, prompt: list[int], plain: NextToken, answer: int) -> float:
        """log P of one answer: as told, or found with a bias where it was not told."""
        token = self._named(answer, plain)
        if token in plain.log_p:
            return plain.log_p[token]
        for bias in BIASES:
            pushed = self.next_token(client, prompt, {str(answer): bias})
            found = forced(plain, pushed, self._named(answer, pushed), bias)
            if found is not None:
                return found
        raise WorkError(
            f"{self.url}: {self.chat.tokenizer.decode([answer])!r} is not among the {len(plain.log_p)} tokens that the "
            f"server tells of, nor chosen with a logit_bias of {BIASES[-1]:g}: its probability cannot be had"
        )

    def next_token(self, client: Client, prompt: list[int], bias: dict[str, float] | None = None) -> NextToken:
        """One request; raises `InputError` for an answer to another prompt, or without log-probabilities."""
        sent = self._text(prompt) if self.as_text else prompt
        body = request(self.model, sent, self._answers) | ({"logit_bias": bias} if bias else {})
        try:
            found = read(client.post(PATH, body))
        except RefusedError as error:
            raise self._refused(error, len(prompt)) from error
        if found is None:
            raise InputError(
                f"answers without log-probabilities, asked for those of {TOP} tokens: does {self.model!r} return any?",
                self.url,
            )
        if found.prompt_tokens is not None and found.prompt_tokens != len(prompt):
            raise InputError(
                f"counts {found.prompt_tokens} tokens in a prompt of {len(prompt)}: expected the tokenizer of "
                f"{self.chat.tokenizer.name_or_path}, and nothing added to the prompt (such as a BOS token)",
                self.url,
            )
        return found

    def _refused(self, error: RefusedError, length: int) -> InputError:
        if error.status == 404 and self.model not in error.said:
            return InputError(f"has no {PATH} ({error.said}), expected an OpenAI-compatible server", self.url)
        if error.status == 404:
            return InputError(f"does not serve {self.model!r}: {error.said}", self.url)
        return PromptRefusedError(f"refuses a prompt of {length} tokens ({error.status}): {error.said}", self.url)

    @property
    def _answers(self) -> tuple[int, int]:
        return self.chat.decision.yes_id, self.chat.decision.no_id

    def _named(self, answer: int, told: NextToken) -> Token:
        """An answer as the server names it."""
        return answer if told.by_id else self._answer_texts[answer]

    @cached_property
    def texts(self) -> list[str]:
        """The text of every token of our tokenizer."""
        ids = [[n] for n in range(len(self.chat.tokenizer))]
        found: list[str] = self.chat.backend.decode_batch(ids, skip_special_tokens=False)
        return found

    @cached_property
    def _answer_texts(self) -> dict[int, str]:
        """The answers' texts; raises `InputError` if other tokens have the same, for a server that tells no ids."""
        for answer in self._answers:
            same = self.texts.count(self.texts[answer])
            if same > 1:
                raise InputError(
                    f"names tokens by their text, and {same} tokens read {self.texts[answer]!r}: "
                    "expected a server that tells their ids (vLLM, llama.cpp)",
                    self.url,
                )
        return {answer: self.texts[answer] for answer in self._answers}

    def _text(self, prompt: list[int]) -> str:
        """A prompt's text; raises `InputError` if it would not become the same tokens again."""
        backend = self.chat.backend
        text: str = backend.decode(prompt, skip_special_tokens=False)
        if backend.encode(text, add_special_tokens=False).ids != prompt:
            raise InputError(
                f"takes prompts as text only, and one of {len(prompt)} tokens would become other tokens: "
                "expected a server that takes token ids (vLLM, SGLang, llama.cpp)",
                self.url,
            )
        return text


def _as_completed(tasks: Collection[Future[Answers]]) -> Iterator[Future[Answers]]:
    """The tasks as they end. The standard library's waits without looking up."""
    finished: SimpleQueue[Future[Answers]] = SimpleQueue()
    for task in tasks:
        task.add_done_callback(finished.put)
    left = len(tasks)
    while left:
        with suppress(Empty):
            yield finished.get(timeout=HEED)
            left -= 1
