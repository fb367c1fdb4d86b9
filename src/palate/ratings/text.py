"""Put text on one line, without control characters and escape sequences, and read the entities of HTML."""

import html
import re
from html.entities import html5

import polars as pl

# C0, C1, line and paragraph separators, marks that change the direction of writing, the byte order mark.
_CONTROL = r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff]"
WHITE = (
    " \t\r\n\x0b\x0c\x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000\ufeff"
)
"""Characters that are stripped from both ends of a field: all white space, and the byte order mark."""

_REPLACEMENTS = (
    (r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]", ""),  # OSC and CSI sequences of ECMA-48
    (r" *[\t-\r\x1c-\x1e\x85\u2028\u2029][\t-\r\x1c-\x1e\x85\u2028\u2029 ]*", " "),
    (_CONTROL, ""),
)

_ENTITY = r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});"


def without_entities(column: pl.Series) -> pl.Series:
    """The String column with `&` for `&amp;` and so on, if most of its ampersands begin such an entity of HTML.

    Where they do not, as in `Q & A`, `&amp;` is part of a text about HTML.
    """
    if not column.str.contains("&", literal=True).any():
        return column
    ampersands, entities = (int(column.str.count_matches(what).sum()) for what in ("&", _ENTITY))
    if 2 * entities <= ampersands:
        return column
    rows = column.str.contains(_ENTITY).fill_null(False).arg_true()
    plain = [re.sub(_ENTITY, lambda found: _character(found[0]), text) for text in column[rows]]
    return column.scatter(rows, plain)


def _character(entity: str) -> str:
    return html.unescape(entity) if entity[1] == "#" or entity[1:] in html5 else entity


def fold(text: str) -> str:
    """The text on one line; text without control characters is unchanged."""
    if not re.search(_CONTROL, text):
        return text
    for pattern, replacement in _REPLACEMENTS:
        text = re.sub(pattern, replacement, text)
    return text.strip(" ")


def folded(column: pl.Expr) -> pl.Expr:
    """`fold` for a String column."""
    one_line = column
    for pattern, replacement in _REPLACEMENTS:
        one_line = one_line.str.replace_all(pattern, replacement)
    return pl.when(column.str.contains(_CONTROL)).then(one_line.str.strip_chars(" ")).otherwise(column).name.keep()


def is_shown(column: pl.Expr) -> pl.Expr:
    """Whether a String column has a visible character, one that is not white space or of no width; False for null."""
    return column.str.contains(r"[^\s\p{Cc}\p{Cf}]").fill_null(False)
