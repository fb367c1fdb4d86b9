"""Item tokens: the text of the field `{item_vector}`, one token of the vocabulary per item.

The token of row n of the item table is ⟦n⟧. A tokenizer without these tokens gets them behind its own, so row n has the
id first + n. Its embedding is no stored row: `palate.models.item_embedding` computes it from the item's vector.

A prompt with the field replaces the two brackets in every other text of an item by square brackets. So the tokenizer
finds an item token where the field is, and nowhere else: no title can become one, whatever stands beside it.
"""

import re
from typing import Any

FIELD = "item_vector"
"""The field of a prompt."""
BRACKETS = "⟦⟧"
_TOKEN = re.compile(r"⟦(0|[1-9][0-9]*)⟧")
_PLAIN = str.maketrans(BRACKETS, "[]")


def item_token(row: int) -> str:
    """The token of a row of the item table, from 0. It has no letters, whose case a chat template may change."""
    return f"⟦{row}⟧"


def is_item_token(text: str) -> bool:
    """Whether a token is that of an item."""
    return _TOKEN.fullmatch(text) is not None


def without_item_tokens(text: str) -> str:
    """User text with square brackets in place of those of item tokens."""
    return text.translate(_PLAIN)


def item_tokens(count: int) -> list[Any]:
    """The tokens of the first `count` items as `tokenizers.AddedToken`, found before the text is normalized."""
    from tokenizers import AddedToken

    return [AddedToken(item_token(row), normalized=False, special=False) for row in range(count)]
