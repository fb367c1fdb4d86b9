"""Loads a tokenizer by name, from where `palate.store.hub` finds it, and tells it from others."""

import datetime
import hashlib
import re
from collections.abc import Mapping
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from palate.errors import InputError, WorkError
from palate.prompt.template import DATE, Template, with_date, without_date
from palate.store.hub import UNREACHABLE, Location, converted_folder, hub_is_out_of_reach, locate


@lru_cache(maxsize=4)
def load_tokenizer(name: str, revision: str | None = None, template_date: datetime.date = DATE) -> Any:
    """A fast transformers tokenizer: `qwen3`, `smollm2`, a hub id, a folder or a GGUF file.

    `template_date` is what its chat template takes for today. Raises `InputError` where there is none to be had.
    """
    return dated(tokenizer_at(locate(name, tokenizer=True), revision), template_date)


def dated(tokenizer: Any, template_date: datetime.date) -> Any:
    """The tokenizer, its chat template changed to one for which it is always the same day."""
    fixed = with_date(tokenizer.chat_template, template_date)
    if fixed != tokenizer.chat_template:
        tokenizer.chat_template = fixed
    return tokenizer


def tokenizer_at(location: Location, revision: str | None = None) -> Any:
    """Load the tokenizer that lies at `location`."""
    from transformers import AutoTokenizer

    place = location.path or location.hub_id
    try:
        if location.path is None:
            local_only = hub_is_out_of_reach()
            return AutoTokenizer.from_pretrained(location.hub_id, revision=revision, local_files_only=local_only)
        if location.path.suffix == ".gguf":
            if any(find_spec(name) is None for name in ("gguf", "torch")):
                raise InputError("is a GGUF file, which takes the train extra: pip install 'palate[train]'", place)
            folder = converted_folder(location.path)
            if (folder / "config.json").is_file():  # the same, and sooner: a GGUF file is read in Python
                tokenizer = AutoTokenizer.from_pretrained(str(folder))
                tokenizer.name_or_path = str(location.path.parent)
                return tokenizer
            return AutoTokenizer.from_pretrained(str(location.path.parent), gguf_file=location.path.name)
        return AutoTokenizer.from_pretrained(str(location.path))
    except (OSError, ValueError, ImportError) as error:
        if location.path is None and hub_is_out_of_reach():
            raise WorkError(f"{place}: {UNREACHABLE}") from error
        raise InputError(f"no tokenizer can be loaded: {str(error).strip().splitlines()[0]}", place) from error


def tokenizer_identity(tokenizer: Any) -> dict[str, str]:
    """What decides a tokenizer's output: its `tokenizer.json`, and what its chat template renders, hashed."""
    return {
        "tokenizer": hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
        "chat template": Template(tokenizer).identity(),
    }


def tokenizer_key(tokenizer: Any) -> dict[str, str]:
    """As `tokenizer_identity`, with the chat template's text: no probe shows all that a template does to texts."""
    text = hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()
    return tokenizer_identity(tokenizer) | {"chat template's text": text}


def is_text_hash(template: str) -> bool:
    """Whether a recorded chat template is the hash of its text, as earlier versions recorded it."""
    return re.fullmatch(r"[0-9a-f]{64}", template) is not None


def rendered_otherwise(tokenizer: Any) -> bool:
    """Whether earlier versions rendered a chat template otherwise: with the day's date, or less than every message."""
    template = tokenizer.chat_template
    return bool(without_date(template) != template or any(Template(tokenizer).form))


def differing(tokenizer: Any, recorded: Mapping[str, str]) -> str | None:
    """Which part of a tokenizer's identity is not as recorded, None if all are.

    Earlier versions recorded a hash of the chat template's text.
    """
    for what, value in tokenizer_identity(tokenizer).items():
        known = recorded.get(what, "")
        if what == "chat template" and is_text_hash(known):
            value = hashlib.sha256(str(without_date(tokenizer.chat_template)).encode()).hexdigest()
        if known != value and not value.startswith(f"{known} "):  # recorded before long turns were rendered
            return what
    return None
