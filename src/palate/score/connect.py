"""Makes certain of a server before it is asked ten thousand times: what it serves, and what it means by it."""

import logging
import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from palate.errors import InputError, WorkError
from palate.prompt.chat import Chat
from palate.score.backend import Ids
from palate.score.client import KEY_VARIABLE, Client, RefusedError
from palate.score.completions import SLACK, NextToken, forced
from palate.score.server import BIASES, PromptRefusedError, ServerBackend

log = logging.getLogger(__name__)


def connect(url: str, model: str, chat: Chat, probes: Sequence[Ids], *, in_flight: int = 8) -> ServerBackend:
    """A backend that has been tried on a few prompts; the API key is in `$PALATE_SERVER_KEY`.

    It is made certain that the server is there, serves `model`, counts as many tokens in the probes as we do, calls
    tokens what our tokenizer calls them, returns log-probabilities, and adds a `logit_bias` as such. Raises
    `InputError` or `WorkError`, with what was found instead.
    """
    backend = ServerBackend(url, model, chat, in_flight, key=os.environ.get(KEY_VARIABLE) or None)
    with Client(url, backend.key, tries=1) as client:
        _check_served(client, model)
    with Client(url, backend.key) as client:
        try:
            first = backend.next_token(client, list(probes[0]))
        except PromptRefusedError as refusal:
            backend = replace(backend, as_text=True)
            try:
                first = backend.next_token(client, list(probes[0]))
            except InputError:
                raise refusal from None
            log.info("%s takes no token ids: prompts are sent as text", url)
        _check_bias(backend, client, list(probes[0]), first)
        for probe in probes:
            _check_tokenizer(backend, backend.next_token(client, list(probe)))
            backend.answer(client, list(probe))
    return backend


def check_differ(adapted: ServerBackend, base: ServerBackend, probes: Sequence[Ids]) -> None:
    """Raise `InputError` if two served models answer alike: an adapter that was not loaded says nothing of it."""
    if np.abs(adapted.answers(probes) - base.answers(probes)).max() < 1e-3:
        raise InputError(
            f"{adapted.model!r} answers {len(probes)} prompts as {base.model!r} does: is the adapter loaded?",
            adapted.url,
        )


def names_at(url: str) -> list[str] | None:
    """As `served_models`, of the server at an address."""
    with Client(url, os.environ.get(KEY_VARIABLE) or None, tries=1) as client:
        return served_models(client)


def served_models(client: Client) -> list[str] | None:
    """The names of what a server serves, aliases too; None if it does not tell.

    Raises as `Client.get` does, but for a server that has no such list.
    """
    try:
        found = client.get("/v1/models")
        return list(dict.fromkeys(name for each in found["data"] for name in (each["id"], *each.get("aliases", ()))))
    except RefusedError:
        return None
    except (LookupError, TypeError) as error:
        raise InputError(
            "has a list of models that cannot be read, expected an OpenAI-compatible server", client.url
        ) from error


def _check_served(client: Client, model: str) -> None:
    """Raise `InputError` if a server lists what it serves, and `model` is not there.

    llama.cpp answers to any name. SGLang's adapters are called `BASE:ADAPTER`.
    """
    names = served_models(client)
    if names is not None and model not in names and model.partition(":")[0] not in names:
        listed = ", ".join(names) or "nothing"
        raise InputError(f"does not serve {model!r}, expected one of: {listed}", client.url)


def _check_bias(backend: ServerBackend, client: Client, probe: list[int], plain: NextToken) -> None:
    """Raise `WorkError` if a probability that is known is not found again with a bias on the token's logit."""
    listed = sorted(plain.log_p, key=plain.log_p.__getitem__)
    token = next((each for each in listed if each != plain.chosen), listed[0])
    answer = token if isinstance(token, int) else backend.texts.index(token) if token in backend.texts else None
    if answer is None or len(plain.log_p) < 2:
        return  # then a bias is of no use, which is told when one is needed
    pushed = backend.next_token(client, probe, {str(answer): BIASES[0]})
    found = forced(plain, pushed, token, BIASES[0])
    if found is not None and abs(found - plain.log_p[token]) > SLACK:
        raise WorkError(
            f"{backend.url}: its logit_bias is not added to logits: {found:.2f} was found for {plain.log_p[token]:.2f}"
        )


def _check_tokenizer(backend: ServerBackend, told: NextToken) -> None:
    """Raise `InputError` if the server calls most tokens other than our tokenizer does."""
    if told.by_id:
        size = len(backend.texts)
        # Special tokens have no text, half a character has none that is its own, and a leading space may be left out.
        known = {n: text for n, text in told.texts.items() if text.strip() and "\N{REPLACEMENT CHARACTER}" not in text}
        ours = {n: backend.texts[n] if n < size else "" for n in known}
        wrong = [n for n in known if ours[n].strip() != known[n].strip()]
        if len(wrong) * 2 > len(known):
            n = wrong[0]
            raise _other_tokenizer(backend, f"calls token {n} {known[n]!r}, which is {ours[n]!r} to")
        return
    texts = set(backend.texts)
    unknown = [token for token in told.log_p if token not in texts]
    if len(unknown) * 2 > len(told.log_p):
        raise _other_tokenizer(backend, f"tells of a token {unknown[0]!r}, which is none of")


def _other_tokenizer(backend: ServerBackend, what: str) -> InputError:
    return InputError(
        f"{what} {backend.chat.tokenizer.name_or_path}: expected {backend.model!r} to have the same tokenizer",
        backend.url,
    )
