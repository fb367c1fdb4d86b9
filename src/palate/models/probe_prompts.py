"""The prompts for the proof of an export: the run's validation examples, or invented ones of the same form."""

import random
from typing import Any

from palate.config import Config
from palate.prompt.item_tokens import item_token
from palate.prompt.messages import Message, to_generation_messages
from palate.tokens.examples import load_examples

PROMPTS = 24
"""24 prompts give 276 pairs; a model with 8 billion weights takes some minutes for them on a CPU."""


def conversations(config: Config) -> tuple[list[list[Message]], str]:
    """Conversations that end with the user's turn, and their source.

    They are taken from `eval.json` in the prepared data at even distances, or invented if there is no such file. Raises
    `InputError` if the file is broken.
    """
    file = config.data_path / "eval.json"
    examples = list(load_examples(file)) if file.is_file() else []
    if not examples:
        return [to_generation_messages(invented(config, n)) for n in range(PROMPTS)], "invented"
    n = min(PROMPTS, len(examples))
    return [to_generation_messages(examples[i * len(examples) // n]) for i in range(n)], str(file)


def invented(config: Config, n: int) -> dict[str, Any]:
    """An example with the config's prompt and invented titles; with `{item_vector}` also tokens of the first items."""
    draw = random.Random(n)
    titles = [f"The {draw.choice(('Long', 'Last', 'Blue', 'Silent'))} Film {draw.randrange(100)}" for _ in range(9)]
    if config.prompt.names_vectors:
        titles = [f"{title} {item_token(draw.randrange(8))}" for title in titles]
    history = "\n".join(f"{k}. {title} ({draw.randint(1, 5)}.0)" for k, title in enumerate(titles[:-1], 1))
    return config.prompt.alpaca(history, titles[-1], config.prompt.yes, config.prepare.history_len)
