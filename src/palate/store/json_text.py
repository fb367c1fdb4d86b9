"""Read JSON that other programs wrote, and reject what JSON allows but no program writes on purpose."""

import json
import re
from typing import Any, NoReturn

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class Decoder(json.JSONDecoder):
    """Python's decoder with one exception for all errors: `JSONDecodeError`, which has the line.

    It rejects a duplicate key in an object (Python keeps the last), an unpaired surrogate, NaN and Infinity, a number
    with more digits than Python converts, and values that are nested too deeply.
    """

    def __init__(self) -> None:
        super().__init__(object_pairs_hook=_unique, parse_constant=_reject_constant)

    def raw_decode(self, s: str, idx: int = 0) -> tuple[Any, int]:
        """The value that begins at character `idx`, and the index of its end."""
        try:
            value, end = super().raw_decode(s, idx)
            if _SURROGATE.search(s, idx, end):
                json.dumps(value, ensure_ascii=False).encode()
        except json.JSONDecodeError:
            raise
        except UnicodeEncodeError:
            problem = "half of a surrogate pair, expected both halves"
        except RecursionError:
            problem = "nested too deeply"
        except ValueError as error:
            problem = "a number of thousands of digits" if "int_max_str_digits" in str(error) else str(error)
        else:
            return value, end
        raise json.JSONDecodeError(problem, s, idx)


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; raises `ValueError` for a duplicate key."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        duplicate = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object has the key {duplicate!r} twice")
    return found
