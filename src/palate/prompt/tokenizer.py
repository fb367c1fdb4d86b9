"""Load a tokenizer by name, from the place that `palate.store.hub` finds, and identify it by hashes."""

import datetime
import hashlib
import re
from collections.abc import Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from palate.errors import InputError, first_line
from palate.progress import working
from palate.prompt.template import DATE, Template, with_date, without_date
from palate.snapshot import snapshot
from palate.store.artifacts import reading
from palate.store.hub import Location, converted_folder, locate


@lru_cache(maxsize=4)
def load_tokenizer(name: str, revision: str | None = None, template_date: datetime.date = DATE) -> Any:
    """A fast transformers tokenizer: `qwen3`, `smollm2`, a hub id, a folder or a GGUF file.

    Its chat template writes `template_date` as today's date. Raises `InputError` if it cannot be loaded, `WorkError` if
    the hub cannot be reached.
    """
    return dated(tokenizer_at(locate(name, tokenizer=True), revision), template_date)


def dated(tokenizer: Any, template_date: datetime.date) -> Any:
    """The tokenizer, after fixing the date in its chat template."""
    fixed = with_date(tokenizer.chat_template, template_date)
    if fixed != tokenizer.chat_template:
        tokenizer.chat_template = fixed
    return tokenizer


def tokenizer_at(location: Location, revision: str | None = None) -> Any:
    """Load the tokenizer at `location`."""
    place = Path(location.path or str(location.hub_id))
    with working("loading the tokenizer"), reading(place):  # the import of transformers takes seconds
        return _tokenizer_at(location, revision)


def _tokenizer_at(location: Location, revision: str | None) -> Any:
    from transformers import AutoTokenizer

    place = location.path or location.hub_id
    try:
        if location.path is None:
            tokenizer = AutoTokenizer.from_pretrained(
                str(snapshot(str(location.hub_id), revision)), trust_remote_code=False
            )
            tokenizer.name_or_path = location.hub_id
            return tokenizer
        if location.path.suffix == ".gguf":
            if any(find_spec(name) is None for name in ("gguf", "torch")):
                raise InputError("is a GGUF file, which needs the train extra: pip install 'palate[train]'", place)
            folder = converted_folder(location.path)
            if (folder / "config.json").is_file():  # faster: Python reads a GGUF file slowly
                tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
                tokenizer.name_or_path = str(location.path.parent)
                return tokenizer
            return AutoTokenizer.from_pretrained(str(location.path.parent), gguf_file=location.path.name)
        return AutoTokenizer.from_pretrained(str(location.path), trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise InputError(
            f"no tokenizer can be loaded, expected a folder or hub id with one: {why_not_loaded(error)}",
            place,
        ) from error


def why_not_loaded(error: Exception) -> str:
    """Why transformers does not load a tokenizer or a model, in a line.

    It has `trust_remote_code=False`; unset, it would ask on a terminal whether to run the folder's code.
    """
    if "custom code" in str(error):
        return "it brings code of its own, which Palate never runs; expected a model type that transformers has"
    return first_line(error)


def tokenizer_identity(tokenizer: Any) -> dict[str, str]:
    """Hashes of what a tokenizer's output depends on: its `tokenizer.json` and its chat template's renderings."""
    return {
        "tokenizer": hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
        "chat template": Template(tokenizer).identity(),
    }


def tokenizer_key(tokenizer: Any) -> dict[str, str]:
    """`tokenizer_identity` and a hash of the chat template's text, since probes cannot show every effect of it."""
    text = hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()
    return tokenizer_identity(tokenizer) | {"chat template's text": text}


def is_text_hash(template: str) -> bool:
    """Whether a recorded chat template is a hash of its text, the record of earlier versions."""
    return re.fullmatch(r"[0-9a-f]{64}", template) is not None


def rendered_otherwise(tokenizer: Any) -> bool:
    """Whether earlier versions rendered the chat template differently: with the current date, or in another form."""
    template = tokenizer.chat_template
    return bool(without_date(template) != template or any(Template(tokenizer).form))


def differing(tokenizer: Any, recorded: Mapping[str, str]) -> str | None:
    """The first part of a tokenizer's identity that differs from the record; None if none does.

    Earlier versions recorded a hash of the chat template's text.
    """
    for what, value in tokenizer_identity(tokenizer).items():
        before = recorded.get(what, "")
        if what == "chat template" and is_text_hash(before):
            value = hashlib.sha256(str(without_date(tokenizer.chat_template)).encode()).hexdigest()
        if before != value and not value.startswith(f"{before} "):  # an earlier version recorded only short turns
            return what
    return None
