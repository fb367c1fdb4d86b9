"""`wrong`: what pydantic refuses in a request, in plain words: the place as in JSON, the value, what is expected."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from palate.errors import did_you_mean

SHOWN = 80
"""Most characters of a value in a message."""
EXPECTED = {
    "string_type": "a text",
    "string_too_short": "a text of at least {min_length} characters",
    "string_too_long": "a text of at most {max_length:,} characters",
    "string_unicode": "a text of valid Unicode",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number of fewer digits",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "greater_than_equal": "at least {ge:,}",
    "less_than_equal": "at most {le:,}",
    "too_short": "at least {min_length:,}",
    "too_long": "at most {max_length:,}",
}
"""What each of pydantic's errors expects, by its type; `{}` are fields of its context."""


def wrong(error: Mapping[str, Any]) -> tuple[str, str]:
    """Place and text of one of a `ValidationError`'s `errors()`: `history[0].rating`, "is 'x', expected a number"."""
    kind, context, value = error["type"], error.get("ctx", {}), error.get("input")
    place = place_of(error["loc"])
    if kind == "missing":
        return place, "is missing"
    if kind == "literal_error":
        names = str(context["expected"])
        near = did_you_mean(str(value), names.replace(" or ", ", ").replace("'", "").split(", "))
        return place, f"is {shown(value)}, expected {names}{near}"
    if kind in EXPECTED:
        return place, f"is {shown(value)}, expected {EXPECTED[kind].format_map(context)}"
    return place, str(context.get("error") or error["msg"])


def place_of(loc: Sequence[int | str]) -> str:
    """A place as JavaScript writes it: `candidates[0].item_id`."""
    place = ""
    for part in loc:
        if isinstance(part, int):
            place += f"[{part}]"
        elif part.isidentifier():
            place += f".{part}"
        else:
            place += f"[{shown(part)}]"
    return place.removeprefix(".")


def shown(value: Any) -> str:
    """A value of JSON for a message: only the beginning of a long text, and what a long list or object is."""
    text = repr(value) if isinstance(value, (str, bytes)) else json.dumps(value, ensure_ascii=False)
    if len(text) <= SHOWN:
        return text
    if isinstance(value, (list, dict)):
        return f"a list of {len(value):,}" if isinstance(value, list) else f"an object with {len(value):,} fields"
    return f"{text[:SHOWN]}…"
