"""Loads a tokenizer by name, from where `palate.hub` finds it, and tells it from others."""

import hashlib
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from palate.config import Config
from palate.errors import InputError, WorkError
from palate.hub import UNREACHABLE, Location, converted_folder, hub_is_out_of_reach, locate


@lru_cache(maxsize=4)
def load_tokenizer(name: str, revision: str | None = None) -> Any:
    """A fast transformers tokenizer: `qwen3`, `smollm2`, a hub id, a folder or a GGUF file.

    Raises `InputError` where there is none to be had.
    """
    return tokenizer_at(locate(name, tokenizer=True), revision)


def tokenizer_of(config: Config) -> Any:
    """The tokenizer that a config names; `model.revision` applies to it where it is of the model's own repository."""
    name, base = config.tokenizer_name, config.model.base
    own = name == base or locate(name, tokenizer=True).hub_id == base
    return load_tokenizer(name, config.model.revision if own else None)


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
    """What decides a tokenizer's output: its `tokenizer.json` and its chat template, hashed."""
    return {
        "tokenizer": hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
        "chat template": hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest(),
    }
