"""Scoring with a served model: finds it by name and tests that the server has it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from palate.commands.prepare import chat_of, check_model
from palate.config import Config
from palate.errors import InputError
from palate.models.probe_prompts import invented
from palate.prompt.chat import Chat
from palate.prompt.messages import to_generation_messages

if TYPE_CHECKING:
    from palate.score.scorer import Scorer

PROBES = 3
"""The number of probes: prompts with invented titles that test a server."""


def check_scored_with(config: Config) -> Chat:
    """As `check_model` for what scores: a server needs no weights here."""
    return check_model(config) if config.score.server is None else chat_of(config)


def served_name(config: Config, adapter: Path | None) -> str:
    """The server's name of the base with the adapter, or of the base alone.

    Raises `InputError`, with what it does serve, if the config does not say: a guess might score the wrong one.
    """
    from palate.score.server import names_at

    option = "served_base" if adapter is None else "served_model"
    name: str | None = getattr(config.score, option)
    if name is None:
        names = names_at(str(config.score.server))
        what = "the base model alone" if adapter is None else "the base with the adapter, or merged"
        raise InputError(
            f"is not set, expected what {config.score.server} calls {what}"
            + (f": {', '.join(names)}" if names else ""),
            f"score.{option}",
        )
    return name


def served_scorer(config: Config, adapter: Path | None) -> "Scorer":
    """A scorer that calls the config's server, tested on probes; it loads no weights.

    Raises `InputError` if the adapter was trained with another prompt, and where its server has both, if base and
    adapter answer alike.
    """
    from palate.models.adapter import check_same_prompt, shown_vectors
    from palate.score.scorer import Scorer
    from palate.score.server import check_differ, connect
    from palate.tokens.cut import cut_prompts

    chat, options = chat_of(config), config.score
    url, name = str(options.server), served_name(config, adapter)
    conversations = [to_generation_messages(invented(config, n)) for n in range(PROBES)]
    probes = cut_prompts(chat.decision_prompts(conversations), chat, config.tokens.cutoff_len)
    if adapter is not None:
        check_same_prompt(adapter, chat, config.prompt)
        shown = shown_vectors(adapter)
        chat = chat if shown is None else chat.with_items(shown["count"])
    backend = connect(url, name, chat, probes, in_flight=options.in_flight)
    if adapter is not None and options.served_base is not None:
        check_differ(backend, connect(url, options.served_base, chat, probes), probes)
    return Scorer(
        backend,
        adapter,
        chat=chat,
        prompt=config.prompt,
        history_len=config.prepare.history_len,
        cutoff_len=config.tokens.cutoff_len,
    )


def served_key(config: Config, adapter: Path | None) -> dict[str, Any]:
    """The key of a served model's scores, beside tokens and adapter: Palate cannot hash its weights."""
    return {"server": config.score.server, "served_model": served_name(config, adapter)}


def check_served_key(config: Config, key: dict[str, Any], adapter: Path | None, file: Path) -> None:
    """Raise `InputError` if scores were not made by the server and the model that the config names."""
    named = config.score.served_base if adapter is None else config.score.served_model
    if (key["server"], key.get("served_model")) != (config.score.server, named):
        option = "served_base" if adapter is None else "served_model"
        raise InputError(
            f"was scored by {key.get('served_model')!r} at {key['server']}, expected score.server and score.{option} "
            f"to say so (they are {config.score.server} and {named!r})",
            file,
        )
