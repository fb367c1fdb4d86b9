"""Render a history and its candidates as conversations, with the wording of training."""

from collections.abc import Mapping, Sequence
from typing import Any

from palate.errors import InputError
from palate.prompt.item_tokens import FIELD, item_token, without_item_tokens
from palate.prompt.messages import Message, to_generation_messages
from palate.prompt.spec import PromptSpec, split_template

Item = Mapping[str, Any]
"""An item's columns by name: `title` and others; in a history also `rating`."""
Candidate = Item | str
"""An item, or its title."""


def conversations(
    prompt: PromptSpec, history: Sequence[Item], candidates: Sequence[Candidate], history_len: int | None
) -> list[list[Message]]:
    """One conversation per candidate, each ending with the user's turn.

    Prompts show the last `history_len` items of the history (None: all) and their number in the header.
    `palate.samples.items` formats genres and years. Raises `InputError` for an item without a field that its line
    names, or with a value that does not fit the field's format.
    """
    past = _shown(history if history_len is None else history[max(0, len(history) - history_len) :], prompt)
    items = _shown([{"title": item} if isinstance(item, str) else item for item in candidates], prompt)
    _check(past, prompt.history_line, "history", ["rating"])
    _check(items, prompt.candidate_line, "candidates", [])
    try:
        lines = prompt.history(past, [float(item["rating"]) for item in past])
        texts = [prompt.candidate(item) for item in items]
    except (ValueError, TypeError) as error:
        raise InputError(f"a value does not fit the prompt's format: {error}", "prompt") from None
    return [to_generation_messages(prompt.alpaca(lines, text, "", len(past))) for text in texts]


def _shown(items: Sequence[Item], prompt: PromptSpec) -> list[dict[str, Any]]:
    """Items with `genres` and `year` as prompts write them, if the prompt names these fields."""
    rows = [dict(item) for item in items]
    if prompt.names_vectors:
        rows = [{name: _plain(name, value) for name, value in row.items()} for row in rows]
    named = {part.field for line in (prompt.history_line, prompt.candidate_line) for part in split_template(line)}
    from palate.samples.items import DERIVED, SOURCES, shown_items

    if not rows or not named & DERIVED.keys():
        return rows
    import polars as pl

    names = [name for name in SOURCES if all(name in row for row in rows)]
    if "title" not in names:
        return rows
    shown = shown_items(pl.DataFrame({name: [row[name] for row in rows] for name in names}, strict=False))
    missing = {name: text for name, text in DERIVED.items() if text is not None and name not in shown.columns}
    shown = shown.with_columns(pl.lit(text).alias(name) for name, text in missing.items())
    return [row | columns for row, columns in zip(rows, shown.to_dicts(), strict=True)]


def _plain(name: str, value: Any) -> Any:
    """A value of an item without item tokens, except those of the vector: its row of the item table becomes its token.

    Raises `InputError` for a vector that is no row.
    """
    if name == FIELD:
        if not isinstance(value, int) or value < 0:
            raise InputError(f"is {value!r}, expected a row of the item table", FIELD)
        return item_token(value)
    return without_item_tokens(value) if isinstance(value, str) else value


def _check(items: Sequence[Item], line: str, place: str, required: Sequence[str]) -> None:
    """Raise `InputError` for an item without a `required` field or one that the line names."""
    named = [*required, *(p.field for p in split_template(line) if p.field not in (None, "n", "rating"))]
    for number, item in enumerate(items, 1):
        missing = next((name for name in named if name not in item), None)
        if missing is not None:
            raise InputError(f"has no {missing}, expected what the prompt's line {line!r} names", f"{place}: {number}")
