"""`wrong`: what pydantic refuses, in plain words: the place as in JSON, the value, what is expected."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from palate.errors import did_you_mean

SHOWN = 80
"""Most characters of a value in a message."""
EXPECTED = {
    "string_type": "a text",
    "string_too_short": "a text that is not empty",
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
    "tuple_type": "a list",
    **dict.fromkeys(("date_type", "date_parsing", "date_from_datetime_parsing"), "a date such as 2026-11-30"),
    "date_from_datetime_inexact": "a date such as 2026-11-30",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "greater_than": "more than {gt:,}",
    "less_than": "less than {lt:,}",
    "greater_than_equal": "at least {ge:,}",
    "less_than_equal": "at most {le:,}",
    "too_short": "at least {min_length:,}",
    "too_long": "at most {max_length:,}",
}
"""What each of pydantic's errors expects, by its type; `{}` are fields of its context."""


def wrong(error: Mapping[str, Any]) -> tuple[str, str]:
    """Place and text of one of a `ValidationError`'s `errors()`: `history[0].rating`, "is 'x', expected a number"."""
    place, value = place_of(error["loc"]), error.get("input")
    if error["type"] == "missing":
        return place, "is missing"
    if (expected := expected_of(error)) is not None:
        return place, f"is {shown(value)}, expected {expected}{nearest(error)}"
    return place, str(error.get("ctx", {}).get("error") or error["msg"])


def expected_of(error: Mapping[str, Any]) -> str | None:
    """What one of pydantic's errors expects; None if only its message says it."""
    kind, context = error["type"], error.get("ctx", {})
    context = {k: int(v) if isinstance(v, float) and v.is_integer() else v for k, v in context.items()}
    if kind == "literal_error":
        return str(context["expected"])
    return EXPECTED[kind].format_map(context) if kind in EXPECTED else None


def nearest(error: Mapping[str, Any]) -> str:
    """A question with the one of several names that is closest to a wrong one, or nothing."""
    if error["type"] != "literal_error":
        return ""
    names = str(error["ctx"]["expected"]).replace(" or ", ", ").replace("'", "").split(", ")
    return did_you_mean(str(error.get("input")), names)


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
