"""What OpenAI-compatible servers say of the next token, in the forms in which they say it.

vLLM names tokens `token_id:123` if asked to; llama.cpp gives a list with id, text and bytes; SGLang, and whatever
follows OpenAI's own form, names tokens by their text alone.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from palate.errors import WorkError

PATH = "/v1/completions"
TOP = 20
"""Tokens to be told of: the most that vLLM tells of unless started with `--max-logprobs`."""
ID = "token_id:"
IMPOSSIBLE = -9999.0
"""What vLLM writes for minus infinity."""

SLACK = 0.5
"""How far a log-probability may move from one answer to the next: in half precision it depends on the batch."""

Token = int | str
"""A token by its id, or by its text where the server tells nothing else."""


@dataclass(frozen=True)
class NextToken:
    """A server's answer to one prompt: log-probabilities of the likeliest next tokens, and of the one it chose."""

    log_p: Mapping[Token, float]
    chosen: Token
    texts: Mapping[int, str]
    """The texts of those tokens that it names by id and text."""
    prompt_tokens: int | None
    """How many tokens it counts in the prompt."""

    @property
    def by_id(self) -> bool:
        """Whether tokens are named by their ids."""
        return isinstance(self.chosen, int)


def request(model: str, prompt: Sequence[int] | str, answers: Sequence[int]) -> dict[str, Any]:
    """The body that asks for the log-probabilities of one next token.

    Everything that could bend the distribution is set to do nothing: servers take their defaults from the model's
    `generation_config.json`. What is not OpenAI's is ignored by the servers that do not know it: `logprob_token_ids`
    (vLLM since mid-2026) has the two answers told whatever their rank.
    """
    return {
        "model": model,
        "prompt": prompt if isinstance(prompt, str) else [int(token) for token in prompt],
        "max_tokens": 1,
        "temperature": 0,
        "top_p": 1,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "repetition_penalty": 1,
        "logprobs": TOP,
        "return_tokens_as_token_ids": True,
        "logprob_token_ids": [int(answer) for answer in answers],
        "add_special_tokens": False,
    }


def read(reply: Any) -> NextToken | None:
    """The answer in a reply; None if it is whole but tells no log-probabilities.

    Raises `WorkError` for a reply of another form, and for log-probabilities that are none.
    """
    try:
        choice = reply["choices"][0]
        told = choice.get("logprobs")
        if not told:
            return None
        counted = (reply.get("usage") or {}).get("prompt_tokens")
        text = str(choice.get("text", ""))
        log_p, chosen, texts = _listed(told["content"][0]) if "content" in told else _mapped(told, text)
        log_p = {token: value for token, value in log_p.items() if not value <= IMPOSSIBLE}
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise WorkError(f"the server answers in a form that is not known: {str(reply)[:200]}") from error
    # Rounding, and half precision on the server's side, are no reason to stop.
    if not all(value <= 0.01 for value in log_p.values()) or sum(math.exp(value) for value in log_p.values()) > 1.05:
        raise WorkError(f"the server's log-probabilities are none: {str(dict(log_p))[:200]}")
    return NextToken(log_p, chosen, texts, counted)


def forced(plain: NextToken, pushed: NextToken, token: Token, bias: float) -> float | None:
    """log P of a token, from a second answer to the prompt in which `bias` was added to the token's logit.

    The bias b makes a probability p into p eᵇ / Z and every other q into q / Z, where Z = 1 − p + p eᵇ. Some servers
    tell what was before the bias (vLLM, llama.cpp): of the token, which is told of because it was chosen, log p itself.
    Others tell what came of it (SGLang): log p = told − b + log Z, and log Z is how far all other tokens have sunk. The
    two are told apart by whether the token now leads all others, as it does not in `plain`.

    None if the bias did not make the server choose the token. Raises `WorkError` if the answers fit neither.
    """
    if pushed.chosen != token:
        return None
    told = pushed.log_p[token]
    others = {other for other in plain.log_p.keys() & pushed.log_p.keys() - {token} if not _is_ambiguous(other)}
    if not others:
        raise WorkError("the server tells of no token twice, so that a bias on its logits cannot be accounted for")
    sunk = statistics.median(plain.log_p[other] - pushed.log_p[other] for other in others)
    if told < max(pushed.log_p[other] for other in others):
        found, expected = told, 0.0
    else:
        found = told - bias + sunk
        expected = math.log1p(math.exp(found) * math.expm1(bias))
    if found > 0.01 or abs(sunk - expected) > SLACK:
        raise WorkError(f"the server's logit_bias is not added to logits: a bias of {bias:g} moved others by {-sunk:g}")
    return found


def _is_ambiguous(token: Token) -> bool:
    """Whether a text may be that of several tokens: every part of a character reads the same."""
    return isinstance(token, str) and "\N{REPLACEMENT CHARACTER}" in token


def _listed(first: Any) -> tuple[dict[Token, float], Token, dict[int, str]]:
    """llama.cpp's form, and that of OpenAI's chats: a list of tokens."""
    entries = [*first.get("top_logprobs", ()), first]
    log_p: dict[Token, float] = {}
    for entry in entries:
        log_p[_name(entry)] = float(entry["logprob"])
    return log_p, _name(first), {entry["id"]: entry["token"] for entry in entries if "id" in entry}


def _name(entry: Any) -> Token:
    return int(entry["id"]) if "id" in entry else str(entry["token"])


def _mapped(told: Any, text: str) -> tuple[dict[Token, float], Token, dict[int, str]]:
    """OpenAI's own form, and with ids vLLM's: a mapping of tokens."""
    log_p = {_token(name): float(value) for name, value in (told.get("top_logprobs") or [{}])[0].items()}
    chosen = _token(told["tokens"][0])
    log_p[chosen] = float(told["token_logprobs"][0])
    if isinstance(chosen, str):
        return log_p, chosen, {}
    return log_p, chosen, {chosen: text}


def _token(name: str) -> Token:
    return int(name.removeprefix(ID)) if name.startswith(ID) else name
