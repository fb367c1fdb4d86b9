"""Requests to OpenAI-compatible completion servers, and parsers of the log-probabilities in their replies.

Servers name tokens in three ways. vLLM writes `token_id:123` on request; llama.cpp lists id, text and bytes; SGLang
and servers of OpenAI's original format give only the text.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from palate.errors import WorkError

PATH = "/v1/completions"
TOP = 20
"""Number of likeliest tokens to request: vLLM's maximum unless it was started with `--max-logprobs`."""
ID = "token_id:"
IMPOSSIBLE = -9999.0
"""vLLM's value for minus infinity."""

SLACK = 0.5
"""Tolerance between the log-probabilities of two replies: in half precision they depend on the server's batch."""

Token = int | str
"""A token's id, or its text if the server returns no id."""


@dataclass(frozen=True)
class NextToken:
    """A server's reply to one prompt: log-probabilities of the likeliest next tokens and of the chosen one."""

    log_p: Mapping[Token, float]
    chosen: Token
    texts: Mapping[int, str]
    """The texts of the tokens that the server names by id and text."""
    prompt_tokens: int | None
    """The server's count of the prompt's tokens."""

    @property
    def by_id(self) -> bool:
        """Whether the server names tokens by id."""
        return isinstance(self.chosen, int)


def request(model: str, prompt: Sequence[int] | str, answers: Sequence[int]) -> dict[str, Any]:
    """The body of a request for the log-probabilities of one next token.

    It sets every sampling option to its neutral value, because servers take defaults from the model's
    `generation_config.json`. Servers ignore the fields outside OpenAI's format that they do not implement;
    `logprob_token_ids` (vLLM since mid-2026) returns both answers whatever their rank.
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
    """Parse a reply; None if it is well formed but has no log-probabilities.

    Raises `WorkError` for an unknown format, and for values that are not log-probabilities.
    """
    try:
        choice = reply["choices"][0]
        logprobs = choice.get("logprobs")
        if not logprobs:
            return None
        prompt_tokens = (reply.get("usage") or {}).get("prompt_tokens")
        text = str(choice.get("text", ""))
        log_p, chosen, texts = (
            _from_list(logprobs["content"][0]) if "content" in logprobs else _from_map(logprobs, text)
        )
        log_p = {token: value for token, value in log_p.items() if not value <= IMPOSSIBLE}
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise WorkError(
            f"its reply has an unknown format, expected vLLM's, SGLang's or llama.cpp's: {str(reply)[:200]}"
        ) from error
    # The bounds leave room for rounding and for half precision on the server.
    if not all(value <= 0.01 for value in log_p.values()) or sum(math.exp(value) for value in log_p.values()) > 1.05:
        raise WorkError(
            f"its values are not log-probabilities, expected those of vLLM, SGLang or llama.cpp: "
            f"{str(dict(log_p))[:200]}"
        )
    return NextToken(log_p, chosen, texts, prompt_tokens)


def forced(plain: NextToken, pushed: NextToken, token: Token, bias: float) -> float | None:
    """log P of a token, from a second reply in which the server added `bias` to the token's logit.

    The bias b turns the token's probability p into p eᵇ / Z and every other q into q / Z, where Z = 1 − p + p eᵇ.
    vLLM and llama.cpp report probabilities before the bias: log p itself, as a reply always has the chosen token.
    SGLang reports them after it: log p = reported − b + log Z, where log Z is the drop of all other tokens. If the
    token's reported value exceeds those of all others, which it does not in `plain`, the server reports after the bias.

    Returns None if the server chose another token in spite of the bias. Raises `WorkError` if the replies fit neither.
    """
    if pushed.chosen != token:
        return None
    reported = pushed.log_p[token]
    others = {other for other in plain.log_p.keys() & pushed.log_p.keys() - {token} if not _is_ambiguous(other)}
    if not others:
        raise WorkError("its two replies share no token, so the effect of a logit_bias cannot be measured")
    drop = statistics.median(plain.log_p[other] - pushed.log_p[other] for other in others)
    if reported < max(pushed.log_p[other] for other in others):
        log_p, expected = reported, 0.0
    else:
        log_p = reported - bias + drop
        expected = math.log1p(math.exp(log_p) * math.expm1(bias))
    if log_p > 0.01 or abs(drop - expected) > SLACK:
        raise WorkError(
            f"it does not add logit_bias to logits, expected vLLM, SGLang or llama.cpp: a bias "
            f"of {bias:g} moved others by {-drop:g}"
        )
    return log_p


def _is_ambiguous(token: Token) -> bool:
    """Whether several tokens may have this text: every incomplete character decodes to U+FFFD."""
    return isinstance(token, str) and "\N{REPLACEMENT CHARACTER}" in token


def _from_list(first: Any) -> tuple[dict[Token, float], Token, dict[int, str]]:
    """The format of llama.cpp and of OpenAI's chat completions: a list of tokens."""
    entries = [*first.get("top_logprobs", ()), first]
    log_p: dict[Token, float] = {}
    for entry in entries:
        log_p[_name(entry)] = float(entry["logprob"])
    return log_p, _name(first), {entry["id"]: entry["token"] for entry in entries if "id" in entry}


def _name(entry: Any) -> Token:
    return int(entry["id"]) if "id" in entry else str(entry["token"])


def _from_map(logprobs: Any, text: str) -> tuple[dict[Token, float], Token, dict[int, str]]:
    """The format of OpenAI's completions, and of vLLM, which writes ids: a mapping of tokens."""
    log_p = {_token(name): float(value) for name, value in (logprobs.get("top_logprobs") or [{}])[0].items()}
    chosen = _token(logprobs["tokens"][0])
    log_p[chosen] = float(logprobs["token_logprobs"][0])
    if isinstance(chosen, str):
        return log_p, chosen, {}
    return log_p, chosen, {chosen: text}


def _token(name: str) -> Token:
    return int(name.removeprefix(ID)) if name.startswith(ID) else name
