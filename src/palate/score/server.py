"""Answers from an OpenAI-compatible server that returns log-probabilities: vLLM, SGLang, llama.cpp and others."""

import logging
import os
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from queue import Empty, SimpleQueue

import numpy as np

from palate.errors import InputError, WorkError
from palate.prompt.chat import Chat
from palate.score.backend import Floats, Ids, OnBatch
from palate.score.client import KEY_VARIABLE, Client, RefusedError
from palate.score.completions import PATH, SLACK, TOP, NextToken, Token, forced, read, request
from palate.score.endpoints import Endpoint, endpoint_at, log_p_of

log = logging.getLogger(__name__)

BIASES = (50.0, 100.0)
"""Biases for the logit of an answer outside the likeliest tokens, tried in order; servers accept at most 100."""
Answers = tuple[float, float]
"""log P of yes and no."""
MANY = 64
"""Candidates in a request to a scoring endpoint."""
WAKE = 1.0
"""Seconds between wake-ups of a wait, so that Python handles a Ctrl-C that arrived just before it."""


class PromptRefusedError(InputError):
    """The server refuses a prompt."""


@dataclass(frozen=True)
class ServerBackend:
    """Requests the log-probabilities of the two answers from a server: one request per prompt, several in flight.

    Where the server has a scoring endpoint, a request asks about many prompts with a common prefix.
    It sends prompts as token ids, or as text with the same ids if the server accepts no ids. It sorts them, so that
    prompts with a common prefix follow each other, for the server's prefix cache. An answer outside the `TOP` likeliest
    tokens costs a second request with a bias on its logit; see `completions.forced`.

    The backend reads the distribution at one position: temperature is 0, and the server samples nothing.
    """

    url: str
    model: str
    chat: Chat
    in_flight: int = 8
    as_text: bool = False
    endpoint: Endpoint | None = None
    """The server's scoring endpoint, if it has one."""
    key: str | None = field(default=None, repr=False)

    def answers(self, prompts: Sequence[Ids]) -> Floats:
        """log P of yes and no after each prompt, (n, 2) float32, in input order."""
        return self.answers_behind((), prompts, len(prompts), lambda n: None)

    def answers_behind(self, prefix: Ids, rests: Sequence[Ids], batch_size: int, on_batch: OnBatch) -> Floats:
        """As `answers`, for `prefix` followed by each of `rests`; the server's prefix cache shares `prefix`.

        Calls `on_batch` for each prompt; `in_flight` replaces `batch_size`.
        """
        if prefix and self.endpoint is not None:
            return self._at_once(self.endpoint, prefix, rests, on_batch)
        prompts = [[*prefix, *rest] for rest in rests]
        found = np.empty((len(prompts), 2), np.float32)
        order = sorted(range(len(prompts)), key=prompts.__getitem__)
        # On an error the client closes first: requests in flight end, and those still queued fail at once.
        with ThreadPoolExecutor(self.in_flight) as pool, closing(Client(self.url, self.key)) as client:
            if prefix and order:  # the first request alone fills the server's cache; else every one in flight would
                found[order[0]] = self.answer(client, prompts[order[0]])
                on_batch(1)
            tasks = {pool.submit(self.answer, client, prompts[row]): row for row in order[bool(prefix) :]}
            for task in _as_completed(tasks):
                found[tasks[task]] = task.result()
                on_batch(1)
        return found

    def _at_once(self, endpoint: Endpoint, prefix: Ids, rests: Sequence[Ids], on_batch: OnBatch) -> Floats:
        """Answer prompts with a common prefix by requests about many of them each, one after another."""
        found = [np.empty((0, 2), np.float32)]
        with closing(Client(self.url, self.key)) as client:
            for begin in range(0, len(rests), MANY):
                part = rests[begin : begin + MANY]
                found.append(log_p_of(client, endpoint, self.model, prefix, part, self._answers))
                on_batch(len(part))
        return np.concatenate(found)

    def answer(self, client: Client, prompt: list[int]) -> Answers:
        """log P of yes and no after one prompt."""
        plain = self.next_token(client, prompt)
        yes, no = (self._log_p(client, prompt, plain, answer) for answer in self._answers)
        return yes, no

    def _log_p(self, client: Client, prompt: list[int], plain: NextToken, answer: int) -> float:
        """log P of one answer, from the reply, else from a request with a bias."""
        token = self._token(answer, plain)
        if token in plain.log_p:
            return plain.log_p[token]
        for bias in BIASES:
            pushed = self.next_token(client, prompt, {str(answer): bias})
            with _of(self.url):
                found = forced(plain, pushed, self._token(answer, pushed), bias)
            if found is not None:
                return found
        raise WorkError(
            f"{self.url}: it does not return {self.chat.tokenizer.decode([answer])!r} among its "
            f"{len(plain.log_p)} tokens, nor choose it with a logit_bias of {BIASES[-1]:g}: its probability is unknown"
        )

    def next_token(self, client: Client, prompt: list[int], bias: dict[str, float] | None = None) -> NextToken:
        """Send one request; raises `InputError` if the reply counts other prompt tokens or has no log-probabilities."""
        content = self._text(prompt) if self.as_text else prompt
        body = request(self.model, content, self._answers) | ({"logit_bias": bias} if bias else {})
        try:
            reply = client.post(PATH, body)
        except RefusedError as error:
            raise self._refused(error, len(prompt)) from error
        with _of(self.url):
            found = read(reply)
        if found is None:
            raise InputError(
                f"answers without log-probabilities, expected those of {TOP} tokens: does {self.model!r} return any?",
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
        if error.status == 404 and self.model not in error.message:
            return InputError(f"has no {PATH} ({error.message}), expected an OpenAI-compatible server", self.url)
        if error.status == 404:
            return InputError(
                f"does not serve {self.model!r}, score.served_model names another: {error.message}", self.url
            )
        return PromptRefusedError(f"refuses a prompt of {length} tokens ({error.status}): {error.message}", self.url)

    @property
    def _answers(self) -> tuple[int, int]:
        return self.chat.decision.yes_id, self.chat.decision.no_id

    def _token(self, answer: int, reply: NextToken) -> Token:
        """An answer as the server names it: by id, else by text."""
        return answer if reply.by_id else self._answer_texts[answer]

    @cached_property
    def _answer_texts(self) -> dict[int, str]:
        """The answers' texts, for a server that returns no ids; raises `InputError` if other tokens share one."""
        for answer in self._answers:
            same = self.texts.count(self.texts[answer])
            if same > 1:
                raise InputError(
                    f"names tokens by their text, and {same} tokens read {self.texts[answer]!r}: "
                    "expected a server that returns token ids (vLLM, llama.cpp)",
                    self.url,
                )
        return {answer: self.texts[answer] for answer in self._answers}

    @cached_property
    def texts(self) -> list[str]:
        """The text of every token of the local tokenizer."""
        ids = [[n] for n in range(len(self.chat.tokenizer))]
        found: list[str] = self.chat.backend.decode_batch(ids, skip_special_tokens=False)
        return found

    def _text(self, prompt: list[int]) -> str:
        """A prompt's text; raises `InputError` if it encodes to other tokens."""
        backend = self.chat.backend
        text: str = backend.decode(prompt, skip_special_tokens=False)
        if backend.encode(text, add_special_tokens=False).ids != prompt:
            raise InputError(
                f"accepts prompts as text only, and one of {len(prompt)} tokens would become other tokens: "
                "expected a server that accepts token ids (vLLM, SGLang, llama.cpp)",
                self.url,
            )
        return text


def _as_completed(tasks: Collection[Future[Answers]]) -> Iterator[Future[Answers]]:
    """The tasks in order of completion; `concurrent.futures.as_completed` would block a Ctrl-C."""
    finished: SimpleQueue[Future[Answers]] = SimpleQueue()
    for task in tasks:
        task.add_done_callback(finished.put)
    left = len(tasks)
    while left:
        with suppress(Empty):
            yield finished.get(timeout=WAKE)
            left -= 1


def connect(url: str, model: str, chat: Chat, probes: Sequence[Ids], *, in_flight: int = 8) -> ServerBackend:
    """Make a backend and check the server on a few prompts; `$PALATE_SERVER_KEY` holds the API key.

    The server must serve `model`, count the probes' tokens and name tokens as the local tokenizer does, return
    log-probabilities, and add a `logit_bias` to logits. Raises `InputError` or `WorkError` if it does not.
    """
    names = names_at(url)
    # llama.cpp accepts any name; SGLang names adapters `BASE:ADAPTER`.
    if names is not None and model not in names and model.partition(":")[0] not in names:
        raise InputError(f"does not serve {model!r}, expected one of: {', '.join(names) or 'nothing'}", url)
    backend = ServerBackend(url, model, chat, in_flight, key=os.environ.get(KEY_VARIABLE) or None)
    with closing(Client(url, backend.key)) as client:
        try:
            first = backend.next_token(client, list(probes[0]))
        except PromptRefusedError as refusal:
            backend = replace(backend, as_text=True)
            try:
                first = backend.next_token(client, list(probes[0]))
            except InputError:
                raise refusal from None
            log.info("%s accepts no token ids: sending prompts as text", url)
        _check_bias(backend, client, list(probes[0]), first)
        for probe in probes:
            _check_tokenizer(backend, backend.next_token(client, list(probe)))
            answers = backend.answer(client, list(probe))
        if probes and not backend.as_text:
            once = Client(url, backend.key, tries=1)
            with closing(once):
                endpoint = endpoint_at(once, model, probes[-1], backend._answers, answers, SLACK)
            backend = replace(backend, endpoint=endpoint)
            if endpoint is not None:
                log.info("%s has %s: one request scores many candidates", url, endpoint)
    return backend


@contextmanager
def _of(url: str) -> Iterator[None]:
    """Name the server in a `WorkError` that a reply causes."""
    try:
        yield
    except WorkError as error:
        raise WorkError(f"{url}: {error}") from error


def check_differ(adapted: ServerBackend, base: ServerBackend, probes: Sequence[Ids]) -> None:
    """Raise `InputError` if two served models give equal answers: the server may not have loaded the adapter."""
    if np.abs(adapted.answers(probes) - base.answers(probes)).max() < 1e-3:
        raise InputError(
            f"{adapted.model!r} and {base.model!r} give equal answers to {len(probes)} prompts: is the adapter loaded?",
            adapted.url,
        )


def names_at(url: str) -> list[str] | None:
    """The names and aliases of the models that a server serves; None if the server has no such list."""
    with closing(Client(url, os.environ.get(KEY_VARIABLE) or None, tries=1)) as client:
        try:
            models = client.get("/v1/models")["data"]
            return list(dict.fromkeys(name for each in models for name in (each["id"], *each.get("aliases", ()))))
        except RefusedError:
            return None
        except (LookupError, TypeError) as error:
            raise InputError(
                "returns an unreadable list of models, expected an OpenAI-compatible server", url
            ) from error


def _check_bias(backend: ServerBackend, client: Client, probe: list[int], plain: NextToken) -> None:
    """Raise `WorkError` if a bias on a token's logit gives another probability than the plain reply."""
    listed = sorted(plain.log_p, key=plain.log_p.__getitem__)
    token = next((each for each in listed if each != plain.chosen), listed[0])
    answer = token if isinstance(token, int) else backend.texts.index(token) if token in backend.texts else None
    if answer is None or len(plain.log_p) < 2:
        return  # if scoring needs a bias later, `forced` reports that it has no effect
    pushed = backend.next_token(client, probe, {str(answer): BIASES[0]})
    with _of(backend.url):
        found = forced(plain, pushed, token, BIASES[0])
    if found is not None and abs(found - plain.log_p[token]) > SLACK:
        raise WorkError(
            f"{backend.url}: it does not add logit_bias to logits, expected vLLM, SGLang or llama.cpp: "
            f"log P is {found:.2f} with a bias and "
            f"{plain.log_p[token]:.2f} without"
        )


def _check_tokenizer(backend: ServerBackend, reply: NextToken) -> None:
    """Raise `InputError` if the server names most tokens differently from the local tokenizer."""
    wrong: list[str] = []
    if reply.by_id:
        # Special tokens have no text, part of a character decodes to U+FFFD, and servers may strip a leading space.
        named = {n: text for n, text in reply.texts.items() if text.strip() and "\N{REPLACEMENT CHARACTER}" not in text}
        count = len(named)
        for n, text in named.items():
            local = backend.texts[n] if n < len(backend.texts) else ""
            if local.strip() != text.strip():
                wrong.append(f"decodes token {n} to {text!r}, which is {local!r} in")
    else:
        vocabulary: set[Token] = set(backend.texts)
        count = len(reply.log_p)
        wrong = [f"names a token {token!r}, which is not in" for token in reply.log_p if token not in vocabulary]
    if len(wrong) * 2 > count:
        raise InputError(
            f"{wrong[0]} {backend.chat.tokenizer.name_or_path}: expected {backend.model!r} to have the same tokenizer",
            backend.url,
        )
