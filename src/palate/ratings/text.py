"""Put text on one line: line breaks become spaces, escape sequences and other control characters are removed."""

import re

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
