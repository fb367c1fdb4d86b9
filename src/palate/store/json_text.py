"""JSON of others: read, or refused at the place of what JSON allows and nobody means."""

import json
import re
from typing import Any, NoReturn

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class Decoder(json.JSONDecoder):
    """Python's decoder, with one exception for all faults: `JSONDecodeError`, which knows the line.

    Refuses a key that stands twice in an object, where Python keeps the last; half of a surrogate pair, which is no
    text; NaN and Infinity; a number of more digits than Python converts; and what is nested too deeply.
    """

    def __init__(self) -> None:
        super().__init__(object_pairs_hook=_once, parse_constant=_no_number)

    def raw_decode(self, s: str, idx: int = 0) -> tuple[Any, int]:
        """The value that begins at a character, and where it ends."""
        try:
            value, end = super().raw_decode(s, idx)
            if _SURROGATE.search(s, idx, end):
                json.dumps(value, ensure_ascii=False).encode()
        except json.JSONDecodeError:
            raise
        except UnicodeEncodeError:
            problem = "half of a surrogate pair, which is no text"
        except RecursionError:
            problem = "nested too deeply"
        except ValueError as error:
            problem = "a number of thousands of digits" if "int_max_str_digits" in str(error) else str(error)
        else:
            return value, end
        raise json.JSONDecodeError(problem, s, idx)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; raises `ValueError` for a key that stands twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice in an object")
    return found
